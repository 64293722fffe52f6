"""A server with roles of every kind, and a proxy that ends a client's login and makes its own.

The proxy is as small as one can be: it passes everything on once both logins have succeeded. It
knows of a role what `pg_authid` says, and never a password.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import trio

from certificates import write_certificate
from metako.demo.prepare import ensure_os_user, make_directory
from metako.pgwire import startup as pg
from metako.pgwire.binding import channel_binding_data
from metako.pgwire.keys import Md5Hash
from metako.pgwire.login_client import ConnectStep, LoginClient, ServerReady, ServerRefused
from metako.pgwire.login_server import (
    Credential,
    LoggedIn,
    LoginInputs,
    LoginServer,
    Md5Login,
    ScramLogin,
    TrustLogin,
)
from metako.pgwire.messages import BackendKey, backend_key_data, parameter_status, ready_for_query
from metako.pgwire.messages import TransactionStatus as Status
from metako.pgwire.negotiation import negotiate
from metako.pgwire.verifier import verifier_of
from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user

START_TIMEOUT_S = 30.0
PIECE_BYTES = 1 << 16
PASSWORD = "a secret"
MOCK_SECRET = b"a secret of the tests"

# name, how the server's pg_hba.conf asks, what is stored
ROLES = (
    ("anna", "scram-sha-256", "scram-sha-256"),
    ("olga", "md5", "md5"),
    ("tina", "trust", "scram-sha-256"),
    ("clara", "password", "scram-sha-256"),
    ("rita", "reject", "scram-sha-256"),
)


@dataclass
class RealServer:
    """A running server; `port` speaks TLS to those who ask for it."""

    port: int
    socket_dir: Path
    certificate: Path  # PEM, with its key beside it as server.key
    psql: Path
    has_tls: bool  # some builds come without

    @property
    def superuser(self) -> str:
        """How the superuser connects, for psycopg."""
        return f"host={self.socket_dir} port={self.port} user=postgres dbname=postgres"

    def run(self, sql: str) -> list[tuple[object, ...]]:
        """Run a query as the superuser."""
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def stored(self, role: str) -> str | None:
        """Return what `pg_authid` has for a role; None if there is no such role."""
        rows = self.run(f"select rolpassword from pg_authid where rolname = '{role}'")
        return str(rows[0][0]) if rows else None


@contextmanager
def real_server(bindir: str | None, port: int, *, keep: bool) -> Iterator[RealServer]:
    """Run a server with all ROLES; nothing of it is left but its directory, if it shall be kept."""
    user = ensure_os_user(print)
    base = make_directory()
    installation = find_installation(bindir, resolve_os_user(user), base / "cache")
    if user:
        shutil.chown(base, user)
    data = base / "data"
    initdb = [installation.program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N"]
    subprocess.run(initdb, user=user, check=True, stdout=subprocess.DEVNULL)
    lines = ["local all postgres trust"]
    lines += [f"host all {name} 127.0.0.1/32 {method}" for name, method, _ in ROLES]
    lines += ["host all all 127.0.0.1/32 scram-sha-256"]
    (data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
    key_path = write_certificate(base / "server.crt")
    if user:
        shutil.chown(key_path, user)
    program = installation.program("postgres")
    library = subprocess.run(
        [program, "-D", data, "-C", "ssl_library"], user=user, check=True, capture_output=True
    )
    has_tls = library.stdout.strip() != b""
    settings = {
        "port": str(port),
        "listen_addresses": "127.0.0.1,::1",
        "unix_socket_directories": str(base),
        "ssl": "on" if has_tls else "off",
        "ssl_cert_file": str(base / "server.crt"),
        "ssl_key_file": str(base / "server.key"),
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    options = [part for pair in settings.items() for part in ("-c", "=".join(pair))]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", data, *options], user=user, stderr=log)
    server = RealServer(port, base, base / "server.crt", installation.program("psql"), has_tls)
    try:
        _wait_answer(server, process)
        for name, _, stored in ROLES:
            server.run(f"create role {name} login")
            server.run(
                f"set password_encryption = '{stored}'; alter role {name} password '{PASSWORD}'"
            )
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(START_TIMEOUT_S)
        if not keep:
            shutil.rmtree(base, ignore_errors=True)


def _wait_answer(server: RealServer, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            server.run("select 1")
        except psycopg.OperationalError:
            log = (server.socket_dir / "log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < deadline_s, log
            time.sleep(0.05)
        else:
            return


def client_context() -> ssl.SSLContext:
    """Return what takes any certificate: binding the login to it is the check."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    context.set_alpn_protocols([pg.ALPN_PROTOCOL])
    return context


# -- as a client ------------------------------------------------------------------------------


