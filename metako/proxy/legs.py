"""Connections of our own to servers: opening one, and what an open one is.

    route known ── Dial: connect, converse ──► Leg ── closed by its owner, or cut by the board

A *leg* is one connection to one server, on which somebody is logged in or is about to be. How the
first words go is the business of an `Opening`: a login of our own (`serverlogin`), or a startup
packet that is passed on (`passing`).

In: the board's routes, an opening, and how long to try. Out: a leg, the server's refusal for the
client, or why no server could be had in time. What may pass by itself (a server that starts, stops
or is full; a connection that breaks) is tried again with the newest route; another route ends the
pause between two attempts.

Invariant: whatever has a socket to a server is known to the board, from before the socket is
connected until it is closed, so that `Board.receive_table` can close it. A leg takes the place of
its dial without a checkpoint in between, and only while its route is the one to take.

Deliberately unknown here: clients. A pool can keep legs when their owners are done with them.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from metako.pgwire.login_client import Refusal, ServerReady
from metako.pgwire.startup import TERMINATE, PgWireError
from metako.proxy import sockets
from metako.proxy.routes import Route

if TYPE_CHECKING:
    from metako.proxy.board import Board

CONNECT_TIMEOUT_S = 2.0
RETRY_PAUSE_MIN_S = 0.05
RETRY_PAUSE_MAX_S = 0.5

_CHANGED = "the primary changed or its table expired while connecting"


@dataclass(frozen=True, slots=True)
class Failure:
    """There is no leg, but there may be one later."""

    reason: str
    error: bytes = b""  # what the server said, if the client is to be told just that at last


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no leg, and trying again would not help."""

    error: bytes  # the server's last word, for the client
    message: str  # the sentence in it
    reason: Refusal


@dataclass(frozen=True, slots=True)
class Opened:
    """What the first words on a connection came to."""

    said: bytes  # by the server, and not looked at yet
    ready: ServerReady | None = None  # None if the login is the client's own business


class Opening(Protocol):
    """The first words on a new connection."""

    async def converse(self, server: socket.socket, where: str) -> Opened | Refused | Failure:
        """Say and hear them. Sets its own deadlines; closes nothing. Raises `sockets.BROKEN`,
        `PgWireError` and `trio.TooSlowError`. If cancelled, the connection is of no use.

        Args:
            where: names the server in what a person reads.
        """


@dataclass(eq=False, slots=True)
class Leg:
    """An open connection. Its socket is closed by `close`, `abort` and `cut` alone."""

    board: Board = field(repr=False)
    sock: socket.socket = field(repr=False)
    route: Route
    said: bytes = field(repr=False)  # by the server, not yet delivered
    ready: ServerReady | None  # None if the login is the client's own business
    # Called by `cut`, while the socket is still open: whoever uses it has to let go of it.
    on_cut: Callable[[], None] | None = None
    closed: bool = False

    def cut(self) -> None:
        """Close, because the route is deposed: nothing that is on its way to the server leaves."""
        if self.on_cut is not None:
            self.on_cut()
        self.abort()

    def abort(self) -> None:
        """Close with a reset; see `sockets.abort`. Harmless if closed."""
        if self._leave():
            sockets.abort(self.sock)

    def close(self, *, goodbye: bool = False) -> None:
        """Close; what was sent before still arrives, and Terminate behind it if `goodbye`."""
        if self._leave():
            if goodbye:
                with contextlib.suppress(OSError):
                    self.sock.send(TERMINATE)
            sockets.close(self.sock)

    def _leave(self) -> bool:
        first, self.closed, self.on_cut = not self.closed, True, None
        self.board.release(self)
        return first


class _Dial:
    """One attempt to reach one server."""

    def __init__(self, board: Board, route: Route) -> None:
        self.route = route
        self._board = board
        self._scope = trio.CancelScope()
        self._sock: socket.socket | None = None  # None before it is connected and after a cut

    def cut(self) -> None:
        self._close()
        self._scope.cancel()

    async def run(self, opening: Opening) -> Leg | Refused | Failure:
        """Return what came of it. If cancelled, or without a leg, nothing is left open."""
        found: Opened | Refused | Failure = Failure(_CHANGED)
        board = self._board
        board.hold(self)
        try:
            with self._scope:
                async with board.connecting:
                    with board.links.reactor.attentive():
                        found = await self._connect_and_converse(opening)
            if isinstance(found, Failure):
                return found
            # From here to the leg nothing waits.
            if self._sock is None or board.current() != self.route:
                return Failure(_CHANGED)
            if isinstance(found, Refused):
                return found
            leg = Leg(board, self._sock, self.route, found.said, found.ready)
            board.hold(leg)
            self._sock = None
            return leg
        finally:
            board.release(self)
            self._close()

    async def _connect_and_converse(self, opening: Opening) -> Opened | Refused | Failure:
        address = self.route.address
        where = f"{self.route.node} at {address}"
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                self._sock = await sockets.connect(address)
        except trio.TooSlowError:
            return Failure(f"{where} did not accept the connection in {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            return Failure(f"{where}: {error.strerror or error}")
        if self._board.current() != self.route:
            return Failure(_CHANGED)
        try:
            return await opening.converse(self._sock, where)
        except PgWireError as error:
            return Failure(f"{where}: {error}")
        except sockets.BROKEN as error:
            return Failure(f"{where} closed the connection: {error}")

    def _close(self) -> None:
        if self._sock is not None:
            sockets.abort(self._sock)
            self._sock = None


class Legs:
    """Opens legs to the primary. This is where a pool of used ones belongs."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def open(self, opening: Opening, patience: trio.CancelScope) -> Leg | Refused | Failure:
        """Try the newest route until one answers, or for as long as `patience` lasts.

        If cancelled, nothing is left open.

        Args:
            patience: entered here. Its deadline may be moved meanwhile; as long as it is infinite
                nobody waits for the leg, so it is not worth a word that there is none.
        """
        failure = Failure("no primary is known")
        pause_s = RETRY_PAUSE_MIN_S
        board = self._board
        with patience:
            while True:
                route = board.current()
                if route is None:
                    if board.refuses() and patience.deadline != math.inf:
                        return Failure("the agent of this node is gone")
                    await board.wait_change()
                    continue
                found = await _Dial(board, route).run(opening)
                if not isinstance(found, Failure):
                    return found
                failure = found
                # Another route ends the pause: it deserves a prompt first try.
                with trio.move_on_after(pause_s) as pause:
                    await board.wait_change()
                again_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)
                pause_s = again_s if pause.cancelled_caught else RETRY_PAUSE_MIN_S
        return failure
