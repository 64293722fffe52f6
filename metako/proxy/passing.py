"""Pass a client's startup packet on: its login is then between the client and the server.

For clients whom only the server can judge. What the server says at first is looked at, for until
then the client has seen nothing of that server, so a server that takes nobody yet can be tried
again. From the second message on the session is that server's, and ends with it.

A SCRAM login that is passed on cannot be bound to the server's certificate: the client sees ours,
or none. So what a server on TLS offers is passed on without SCRAM-SHA-256-PLUS. A client on TLS
that could bind its login then says that it was not offered that, which the server rightly takes for
an attack. So for a client on TLS the server is asked again in clear, if that may be.

Deliberately unknown here: authentication.
"""

from __future__ import annotations

import trio

from metako.pgwire import authentication as auth
from metako.pgwire import startup as pg
from metako.pgwire.scram import MECHANISM_PLUS
from metako.pgwire.startup import SqlState
from metako.proxy import sockets
from metako.proxy.legs import Failure, Opened, Refused

# From the startup packet to the first answer. The server forks a backend and may look up our name;
# a server that is frozen accepts connections in its kernel and then says nothing.
FIRST_MESSAGE_TIMEOUT_S = 5.0


class PassOn:
    """See the module's docstring. An `Opening`.

    Args:
        binds: the client is on TLS.
        may_be_clear: what is said to the server need not be encrypted.
    """

    def __init__(
        self, first: pg.Startup, *, binds: bool = False, may_be_clear: bool = True
    ) -> None:
        self._packet = first.packet
        self._again_in_clear = binds and may_be_clear

    async def converse(self, server: sockets.Connection, where: str) -> Opened | Refused | Failure:
        """Send the packet and return the first bytes of the server; see `Opening`."""
        with trio.move_on_after(FIRST_MESSAGE_TIMEOUT_S):
            await sockets.send_all(server, self._packet)
            found = await _first_answer(server, where)
            unbound = _without_binding(found.said) if isinstance(found, Opened) else None
            if unbound is None:
                return found
            if self._again_in_clear:
                return Failure(f"{where} wants a login that only it can bind", in_clear=True)
            return Opened(unbound)
        return Failure(f"{where} said nothing for {FIRST_MESSAGE_TIMEOUT_S:g} s")


async def _first_answer(server: sockets.Connection, where: str) -> Opened | Failure:
    """Return the first bytes of the server unless they say that it takes nobody yet."""
    header = await sockets.receive_exactly(server, pg.MESSAGE_HEADER_BYTES)
    if len(header) < pg.MESSAGE_HEADER_BYTES:
        return Failure(f"{where} closed the connection before it said anything")
    kind, length = pg.message_header_untrusted(header)
    if kind not in (b"E", b"R"):
        return Opened(header)
    body = await sockets.receive_exactly(server, length)
    if kind == b"R":
        return Opened(header + body)
    fields = pg.parse_error_untrusted(body)
    if fields.get("C") == SqlState.CANNOT_CONNECT_NOW:
        return Failure(f"{where}: {fields.get('M', '')}")
    return Opened(header + body)


def _without_binding(said: bytes) -> bytes | None:
    """Return a request for a login without what binds it, None if it is no such request."""
    header, body = said[: pg.MESSAGE_HEADER_BYTES], said[pg.MESSAGE_HEADER_BYTES :]
    if header[:1] != b"R":
        return None
    request = auth.parse_authentication_untrusted(body)
    if not isinstance(request, auth.AuthenticationSasl) or MECHANISM_PLUS not in request.mechanisms:
        return None
    return auth.authentication_sasl([name for name in request.mechanisms if name != MECHANISM_PLUS])
