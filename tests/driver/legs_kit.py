"""Servers and clients for a proxy that logs clients in itself and keeps them.

A `LegServer` logs in whom it knows, by trust or SCRAM, and stops at any step of it when told to.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

import trio
from proxy_kit import DEADLINE_S, Client, FakeServer, Proxy, eventually, message

from metako.pgwire import startup as pg
from metako.pgwire.keys import ClientKey, ScramKeys
from metako.pgwire.login_client import ConnectStep, LoginClient, ServerReady, ServerRefused
from metako.pgwire.login_server import (
    Credential,
    LoggedIn,
    LoginInputs,
    LoginServer,
    ScramLogin,
    TrustLogin,
)
from metako.pgwire.messages import (
    BackendKey,
    TransactionStatus,
    backend_key_data,
    parameter_status,
    ready_for_query,
)
from metako.pgwire.negotiation import negotiate
from metako.pgwire.verifier import ScramVerifier
from metako.proxy.credentials import Asking
from metako.proxy.frames import Stats

PASSWORD = "a secret"
SALT = b"0123456789abcdef"
ITERATIONS = 16  # few, as nobody is to be kept from guessing this one
SHUTDOWN = pg.error_response("57P01", "terminating connection due to administrator command")
QUERY = message(b"Q", b"select 1\0")
STEPS = ("startup", "request", "challenge", "granted", "settings")


def keys_for(password: str) -> tuple[ScramKeys, ScramVerifier]:
    """Return what a client has and what a server stores for a password."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, ITERATIONS)
    client_key = ClientKey(hmac.digest(salted, b"Client Key", "sha256"))
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    verifier = ScramVerifier(ITERATIONS, SALT, client_key.stored_key(), server_key)
    return ScramKeys(client_key, server_key), verifier


class Known:
    """A `CredentialSource` that knows some users, and leaves all others to the server."""

    def __init__(self, **credentials: Credential) -> None:
        self.credentials = credentials
        self.asked: list[Asking] = []
        self.forgotten: list[str] = []
        self.hold: trio.Event | None = None  # wait for this before an answer

    async def credential(self, asking: Asking) -> Credential | None:
        self.asked.append(asking)
        if self.hold is not None:
            await self.hold.wait()
        return self.credentials.get(asking.user)

    def trusts(self, asking: Asking) -> bool:
        return self.hold is None and self.credentials.get(asking.user) == TrustLogin()

    def forget(self, user: str) -> None:
        self.forgotten.append(user)


def anna_by_trust() -> Known:
    return Known(anna=TrustLogin())


def anna_by_scram() -> Known:
    return Known(anna=ScramLogin(keys_for(PASSWORD)[1]))


@dataclass
class LegServer(FakeServer):
    """See the module's docstring."""

    credential: Credential = field(default_factory=TrustLogin)
    settings: dict[str, str] = field(default_factory=lambda: {"TimeZone": "UTC"})
    key: BackendKey = field(default_factory=lambda: BackendKey(7, b"\0\0\0c"))
    binding: bytes | None = None  # that a login may be bound to
    notices: bytes = b""  # said before the end of a login
    stop_at: str = ""  # one of STEPS: the login goes no further
    stopped: int = 0  # logins that were stopped
    streams: list[trio.SocketStream] = field(default_factory=list)  # of sessions, also ended ones
    startups: list[pg.Startup] = field(default_factory=list)
    at_once: int = 0  # logins that are under way
    at_once_most: int = 0

    async def log_in(self, stream: trio.SocketStream, first: pg.FirstPacket) -> bool:
        assert isinstance(first, pg.Startup)
        self.startups.append(first)
        self.at_once += 1
        self.at_once_most = max(self.at_once_most, self.at_once)
        try:
            return await self._steps(stream, first)
        finally:
            self.at_once -= 1

    async def _steps(self, stream: trio.SocketStream, first: pg.Startup) -> bool:
        await self._stop("startup", stream)
        spoken = negotiate(first)
        user = first.parameter("user") or ""
        login = LoginServer(user, self.credential, LoginInputs(b"n" * 18, b"salt", self.binding))
        step = login.start()
        await stream.send_all(spoken.message + step.send)
        for name in ("request", "challenge"):
            if step.outcome is None:
                await self._stop(name, stream)
                data = await stream.receive_some(10_000)
                if not data:
                    return False
                step = login.receive_untrusted(data)
                await stream.send_all(step.send)
        if not isinstance(step.outcome, LoggedIn):
            assert step.outcome is not None
            await stream.send_all(step.outcome.error)
            return False
        await self._stop("granted", stream)
        reports = b"".join(parameter_status(*pair) for pair in self.settings.items())
        await stream.send_all(reports + backend_key_data(self.key))
        await self._stop("settings", stream)
        self.streams.append(stream)
        await stream.send_all(self.notices + ready_for_query(TransactionStatus.IDLE))
        return True

    async def _stop(self, step: str, stream: trio.SocketStream) -> None:
        if self.stop_at == step:
            self.stopped += 1
            while await stream.receive_some():
                pass
            raise trio.BrokenResourceError

    async def shut_down(self, words: bytes) -> None:
        """End all sessions as a server does that is told to stop."""
        for stream in self.streams:
            await stream.send_all(words)
            await stream.aclose()
        self.streams.clear()


async def log_in_by_scram(
    proxy: Proxy, keys: ScramKeys, *, minor: int = 0, user: str = "anna", database: str = "shop"
) -> tuple[Client, ServerReady | ServerRefused]:
    """Return a client, and what came of its login."""
    client = await proxy.connect()
    login = LoginClient(
        {"user": user, "database": database}, keys, nonce=b"c" * 18, binding=None, minor=minor
    )
    return client, await conclude(client, login)


async def conclude(client: Client, login: LoginClient) -> ServerReady | ServerRefused:
    """Return what came of a login."""
    await client.send(login.start())
    step = ConnectStep(b"")
    with trio.fail_after(DEADLINE_S):
        while step.outcome is None:
            data = await client.stream.receive_some()
            assert data, "the connection ended"
            step = login.receive_untrusted(bytes(data))
            await client.send(step.send)
    return step.outcome


def stats(proxy: Proxy) -> Stats:
    """Return what the worker has reported last."""
    return proxy.reports[-1].stats


async def switch(proxy: Proxy, term: int, server: LegServer | None) -> None:
    """Return when the worker has heard of the new primary."""
    proxy.route(term, server)
    await eventually(lambda: any(("term", term) in event.fields for event in proxy.events))


async def settled(proxy: Proxy) -> None:
    """Return when it was reported that the one session has its server."""
    await eventually(lambda: (stats(proxy).sessions, stats(proxy).waiting) == (1, 0))


async def kept(proxy: Proxy, count: int = 1) -> None:
    """Return when so many sessions have lost their server and go on."""
    await eventually(
        lambda: any(dict(event.fields).get("sessions_kept") == count for event in proxy.events)
    )


async def cancel(proxy: Proxy, process_id: int, secret_key: bytes) -> None:
    """Ask for a cancellation; return when that was acted on."""
    canceller = await proxy.connect()
    await canceller.send(pg.cancel_packet(process_id, secret_key))
    assert await canceller.at_end()
