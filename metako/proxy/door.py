"""A worker's door to its siblings: the Unix socket where other workers of its node reach it.

All workers of a node share one port, so a client cannot be told to come back to a certain one; a
request to cancel, which is a connection of its own, reaches any of them.

In: cancel requests that the cluster has signed. Out: what `cancels` does with them. Only the user
of the agent can connect (`unixsocket`).

Deliberately unknown here: what a request is about.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from metako import unixsocket
from metako.pgwire import startup as pg
from metako.pgwire.startup import PgWireError
from metako.proxy import sockets
from metako.proxy.cancels import forward_cancel

if TYPE_CHECKING:
    from metako.proxy.board import Board

KNOCKS_MAX = 64  # connections at a time; others wait in the kernel
KNOCK_TIMEOUT_S = 1.0  # for the request to be said


async def keep_door(
    path: Path,
    board: Board,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Hear siblings at `path` until cancelled. Raises `OSError` before it started."""
    slots = trio.Semaphore(KNOCKS_MAX)
    with unixsocket.listening(path) as listener:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await slots.acquire()
                nursery.start_soon(_hear, await sockets.accept(listener), slots, board)


async def _hear(sibling: socket.socket, slots: trio.Semaphore, board: Board) -> None:
    try:
        with contextlib.suppress(*sockets.BROKEN, PgWireError, trio.TooSlowError):
            with trio.fail_after(KNOCK_TIMEOUT_S):
                header = await sockets.receive_exactly(sibling, 4)
                length = pg.first_packet_length_untrusted(header)
                body = await sockets.receive_exactly(sibling, length - 4)
            request = pg.parse_first_packet_untrusted(header + body)
            if isinstance(request, pg.CancelRequest):
                await forward_cancel(board, request)
    finally:
        sockets.close(sibling)
        slots.release()
