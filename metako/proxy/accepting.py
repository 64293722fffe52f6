"""Take clients from the listening sockets of a worker.

Deliberately unknown here: what becomes of a client.
"""

from __future__ import annotations

import contextlib
import errno
import socket

import trio

from metako.proxy import sockets
from metako.proxy.board import Board
from metako.proxy.frames import WorkerEvent
from metako.proxy.newcomer import Newcomer
from metako.proxy.reactor import READ
from metako.proxy.session import Start

ACCEPT_PAUSE_S = 0.1  # after running out of descriptors or memory
ACCEPT_ROUNDS_MAX = 64  # connections taken in a row before others get a turn

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def accept_clients(listener: socket.socket, board: Board, start: Start) -> None:
    """Let each client in that comes, until cancelled.

    In the reactor: a task would have to wait for its turn behind those who are served there.

    Args:
        start: starts the task of a session that needs one.
    """
    reactor = board.links.reactor
    failed = trio.Event()
    reason = ""
    blocked = False  # reported once, not ten times a second

    def take(_events: int) -> None:
        nonlocal reason, blocked
        try:
            _take_waiting(listener, board, start)
            blocked = False
        except OSError as error:
            reason = error.strerror or str(error)
            reactor.watch(listener.fileno(), 0, take)
            failed.set()
            reactor.hurry()

    try:
        while True:
            reactor.watch(listener.fileno(), READ, take)
            await failed.wait()
            failed = trio.Event()
            if not blocked:
                detail = (("error", reason),)
                board.report(WorkerEvent("WARNING", "the proxy cannot take connections", detail))
            blocked = True
            # The backlog keeps the clients until there are descriptors again.
            await trio.sleep(ACCEPT_PAUSE_S)
    finally:
        reactor.watch(listener.fileno(), 0, take)


def _take_waiting(listener: socket.socket, board: Board, start: Start) -> None:
    """Let in those clients that wait, up to `ACCEPT_ROUNDS_MAX`.

    Raises `OSError` when out of resources; those taken before are served.
    """
    for _ in range(ACCEPT_ROUNDS_MAX):
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                raise
            continue  # this client is gone already
        board.total += 1
        try:
            client.setblocking(False)  # all else is inherited; see `sockets.listen`
        except OSError:
            client.close()
        else:
            Newcomer(board, client, start).begin()


def take_rest(listeners: list[socket.socket], board: Board, start: Start) -> None:
    """Close the listeners, and serve those in the backlog, who came before we stopped."""
    for listener in listeners:
        with contextlib.suppress(OSError):
            _take_waiting(listener, board, start)
        sockets.close(listener)
