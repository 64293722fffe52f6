"""When a client that has lost its server is given the next one.

At once if the client has something to say: it waits for the answer then, as a new session would,
and no longer than the queue timeout. Else when its turn comes: the clients that say nothing are
moved a few at a time (`MOVES_UNASKED_MAX`), so that most of them find a server when they speak,
and a thousand of them do not all log in in the instant of a failover. Nobody waits then, so there
is no hurry and no deadline.

A server that ended by itself is not gone back to unasked, only if the client speaks. It may be
about to stop, or an administrator has ended the sessions to be alone, as DROP DATABASE has to be.

Deliberately unknown here: whether a session can be moved, and how.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from metako.proxy.routes import Route

if TYPE_CHECKING:
    from metako.proxy.board import Board
    from metako.proxy.legs import Leg


class Turn:
    """One client's wait for its next server, or for its first, for which it always asks. For once.

    Args:
        lost: the server that it had; None before the first.
        held: the connection that it still has, and goes on with if nothing happens to that.
        moves: its session has to be rebuilt; of itself so if it has lost a server.
    """

    __slots__ = (
        *("_board", "_placed", "_until_asked", "asked_at", "held", "held_for"),
        *("lost", "moves", "patience"),
    )

    def __init__(
        self, board: Board, lost: Route | None, *, held: Leg | None = None, moves: bool = False
    ) -> None:
        self.lost = lost
        self.moves = moves or lost is not None
        self.held = held
        self.asked_at: float | None = None  # since when the client waits; None if it does not
        self.patience = trio.CancelScope()  # ends when it has waited for too long
        self.held_for = trio.CancelScope()  # the same, while no transaction may begin
        self._board = board
        self._until_asked = trio.CancelScope()
        self._placed = False  # has a place among those that are moved unasked

    def ask(self) -> None:
        """Note that the client waits from now on. Synchronous, for the reactor."""
        self.asked_at = trio.current_time()
        self.patience.deadline = self.asked_at + self._board.queue_timeout_s
        self.held_for.deadline = self.patience.deadline
        self._until_asked.cancel()

    def lose(self) -> None:
        """Note that the connection which was held is gone."""
        if self.held is not None:
            self.lost, self.held, self.moves = self.held.route, None, True

    def again(self) -> Turn:
        """Return the wait of the same client for another server, as the one that it got is gone."""
        turn = Turn(self._board, self.lost, moves=self.moves)
        if self.patience.deadline != math.inf:
            turn.ask()
            turn.asked_at = self.asked_at
            turn.patience.deadline = turn.held_for.deadline = self.patience.deadline
        return turn

    async def wait(self) -> None:
        """Return when a server is to be looked for. If cancelled, `end` has to be called too."""
        board = self._board
        with self._until_asked:
            while board.current() in (None, self.lost):
                await board.wait_change()
            await board.moving_unasked.acquire()
            self._placed = True

    def end(self) -> None:
        """Make room for the next client. Harmless if repeated."""
        if self._placed:
            self._placed = False
            self._board.moving_unasked.release()
