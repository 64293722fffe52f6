"""One client, from the end of its login to the end of its session, on one server after another.

    finding ──▶ relaying ──▶ over
       ▲           │
       ├── kept ───┤  the server is gone
       └── held ───┘  the server is there, and nobody may begin a transaction

*Finding* waits for the client's turn (`moving`) and opens a leg. *Relaying* leaves the passing of
bytes to a `Link`, which needs no task, and waits for its end. When the server goes, because its
route is deposed or by itself, the client is *kept* if that loses nothing: it is at rest, and what
its session consists of is known in full. It notices nothing then but that its next statement takes
longer, and that settings it was told of may have changed.

A session whose login was passed on cannot be kept: nobody else can log in for the client.

Invariant: the link has let go of a leg before the leg is closed, and a leg that was cut is never
joined. `end` and what the board calls on a leg are synchronous.

Deliberately unknown here: SQL, and how a client has logged in.
"""

from __future__ import annotations

from collections.abc import Callable

from metako.pgwire import startup as pg
from metako.pgwire.login_client import ServerReady
from metako.pgwire.startup import SqlState
from metako.proxy.board import Board
from metako.proxy.cancels import CancelTarget, Issued
from metako.proxy.entry import Departed, Entry, can_depart, departed
from metako.proxy.excuses import CLOSED, excuse_of, last_word
from metako.proxy.finding import find_leg
from metako.proxy.greeting import greeting
from metako.proxy.legs import Failure, Leg, Refused
from metako.proxy.link import Link
from metako.proxy.loss import (
    PASSED_ON,
    UNKNOWN,
    Keep,
    Moment,
    Outcome,
    Retry,
    Tell,
    outcome_at_rest,
    outcome_of_loss,
)
from metako.proxy.moment import moment_of
from metako.proxy.moving import Turn
from metako.proxy.recycle import give_back
from metako.proxy.routes import Route
from metako.proxy.snapshot import Snapshot
from metako.proxy.sockets import Connection
from metako.proxy.tracked import Tracked
from metako.proxy.transport import Ended, shut

_CHANGED = "the primary changed"


