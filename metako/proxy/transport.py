"""What a link uses of a connection, what all links of a worker share, and how a link ends.

This is where encryption goes: an object that decrypts in `recv_into` and encrypts in `send`, on the
descriptor of the TCP connection below it, can take the place of a socket. One that keeps decrypted
bytes back must hand them out in full whenever it is called, since the kernel tells of new bytes
only. What it got before anybody listened is told by `held`.

Deliberately unknown here: who talks to whom, and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import enum
import socket
from dataclasses import dataclass
from typing import Protocol

from metako.pgwire.follow import following_client_layouts, following_server_layouts
from metako.pgwire.scan import client_layouts, server_layouts
from metako.pgwire.startup import TERMINATE
from metako.pgwire.tally import Tally
from metako.proxy.concern import concerns
from metako.proxy.reactor import Reactor

SCRATCH_BYTES = 65_536  # read at a time
BULK_BYTES = 8 * SCRATCH_BYTES  # the same, in the middle of a large answer
KEPT_BYTES_MAX = 4096  # of a view of the buffer that is kept
KEPT_MAX = 1024  # they take 200 KiB


class Transport(Protocol):
    """A connection that never waits. A non-blocking `socket.socket` is one."""

    def fileno(self) -> int:
        """Return the descriptor that the reactor watches."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Return how many bytes were read, 0 at the end. Raises BlockingIOError, OSError."""

    def recv(self, size: int, flags: int, /) -> bytes:
        """Return what there is to read; with MSG_PEEK it stays there. Raises as `recv_into`."""

    def send(self, data: memoryview, /) -> int:
        """Return how many bytes were taken, at least one. Raises BlockingIOError, OSError."""

    def shutdown(self, how: int, /) -> None:
        """Tell the peer that nothing more will be sent. Raises OSError."""


def held(transport: Transport) -> bool:
    """Return whether there is something to be read that the kernel does not tell of."""
    return not isinstance(transport, socket.socket) and bool(getattr(transport, "held", False))


def speaks(transport: Transport) -> bool:
    """Return whether the peer has said something, or is gone. Nothing is read.

    Of an encrypted connection the kernel tells also when there is nothing for us in it.
    """
    try:
        transport.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def hung_up(transport: Transport) -> bool:
    """Return whether the peer is gone, and left nothing to be read."""
    try:
        return not transport.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def leaving(transport: Transport) -> bool:
    """Return whether a client that was at rest says goodbye next. Nothing is read."""
    try:
        return transport.recv(len(TERMINATE), socket.MSG_PEEK) == TERMINATE
    except OSError:
        return False


def shut(transport: Transport) -> None:
    """Tell the peer that nothing more comes. If it is gone already, reading from it will tell."""
    with contextlib.suppress(OSError):
        transport.shutdown(socket.SHUT_WR)


class Ended(enum.Enum):
    """Why a link ended."""

    SERVER = "the server ended, or its connection broke"
    CLIENT = "the client is gone"
    GOODBYE = "the client sent Terminate, which was not passed on, and is owed nothing"
    CLIENT_VIOLATION = "the client broke the protocol"
    SERVER_VIOLATION = "the server broke the protocol"
    CLOSED = "the link was closed"
    DEPARTED = "the session goes on in another process"
    FAILED = "an unexpected exception was raised"


@dataclass(slots=True)
class Meter:
    """What is counted over all links of a worker, such as bytes that were delivered."""

    count: int = 0


class Parts(dict[int, memoryview]):
    """The beginnings of a buffer, by their sizes.

    Small ones are kept: making one costs as much as a tenth of a system call.
    """

    def __init__(self, view: memoryview) -> None:
        super().__init__()
        self._view = view

    def __missing__(self, size: int) -> memoryview:
        part = self._view[:size]
        if size <= KEPT_BYTES_MAX and len(self) < KEPT_MAX:
            self[size] = part
        return part


class LinkContext:
    """What all links of one worker share.

    The buffer needs no owner: between filling it and handing it to the kernel nothing waits.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.buffer = bytearray(BULK_BYTES)
        self.bulk_view = memoryview(self.buffer)
        self.view = self.bulk_view[:SCRATCH_BYTES]
        self.parts = Parts(self.bulk_view)
        self.client_layouts = client_layouts()
        self.tally = Tally()  # reads and writes, of all sessions
        self.server_layouts = server_layouts(self.tally)
        self.followed_clients = following_client_layouts(concerns)
        self.followed_servers = following_server_layouts(self.tally)
        self.up = Meter()  # from clients to servers
        self.down = Meter()
        self.failed = Meter()  # errors of servers, of the sessions that are followed
