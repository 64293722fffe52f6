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

import trio

from metako.pgwire import startup as pg
from metako.pgwire.login_client import Refusal, ServerReady
from metako.pgwire.startup import SqlState
from metako.proxy.board import Board
from metako.proxy.cancels import CancelTarget, Issued
from metako.proxy.excuses import excuse_of, held_too_long
from metako.proxy.frames import WorkerEvent
from metako.proxy.greeting import greeting
from metako.proxy.legs import Failure, Leg, Opening, Refused
from metako.proxy.link import Link
from metako.proxy.loss import (
    PASSED_ON,
    UNKNOWN,
    Keep,
    Moment,
    Outcome,
    Retry,
    Tell,
    outcome_of_loss,
)
from metako.proxy.moment import moment_of
from metako.proxy.moving import Turn
from metako.proxy.pool import Key
from metako.proxy.rebuilding import Rebuilt
from metako.proxy.recycle import renew
from metako.proxy.routes import Route
from metako.proxy.sockets import Connection
from metako.proxy.tracked import Tracked
from metako.proxy.transport import Ended, shut

_CHANGED, _CLOSED = "the primary changed", "the server closed the connection"


class Relay:
    """See the module's docstring. `run` is for the session's task.

    Args:
        database: that the client is connected to.
        movable: whether the opening can be repeated at another server.
        pool_key: whose legs it may have; None: only one that is opened for it.
        granted: what ends the client's login with us, and was not sent yet.
        long_keys: whether the client speaks protocol 3.2.
        on_key_refused: called when a server did not take the key of the client's login.
    """

    __slots__ = (
        *(
            "_again",
            "_board",
            "_client",
            "_database",
            "_granted",
            "_issued",
            "_leg",
            "_link",
            "_long_keys",
        ),
        *("_on_key_refused", "_opening", "_pool_key", "_tracked", "_turn"),
    )

    def __init__(
        self,
        board: Board,
        client: Connection,
        opening: Opening,
        *,
        database: str,
        movable: bool,
        pool_key: Key | None = None,
        granted: bytes = b"",
        long_keys: bool = False,
        on_key_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._board = board
        self._client = client
        self._opening = opening
        self._database = database
        self._pool_key = pool_key
        self._granted = granted  # empty once it was sent
        self._long_keys = long_keys
        # What the session consists of; None if it cannot be moved anyway.
        self._tracked = Tracked() if movable else None
        self._on_key_refused = on_key_refused
        self._link = Link(
            board.links,
            client,
            on_data=self._hear,
            on_lost=self._lose if movable else None,
            on_note=None if self._tracked is None else self._tracked.note,
        )
        self._leg: Leg | None = None  # None while there is no server
        self._turn: Turn | None = Turn(board, None)  # None while there is a server
        self._again = b""  # requests that the next server is to answer in place of the last one
        self._issued: Issued | None = None  # the cancel key that the client has; None without one

    @property
    def at_rest(self) -> bool:
        return self._link.at_rest

    @property
    def left(self) -> bool:
        """Whether the client has said goodbye, so that it waits for nothing."""
        return self._link.ended is Ended.GOODBYE

    # -- for who looks on -------------------------------------------------------------------

    @property
    def link(self) -> Link:
        return self._link

    @property
    def leg(self) -> Leg | None:
        """The connection to the server; None while there is none."""
        return self._leg

    @property
    def waits_since(self) -> float | None:
        """Since when the client waits for a server; None if it does not wait."""
        return None if self._turn is None else self._turn.asked_at

    @property
    def moment(self) -> Moment | None:
        """What is known of the session; None if it is not followed."""
        return None if self._tracked is None else moment_of(self._link, self._tracked)

    async def run(self) -> bytes:
        """Serve until the end; return the last message for the client, b"" if there is none.

        The link has let go of the client then, and the leg is closed. So it is if cancelled.
        """
        link = self._link
        try:
            if not self._join_used():
                link.detach_server()  # watches the client from now on
                if self._turn is not None:
                    self._turn.ask()
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
                    return self._excuse(found, turn.lost)
            assert link.ended is not None, "a client without a server waits for its turn"
            if link.ended is Ended.GOODBYE:
                await self._leave_leg()
            return self._last_word(link.ended)
        finally:
            link.close()
            if self._leg is not None:
                self._leg.close()
            if self._issued is not None:
                self._board.cancels.take_back(self._issued)

    def end(self, message: str) -> None:
        """End the session at once, and tell the client why if it can be told."""
        self._end(pg.error_response(SqlState.ADMIN_SHUTDOWN, message))

    def hold(self) -> None:
        """Begin no other transaction for now: at once, or when the present one is over."""
        if self._hold_now() and self._turn is None:
            self._link.hold_back(self._hold_now)

    def _hold_now(self) -> bool:
        """Hold the client if it is between two transactions; return whether that is wanted."""
        leg, link = self._leg, self._link
        if not self._board.holding.holds(self._database) or link.ended is not None:
            return False
        if leg is not None and self._turn is None and link.at_rest:
            self._turn = Turn(self._board, None, held=leg)
            link.detach_server()
        return True

    def end_with(self, error: bytes) -> None:
        """End the session at once with this last message."""
        if self._link.ended is None:
            self._end(error)

    def _end(self, error: bytes) -> None:
        self._board.cut += 1
        self._link.detach_server()
        if self._leg is not None:
            self._leg.abort()
        # Nobody can be waited for here: what the kernel does not take at once is not sent.
        self._link.inject(error)
        self._link.close()
        shut(self._client)

    # -- finding a server -------------------------------------------------------------------

    def _join_used(self) -> bool:
        """Join a used leg if there is one, which most of those who come and go can have."""
        board, key = self._board, self._pool_key
        if key is None or board.holding.holds(self._database):
            return False
        self._leg = leg = board.legs.take(key)
        return leg is not None and self._join(leg, self._turn)

    async def _find_leg(self, turn: Turn) -> Leg | Refused | Failure | None:
        """Return what came of it, None if the client is gone. A leg is in `_leg` as well."""
        found: Leg | Refused | Failure | None = None
        board = self._board
        board.waiting += 1
        board.waits += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_at_end, nursery.cancel_scope)
                with turn.held_for:
                    await board.holding.wait(self._database)
                if turn.held_for.cancelled_caught:
                    found = held_too_long(board.queue_timeout_s)
                elif turn.held is not None:
                    found = turn.held
                else:
                    await turn.wait()
                    found = await self._open(turn)
                if isinstance(found, Leg):
                    self._leg = found
                nursery.cancel_scope.cancel()
        finally:
            board.waiting -= 1
            turn.end()
        return found

    async def _open(self, turn: Turn) -> Leg | Refused | Failure:
        opening, moves = self._opening, turn.lost is not None
        if moves and self._tracked is not None:
            opening = Rebuilt(opening, self._tracked)
        legs = self._board.legs
        return await legs.open(opening, self._pool_key, turn.patience, fresh=moves)

    async def _cancel_at_end(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the client hangs up: those who left must not keep a place."""
        await self._link.wait_end()
        scope.cancel()

    def _join(self, leg: Leg, turn: Turn | None) -> bool:
        """Let the client talk to the server; False if either is gone by now."""
        link = self._link
        if leg.closed or link.ended is not None:
            return False
        leg.on_cut = self._cut
        self._turn = None
        if turn is not None and turn.held is leg:
            link.attach(leg.sock)
            return True
        moved = turn is not None and turn.lost is not None
        self._board.moved += moved
        opened = leg.take_opened()
        if opened.ready is None or moved:
            again, self._again = self._again, b""
            link.attach(leg.sock, opened.said, again=again, logging_in=not moved)
        else:
            # What the client is told of its login is ours, and known: nobody has to read it again.
            link.attach(leg.sock, opened.said, greeting=self._greeting(opened.ready))
        return True

    def _greeting(self, ready: ServerReady) -> bytes:
        """Return what a client is told after it has logged in."""
        granted, self._granted = self._granted, b""
        if self._tracked is not None:
            self._tracked.moved((), ready.parameters)
        # The key is ours, not the server's. The client keeps it wherever its session goes.
        issued = self._board.cancels.issue(self.locate, long_keys=self._long_keys)
        self._issued = issued
        return granted + greeting(ready.parameters, issued.key, ready.notices)

    def locate(self) -> CancelTarget | None:
        """Return what cancels the session's statements; None if nothing can."""
        leg = self._leg
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
        leg, turn, link = self._leg, self._turn, self._link
        if leg is None or link.ended is not None:
            return
        found = self._outcome()
        if isinstance(found, Tell):
            self._end(found.message(_CHANGED))
        elif turn is None:
            link.detach_server()
            self._keep(leg.route, found)
        else:  # it is held, and the link has let go of the leg already
            self._leg = None
            self._board.kept += 1
            turn.lose()

    def _lose(self, words: bytes) -> bytes | None:
        """The server has ended by itself. Return None if the client is kept, or what it is told."""
        assert self._leg is not None
        self._leg.close()
        found = self._outcome()
        if not isinstance(found, Tell):
            self._keep(self._leg.route, found)
            return None
        # The server says that it ends, also if it does so in the middle of a commit.
        return found.message(_CLOSED) if found == UNKNOWN or not words else words

    def _outcome(self) -> Outcome:
        """Return what becomes of the client, whose server is lost."""
        if self._tracked is None:
            return PASSED_ON
        return outcome_of_loss(moment_of(self._link, self._tracked))

    def _keep(self, lost: Route, found: Keep | Retry) -> None:
        self._leg = None
        self._turn = Turn(self._board, lost)
        self._board.kept += 1
        if isinstance(found, Retry):
            self._again = found.requests
            self._turn.ask()  # the client waits for the answer

    # -- the end ----------------------------------------------------------------------------

    async def _leave_leg(self) -> None:
        """Give the leg to the next client, if it can be made as good as new."""
        leg, tracked, self._leg = self._leg, self._tracked, None
        if leg is None:
            return
        try:
            if leg.pool_key is not None and tracked is not None and self._link.at_rest:
                dirty = tracked.dirty or self._board.legs.discards_always
                settings = await renew(leg, tracked.reported, dirty=dirty)
                if settings is not None and not leg.closed:
                    leg.park(settings)
        finally:
            if not leg.parked:
                leg.close(goodbye=True)

    def _excuse(self, found: Refused | Failure, lost: Route | None) -> bytes:
        """Return why there is no server for the client."""
        if isinstance(found, Refused) and found.reason is Refusal.KEY_REFUSED:
            self._on_key_refused()
        return excuse_of(found, lost is not None, self._board.queue_timeout_s)

    def _last_word(self, ended: Ended) -> bytes:
        link, board = self._link, self._board
        error = link.violation
        if ended is Ended.SERVER and self._tracked is not None:
            if not link.over and link.at_boundary and not link.at_rest:
                found = self._outcome()
                return found.message(_CLOSED) if isinstance(found, Tell) else b""
        elif ended is Ended.SERVER_VIOLATION:
            detail = (("error", str(error)),)
            board.report(WorkerEvent("ERROR", "a server broke the protocol", detail))
        elif ended is Ended.CLIENT_VIOLATION:
            board.malformed += 1
            if error is not None and link.at_boundary:
                return pg.error_response(error.sqlstate, str(error))
        return b""