class Relay:
    """See the module's docstring. `run` is for the session's task.

    Args:
        kept: what is known of the session, if it began in another process.
    """

    __slots__ = (
        *("_again", "_board", "_client", "_entry", "_granted", "_issued"),
        *("_tracked", "_turn", "departed", "leg", "link"),
    )

    def __init__(
        self, board: Board, client: Connection, entry: Entry, kept: Snapshot | None = None
    ) -> None:
        self._board = board
        self._client = client
        self._entry = entry
        self._granted = b""  # what ends the client's login with us, and was not sent yet
        # What the session consists of; None if it cannot be moved anyway.
        self._tracked = Tracked(kept) if entry.movable else None
        self.link = Link(
            board.links,
            client,
            on_data=self._hear,
            on_lost=self._lose if entry.movable else None,
            on_note=None if self._tracked is None else self._tracked.note,
        )
        if kept is not None:
            self.link.know(kept.texts())
        self.leg: Leg | None = None  # None while there is no server
        self._turn: Turn | None = Turn(board, None)  # None while there is a server
        self._again = b""  # requests that the next server is to answer in place of the last one
        self._issued: Issued | None = None  # the cancel key that the client has; None without one
        self.departed: Departed | None = None  # None unless another process goes on

    @property
    def at_rest(self) -> bool:
        return self.link.at_rest

    @property
    def left(self) -> bool:
        """Whether the client has said goodbye, so that it waits for nothing."""
        return self.link.ended is Ended.GOODBYE

    # -- for who looks on -------------------------------------------------------------------

    @property
    def waits_since(self) -> float | None:
        """Since when the client waits for a server; None if it does not wait."""
        return None if self._turn is None else self._turn.asked_at

    @property
    def moment(self) -> Moment | None:
        """What is known of the session; None if it is not followed."""
        return None if self._tracked is None else moment_of(self.link, self._tracked)

    def take_over(self, leg: Leg | None, issued: Issued | None) -> bytes:
        """Go on with a session of another process; to be called before `run`.

        Return what is told to a client whose session cannot go on, b"" to all others.

        Args:
            leg: the connection that it had; None if it was lost on the way.
            issued: the cancel key that its client has.
        """
        self._issued = issued
        if leg is not None:
            self.leg = leg
            self._join(leg, Turn(self._board, None, held=leg))
            return b""
        tracked = self._tracked
        found = PASSED_ON if tracked is None else outcome_at_rest(tracked.obstacle)
        self._turn = Turn(self._board, None, moves=True)
        if isinstance(found, Tell):
            self.link.close()
            return found.message(_CHANGED)
        return b""

    def begin(self, leg: Leg, granted: bytes, on_wake: Callable[[], None]) -> None:
        """Join a used leg at once, without a task; `rest` goes on where `run` would.

        Args:
            on_wake: told once, when there is anything to do for `rest`.
        """
        self._granted, self.leg = granted, leg
        self.link.on_wake = on_wake
        self._join(leg, self._turn)

    def say_goodbye(self) -> None:
        """End after the client's goodbye. What is left of `rest` then, without anybody waiting."""
        self._leave_leg()
        self._end_all()

    def abandon(self) -> None:
        """End at once, and tell nobody."""
        self.link.on_wake = None
        self._end_all()

    async def run(self, granted: bytes = b"") -> bytes:
        """Serve until the end; return the last message for the client, b"" if there is none.

        The link has let go of the client then, and the leg is closed, but for one that has
        `departed`. So it is if cancelled.

        Args:
            granted: what ends the client's login with us, and was not sent yet.
        """
        self._granted = granted
        if self.leg is None and not self._join_used():
            self.link.detach_server()  # watches the client from now on
            if self._turn is not None and not self._turn.moves:
                self._turn.ask()
        return await self.rest()

    async def rest(self) -> bytes:
        """Do what `run` does, from when the client was joined with a leg."""
        link = self.link
        try:
            await link.wait_detached()
            while link.ended is None and (turn := self._turn) is not None:
                found = await self._find_leg(turn)
                if isinstance(found, Leg):
                    if self._join(found, turn):
                        await link.wait_detached()
                    else:
                        self._turn = turn.again()
                elif found is not None:
                    self._board.refused += 1
                    self._entry.note(found)
                    return excuse_of(found, turn.moves, self._board.queue_timeout_s)
            assert link.ended is not None, "a client without a server waits for its turn"
            if link.ended is Ended.GOODBYE:
                self._leave_leg()
            return last_word(self._board, link, None if self._tracked is None else self._outcome)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        self.link.close()
        if self.leg is not None:
            self.leg.close()
        if self._issued is not None:
            self._board.cancels.take_back(self._issued)

    def end(self, message: str) -> None:
        """End the session at once, and tell the client why if it can be told."""
        self._end(pg.error_response(SqlState.ADMIN_SHUTDOWN, message))

    def hold(self) -> None:
        """Begin no other transaction for now: at once, or when the present one is over."""
        if self._hold_now() and self._turn is None:
            self.link.hold_back(self._hold_now)

    def _hold_now(self) -> bool:
        """Hold the client if it is between two transactions; return whether that is wanted."""
        leg, link = self.leg, self.link
        if link.ended is not None:
            return False
        if self._board.departing:
            return self._depart_now()
        if not self._board.holding.holds(self._entry.database):
            return False
        if leg is not None and self._turn is None and link.at_rest:
            self._turn = Turn(self._board, None, held=leg)
            link.detach_server()
        return True

    def _depart_now(self) -> bool:
        """Leave for another process if nothing is under way; return whether that is wanted."""
        leg, link = self.leg, self.link
        if not can_depart(self._client):
            return False
        if leg is not None and self._turn is None and link.at_rest:
            keeps = isinstance(self._outcome(), Keep)
            self.departed = departed(self._entry, leg, self._tracked, self._issued, keeps=keeps)
        if self.departed is not None:
            self.leg = None
            link.depart()
        return True

    def end_with(self, error: bytes) -> None:
        """End the session at once with this last message."""
        if self.link.ended is None:
            self._end(error)

    def _end(self, error: bytes) -> None:
        if self.departed is not None:
            return  # its connections are another's
        self._board.cut += 1
        self.link.detach_server()
        if self.leg is not None:
            self.leg.abort()
        # Nobody can be waited for here: what the kernel does not take at once is not sent.
        self.link.inject(error)
        self.link.close()
        shut(self._client)

    # -- finding a server -------------------------------------------------------------------

    def _join_used(self) -> bool:
        """Join a used leg if there is one, which most of those who come and go can have."""
        board, key = self._board, self._entry.pool_key
        if key is None or board.holding.holds(self._entry.database):
            return False
        if self._turn is None or self._turn.moves:
            return False
        self.leg = leg = board.legs.take(key)
        return leg is not None and self._join(leg, self._turn)

    async def _find_leg(self, turn: Turn) -> Leg | Refused | Failure | None:
        """Return what came of it, None if the client is gone. A leg is in `leg` as well."""

        def keep(leg: Leg) -> None:
            self.leg = leg

        return await find_leg(self._board, self.link, self._entry, turn, self._tracked, keep)

    def _join(self, leg: Leg, turn: Turn | None) -> bool:
        """Let the client talk to the server; False if either is gone by now."""
        link = self.link
        if leg.closed or link.ended is not None:
            return False
        leg.on_cut = self._cut
        self._turn = None
        self._attach(leg, turn)
        if self._board.departing:
            self.hold()
        return True

    def _attach(self, leg: Leg, turn: Turn | None) -> None:
        link = self.link
        if turn is not None and turn.held is leg:
            link.attach(leg.sock)
            return
        moved = turn is not None and turn.moves
        self._board.moved += moved
        opened = leg.take_opened()
        if opened.ready is None or moved:
            again, self._again = self._again, b""
            link.attach(leg.sock, opened.said, again=again, logging_in=not moved)
        else:
            # What the client is told of its login is ours, and known: nobody has to read it again.
            link.attach(leg.sock, opened.said, greeting=self._greeting(opened.ready))

    def _greeting(self, ready: ServerReady) -> bytes:
        """Return what a client is told after it has logged in."""
        granted, self._granted = self._granted, b""
        if self._tracked is not None:
            self._tracked.moved((), ready.parameters)
        # The key is ours, not the server's. The client keeps it wherever its session goes.
        issued = self._board.cancels.issue(self.locate, long_keys=self._entry.long_keys)
        self._issued = issued
        return granted + greeting(ready.parameters, issued.key, ready.notices)

    def locate(self) -> CancelTarget | None:
        """Return what cancels the session's statements; None if nothing can."""
        leg = self.leg
        if leg is None or leg.closed or leg.cancel_key is None:
            return None
        return CancelTarget(leg.route, leg.cancel_key)

    # -- told by link and leg ---------------------------------------------------------------

    def _hear(self) -> None:
        """The client has something to say, and no server."""
        if self._turn is not None:
            self._turn.ask()

    def _cut(self) -> None:
        """The leg is about to be closed, because its route is deposed."""
        leg, turn, link = self.leg, self._turn, self.link
        if leg is None or link.ended is not None:
            return
        found = self._outcome()
        if isinstance(found, Tell):
            self._end(found.message(_CHANGED))
        elif turn is None:
            link.detach_server()
            self._keep(leg.route, found)
        else:  # it is held, and the link has let go of the leg already
            self.leg = None
            self._board.kept += 1
            turn.lose()

    def _lose(self, words: bytes) -> bytes | None:
        """The server has ended by itself. Return None if the client is kept, or what it is told."""
        assert self.leg is not None
        self.leg.close()
        found = self._outcome()
        if not isinstance(found, Tell):
            self._keep(self.leg.route, found)
            return None
        # The server says that it ends, also if it does so in the middle of a commit.
        return found.message(CLOSED) if found == UNKNOWN or not words else words

    def _outcome(self) -> Outcome:
        """Return what becomes of the client, whose server is lost."""
        if self._tracked is None:
            return PASSED_ON
        return outcome_of_loss(moment_of(self.link, self._tracked))

    def _keep(self, lost: Route, found: Keep | Retry) -> None:
        self.leg = None
        self._turn = Turn(self._board, lost)
        self._board.kept += 1
        if isinstance(found, Retry):
            self._again = found.requests
            self._turn.ask()  # the client waits for the answer

    # -- the end ----------------------------------------------------------------------------

    def _leave_leg(self) -> None:
        """Give the leg to the next client, if it can be made as good as new."""
        leg, self.leg = self.leg, None
        if leg is not None:
            give_back(leg, self._tracked if self.link.at_rest else None)
