"""Let a client log in to us, as it would to a server.

In: the client's connection and its startup packet, and what its role may log in with. Out: the keys
that its login yields, or the refusal that is to be its last message.

Nothing is read beyond the client's last word of the login: what follows stays in the kernel, or in
what decrypts, for the relay. So a message is read in two parts, its header first, whose length
`LoginServer` checks before any of the body is asked for.

Deliberately unknown here: which roles exist, and servers.
"""

from __future__ import annotations

import secrets

from metako.pgwire import startup as pg
from metako.pgwire.keys import MD5_SALT_BYTES
from metako.pgwire.login_server import (
    Credential,
    LoggedIn,
    LoginInputs,
    LoginRefused,
    LoginServer,
)
from metako.pgwire.negotiation import Negotiation
from metako.proxy import sockets
from metako.proxy.console import DATABASE
from metako.proxy.credentials import Asking
from metako.proxy.tls import TlsTransport
from metako.proxy.who import Who

NONCE_BYTES = 18  # as PostgreSQL draws
_LENGTH_BYTES = 4  # a length counts itself
# What PostgreSQL reads as false. Anything else asks for replication, if it is legal at all.
_NO_REPLICATION = frozenset({"", "0", "off", "of", "no", "n", "false", "fals", "fal", "fa", "f"})


def asking_of(first: pg.Startup, client: sockets.Connection, *, certifies: bool = False) -> Asking:
    """Return who asks for what, by PostgreSQL's rules for a startup packet.

    Args:
        certifies: clients on TLS are asked for a certificate.
    """
    user = first.parameter("user") or ""
    tls = client if isinstance(client, TlsTransport) else None
    peer = sockets.below(client).getpeername()
    return Asking(
        user=user,
        database=first.parameter("database") or user,
        address=_address(peer),
        tls=tls is not None,
        replication=replicates(first) and first.parameter("replication") != "database",
        port=peer[1],
        certifies=certifies,
        certified=tls is not None and tls.certified,
        common_name=None if tls is None else tls.common_name(),
    )


def who_asks(first: pg.Startup, asking: Asking, number: int, now: float) -> Who:
    """Return who the client of session `number` says it is."""
    return Who(
        number=number,
        user=asking.user,
        database=asking.database,
        application=first.parameter("application_name") or "",
        address=asking.address,
        port=asking.port,
        tls=asking.tls,
        since=now,
    )


def wants_console(first: pg.Startup) -> bool:
    """Return whether a client asks for the console in place of a server."""
    return first.parameter("database") == DATABASE and not replicates(first)


def replicates(first: pg.Startup) -> bool:
    """Return whether a client asks for a replication connection, of either kind."""
    return (first.parameter("replication") or "").lower() not in _NO_REPLICATION


def _address(peer: tuple[str, ...]) -> str:
    # A scope, as of a link-local address, is no part of what rules are compared with.
    return peer[0].partition("%")[0]


async def log_client_in(
    client: sockets.Connection,
    user: str,
    credential: Credential,
    spoken: Negotiation,
    *,
    binding: bytes | None = None,
) -> tuple[bytes, LoggedIn | LoginRefused | None]:
    """Return the verdict on a client, and what it is to be told with that.

    Neither the refusal nor the words that grant the login were sent yet: as PostgreSQL does, they
    go out with what follows. No verdict: it left before there was one. The caller sets the
    deadline. If cancelled, the client's connection is of no further use. Raises one of
    `sockets.BROKEN`.

    Args:
        binding: of the certificate that the client was shown; None: it cannot bind its login.
    """
    nonce, salt = secrets.token_bytes(NONCE_BYTES), secrets.token_bytes(MD5_SALT_BYTES)
    inputs = LoginInputs(nonce, salt, binding)
    login = LoginServer(user, credential, inputs)
    step = login.start()
    said = spoken.message + step.send
    while step.outcome is None:
        await sockets.send_all(client, said)
        header = await sockets.receive_exactly(client, pg.MESSAGE_HEADER_BYTES)
        if len(header) < pg.MESSAGE_HEADER_BYTES:
            return b"", None
        step = login.receive_untrusted(header)
        # The length was found to be within the limits, or there is an outcome.
        rest = int.from_bytes(header[1:], "big") - _LENGTH_BYTES
        if step.outcome is None and rest:
            body = await sockets.receive_exactly(client, rest)
            if len(body) < rest:
                return b"", None
            step = login.receive_untrusted(body)
        said = step.send
    return said, step.outcome
