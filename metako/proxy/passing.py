"""Pass a client's startup packet on: its login is then between the client and the server.

For clients whom only the server can judge. What the server says at first is looked at, for until
then the client has seen nothing of that server, so a server that takes nobody yet can be tried
again. From the second message on the session is that server's, and ends with it.

Deliberately unknown here: authentication.
"""

from __future__ import annotations

import socket

import trio

from metako.pgwire import startup as pg
from metako.pgwire.startup import SqlState
from metako.proxy import sockets
from metako.proxy.legs import Failure, Opened, Refused

# From the startup packet to the first answer. The server forks a backend and may look up our name;
# a server that is frozen accepts connections in its kernel and then says nothing.
FIRST_MESSAGE_TIMEOUT_S = 5.0


class PassOn:
    """See the module's docstring. An `Opening`."""

    def __init__(self, first: pg.Startup) -> None:
        self._packet = first.packet

    async def converse(self, server: socket.socket, where: str) -> Opened | Refused | Failure:
        """Send the packet and return the first bytes of the server; see `Opening`."""
        with trio.move_on_after(FIRST_MESSAGE_TIMEOUT_S):
            await sockets.send_all(server, self._packet)
            return await _first_answer(server, where)
        return Failure(f"{where} said nothing for {FIRST_MESSAGE_TIMEOUT_S:g} s")


async def _first_answer(server: socket.socket, where: str) -> Opened | Failure:
    """Return the first bytes of the server unless they say that it takes nobody yet."""
    header = await sockets.receive_exactly(server, pg.MESSAGE_HEADER_BYTES)
    if len(header) < pg.MESSAGE_HEADER_BYTES:
        return Failure(f"{where} closed the connection before it said anything")
    kind, length = pg.message_header_untrusted(header)
    if kind != b"E":
        return Opened(header)
    body = await sockets.receive_exactly(server, length)
    fields = pg.parse_error_untrusted(body)
    if fields.get("C") == SqlState.CANNOT_CONNECT_NOW:
        return Failure(f"{where}: {fields.get('M', '')}")
    return Opened(header + body)