@asynccontextmanager
async def connected(port: int, *, tls: bool) -> AsyncIterator[tuple[trio.abc.Stream, bytes | None]]:
    """Connect to a server; yield the stream, and what binds a login to it."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        binding = None
        if tls:
            await stream.send_all(pg.ssl_request_packet())
            assert await stream.receive_some(1) == b"S"
            stream = trio.SSLStream(stream, client_context(), https_compatible=True)
            await stream.do_handshake()
            binding = channel_binding_data(stream.getpeercert(binary_form=True))
            assert binding is not None
        yield stream, binding


async def log_in(stream: trio.abc.Stream, client: LoginClient) -> ServerReady | ServerRefused:
    """Log in over a stream."""
    await stream.send_all(client.start())
    step = ConnectStep(b"")
    while step.outcome is None:
        data = await stream.receive_some(PIECE_BYTES)
        assert data, "the server closed the connection without a word"
        step = client.receive_untrusted(data)
        if step.send:
            await stream.send_all(step.send)
    return step.outcome


# -- as a proxy -------------------------------------------------------------------------------


class LoginProxy:
    """Ends the logins of its clients and makes its own to the server."""

    def __init__(self, server: RealServer, *, upstream_tls: bool) -> None:
        self.port = 0  # set by `serving`
        self.bindings: list[bytes | None] = []  # of each client that logged in
        self.minors: list[int] = []  # of the protocol, likewise
        self._server = server
        self._upstream_tls = upstream_tls
        self._context = server_context(server.certificate)
        der = ssl.PEM_cert_to_DER_cert(server.certificate.read_text())
        self._binding = channel_binding_data(der)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[LoginProxy]:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._serve, 0)
            self.port = listeners[0].socket.getsockname()[1]
            yield self
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._serve_client(stream)

    async def _serve_client(self, plain: trio.SocketStream) -> None:
        stream: trio.abc.Stream = plain
        binding = None
        first_byte = await plain.socket.recv(1, trio.socket.MSG_PEEK)
        if pg.begins_with_tls(first_byte):
            stream, binding = await self._start_tls(stream), self._binding
        while True:  # ends with the startup packet, which every client sends at last
            packet = await read_first_packet(stream)
            if isinstance(packet, pg.Startup):
                break
            if isinstance(packet, pg.SslRequest):
                await stream.send_all(b"S")
                stream, binding = await self._start_tls(stream), self._binding
            else:
                await stream.send_all(pg.ENCRYPTION_REFUSED)
        async with stream:
            await self._log_both_in(stream, packet, binding)

    async def _start_tls(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        await tls.do_handshake()
        return tls

    async def _log_both_in(
        self, client: trio.abc.Stream, packet: pg.Startup, binding: bytes | None
    ) -> None:
        user = packet.parameter("user")
        assert user is not None
        spoken = negotiate(packet)
        inputs = LoginInputs(os.urandom(18), os.urandom(4), binding)
        login = LoginServer(user, credential_of(self._server, user), inputs)
        step = login.start()
        await client.send_all(spoken.message + step.send)
        while step.outcome is None:
            data = await client.receive_some(PIECE_BYTES)
            if not data:
                return
            step = login.receive_untrusted(data)
            await client.send_all(step.send)
        if not isinstance(step.outcome, LoggedIn):
            await client.send_all(step.outcome.error)
            return
        self.bindings.append(binding)
        self.minors.append(spoken.minor)
        parameters = {k: v for k, v in packet.parameters if not k.startswith("_pq_.")}
        async with connected(self._server.port, tls=self._upstream_tls) as (upstream, bound):
            # The server's cancel key is passed on, so both sides have to speak the same version.
            ours = LoginClient(
                parameters,
                step.outcome.keys,
                nonce=os.urandom(18),
                binding=bound,
                minor=spoken.minor,
            )
            ready = await log_in(upstream, ours)
            assert isinstance(ready, ServerReady), ready
            reports = b"".join(parameter_status(*pair) for pair in ready.parameters.items())
            key = BackendKey(ready.process_id, ready.secret_key)
            greeting = reports + backend_key_data(key) + ready_for_query(Status.IDLE)
            await client.send_all(greeting + ours.take_rest())
            await upstream.send_all(login.take_rest())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, client, upstream, nursery.cancel_scope)
                await pump(upstream, client, nursery.cancel_scope)


async def read_first_packet(stream: trio.abc.Stream) -> pg.FirstPacket:
    data = await receive_exactly(stream, 4)
    data += await receive_exactly(stream, pg.first_packet_length_untrusted(data) - 4)
    return pg.parse_first_packet_untrusted(data)


async def receive_exactly(stream: trio.abc.Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise trio.BrokenResourceError("the client is gone")
        data += piece
    return data


async def pump(source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """Copy until one side ends, then end the other direction as well."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(PIECE_BYTES):
            await sink.send_all(data)
    scope.cancel()


def credential_of(server: RealServer, user: str) -> Credential:
    """Return what a role may log in to the proxy with; a real proxy reads its rules too."""
    if user == "tina":
        return TrustLogin()
    stored = server.stored(user)
    md5 = Md5Hash.parse(stored or "")
    if md5 is not None:
        return Md5Login(md5)
    return ScramLogin(verifier_of(stored, user=user, mock_secret=MOCK_SECRET))
