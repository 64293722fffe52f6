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
from metako.proxy.session import Session

ACCEPT_PAUSE_S = 0.1  # after running out of descriptors or memory
ACCEPT_ROUNDS_MAX = 64  # connections taken in a row before others get a turn

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def accept_clients(listener: socket.socket, board: Board, sessions: trio.Nursery) -> None:
    """Start a session in `sessions` for each client that comes, until cancelled."""
    blocked = False  # reported once, not ten times a second
    while True:
        try:
            taken = _take_waiting(listener, board, sessions)
        except OSError as error:
            if not blocked:
                detail = (("error", error.strerror or str(error)),)
                board.report(WorkerEvent("WARNING", "the proxy cannot take connections", detail))
            blocked = True
            # The backlog keeps the clients until there are descriptors again.
            await trio.sleep(ACCEPT_PAUSE_S)
        else:
            blocked = False
            if taken < ACCEPT_ROUNDS_MAX:
                await trio.lowlevel.wait_readable(listener)
            else:
                await trio.lowlevel.checkpoint()


def _take_waiting(listener: socket.socket, board: Board, sessions: trio.Nursery) -> int:
    """Start a session for each client that waits, up to `ACCEPT_ROUNDS_MAX`; return how many.

    Raises `OSError` when out of resources; those taken before are served.
    """
    for taken in range(ACCEPT_ROUNDS_MAX):
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return taken
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                raise
            continue  # this client is gone already
        try:
            client.setblocking(False)  # all else is inherited; see `sockets.listen`
        except OSError:
            client.close()
            continue
        sessions.start_soon(Session(board, client).run)
    return ACCEPT_ROUNDS_MAX


def take_rest(listeners: list[socket.socket], board: Board, sessions: trio.Nursery) -> None:
    """Close the listeners, and serve those in the backlog, who came before we stopped."""
    for listener in listeners:
        with contextlib.suppress(OSError):
            _take_waiting(listener, board, sessions)
        sockets.close(listener)


def close_listeners(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        sockets.close(listener)
