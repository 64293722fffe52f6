"""A link between two socket pairs, in a reactor that runs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trio
from scan_kit import message

from metako.pgwire.stream import Note
from metako.proxy import sockets
from metako.proxy.link import Link
from metako.proxy.reactor import Reactor
from metako.proxy.transport import LinkContext

DEADLINE_S = 5.0
READY = message("Z", b"I")
LOGIN = message("R", b"\0\0\0\0") + message("K", b"\0\0\0\1\0\0\0\2") + READY
QUERY = message("Q", b"select 1\0")
CHANGE = message("Q", b"set a = 1\0")  # of which whoever follows the session is told
ANSWER = message("D", b"\0\1\0\0\0\1" + b"1") + message("C", b"SELECT 1\0") + READY
EXTENDED = message("B", b"\0a\0\0\0\0\0\0\0") + message("E", b"\0\0\0\0\0")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(False)
    return near, far


@dataclass
class End:
    """The far end of a connection: what the client or the server itself holds."""

    sock: socket.socket

    async def send(self, data: bytes) -> None:
        await sockets.send_all(self.sock, data)

    async def receive(self, expected: bytes) -> None:
        """Receive exactly `expected`."""
        assert await sockets.receive_exactly(self.sock, len(expected)) == expected

    async def at_end(self) -> bool:
        return await sockets.receive_some(self.sock) == b""

    def silent(self) -> bool:
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b"never"
        except BlockingIOError:
            return True

    def close(self) -> None:
        sockets.close(self.sock)

    def abort(self) -> None:
        sockets.abort(self.sock)


class Rig:
    """Makes links; `notes` and `woken` are what the hooks of the last one were told."""

    def __init__(self, context: LinkContext, errors: list[Exception]) -> None:
        self.context = context
        self.errors = errors
        self.notes: list[tuple[Note, bool]] = []
        self.woken = 0
        self.lost = 0
        self.keeps: bool | None = None  # what `on_lost` answers; None: it is not asked
        self.follows = True  # whether the next link has hooks for notes
        self.sockets: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, End]:
        near, far = tcp_pair()
        self.sockets += (near, far)
        return near, End(far)

    def link(self) -> tuple[Link, End]:
        near, far = self.pair()

        def wake() -> None:
            self.woken += 1

        def note(found: Note, from_client: bool) -> None:
            self.notes.append((found, from_client))

        def lose(words: bytes) -> bytes | None:
            self.lost += 1
            return None if self.keeps else words

        on_lost = None if self.keeps is None else lose
        on_note = note if self.follows else None
        return Link(self.context, near, on_data=wake, on_lost=on_lost, on_note=on_note), far

    async def relaying(self) -> Joined:
        """Return a link over which a client has logged in."""
        link, client = self.link()
        near, server = self.pair()
        link.attach(near, LOGIN[:5], logging_in=True)
        await server.send(LOGIN[5:])
        await client.receive(LOGIN)
        self.notes.clear()
        return Joined(link, client, server, near)


@dataclass
class Joined:
    link: Link
    client: End
    server: End
    near: socket.socket = field(repr=False)  # our end of the connection to the server


@contextlib.asynccontextmanager
async def rig(*, keeps: bool | None = None) -> AsyncIterator[Rig]:
    errors: list[Exception] = []
    reactor = Reactor(errors.append)
    made = Rig(LinkContext(reactor), errors)
    made.keeps = keeps
    try:
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reactor.run)
                yield made
                nursery.cancel_scope.cancel()
    finally:
        reactor.close()
        for sock in made.sockets:
            sockets.close(sock)
