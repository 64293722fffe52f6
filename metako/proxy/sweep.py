"""How long everybody has been at what they do, and what is done about those who take too long.

A statement that is overdue is cancelled at its server, with the server's own key, so that the error
comes from there and the session goes on. If the server does not answer that within a second, the
session ends with words of ours. A client that is idle for too long is ended, as PostgreSQL would.

No statement starts a timer. One task looks at all links now and then; a statement is the same one
as long as the count of answers does not change. What is measured is therefore late by up to one
interval, a tenth of the shortest timeout.

While a request to cancel is under way the client is not listened to: the cancel would hit whatever
the server does next, and that may be a COMMIT (see `overdue`).

Not limited: a COMMIT; who waits for a server, which has a limit of its own; a server that waits for
the client, to take a result or to send data of a COPY; statements of sessions whose login was
passed on, since nobody knows whether those commit.

Deliberately unknown here: SQL.

Source: the words of idle timeouts are PostgreSQL's (src/backend/tcop/postgres.c).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from metako.pgwire import startup as pg
from metako.pgwire.messages import notice_response
from metako.pgwire.scan import STATUS_IDLE
from metako.pgwire.startup import SqlState
from metako.proxy.board import Attached, Board, session_failure
from metako.proxy.cancels import cancel_at_server
from metako.proxy.limits import Timeouts
from metako.proxy.loss import UNKNOWN, unreplicated_error
from metako.proxy.overdue import Busy, Verdict, busy_with, judge_answer
from metako.proxy.transport import SCRATCH_BYTES

if TYPE_CHECKING:
    from metako.proxy.relay import Relay

INTERVAL_MIN_S = 0.05
INTERVAL_MAX_S = 1.0
CANCEL_ANSWER_TIMEOUT_S = 1.0  # from the request to cancel to the end of the statement
CANCEL_POLL_S = 0.01
CANCELS_MAX = 32  # at a time; whoever else is overdue waits for a later look
LOOKS_IN_A_ROW = 200  # at sessions, before others get a turn

_IDLE = pg.error_response(
    SqlState.IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout"
)
_IDLE_IN_TRANSACTION = pg.error_response(
    SqlState.IDLE_IN_TRANSACTION_TIMEOUT,
    "terminating connection due to idle-in-transaction timeout",
)


class Doing(enum.StrEnum):
    """What a client is at, as SHOW CLIENTS calls it."""

    LOGIN = "login"
    WAITING = "waiting"  # for a server
    IDLE = "idle"
    ACTIVE = "active"
    OWN_TURN = "own turn"  # the server waits for the client, which is in the middle of something
    IN_TRANSACTION = "in transaction"


@dataclass(slots=True)
class Seen:
    """What a session was at when it was looked at last."""

    doing: Doing
    count: int  # of answers or requests; another one means: something else of the same kind
    since: float  # seconds by trio's clock
    judged: tuple[bytes | None, bool] = (None, False)  # the requests that `busy` is of
    busy: Busy | None = None  # None until it was overdue
    cancelling: bool = False


def interval_s(timeouts: Timeouts) -> float:
    """Return the time between two looks."""
    limits = (timeouts.read_s, timeouts.write_s, timeouts.idle_s, timeouts.idle_in_transaction_s)
    shortest_s = min((limit for limit in limits if limit), default=10 * INTERVAL_MAX_S)
    return min(max(shortest_s / 10, INTERVAL_MIN_S), INTERVAL_MAX_S)


def doing_of(relay: Relay | None) -> tuple[Doing, int]:
    """Return what a client is at, and the count that tells this one from the next."""
    if relay is None:
        return Doing.LOGIN, 0
    link = relay.link
    if relay.waits_since is not None:
        return Doing.WAITING, link.asked
    if not link.status:
        return Doing.LOGIN, 0
    if link.at_rest:
        return Doing.IDLE, link.asked
    standing = link.standing
    if link.stalled or standing.copying_in:
        return Doing.OWN_TURN, link.asked
    if standing.owed:
        return Doing.ACTIVE, link.answers
    if standing.half or standing.open:
        return Doing.OWN_TURN, link.asked
    return (Doing.IDLE if link.status == STATUS_IDLE else Doing.IN_TRANSACTION), link.asked


class Sweep:
    """See the module's docstring. `run` is its task."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen: dict[Attached, Seen] = {}  # of the sessions at the last look
        self._cancels = 0  # under way

    def seen(self, session: Attached) -> Seen | None:
        """Return what a session was at, and since when; None if it was not looked at yet."""
        return self._seen.get(session)

    async def run(self) -> None:
        """Look on until cancelled; requests to cancel that are under way end with it."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(interval_s(self._board.timeouts))
                await self._look_at_all(nursery)

    async def _look_at_all(self, nursery: trio.Nursery) -> None:
        self._board.evict_silent()
        sessions = self._board.clients()
        self._seen = {one: seen for one in sessions if (seen := self._seen.get(one)) is not None}
        for index, session in enumerate(sessions):
            if index % LOOKS_IN_A_ROW == LOOKS_IN_A_ROW - 1:
                await trio.lowlevel.checkpoint()
            try:
                self._look_at(session, trio.current_time(), nursery)
            except Exception as error:  # noqa: BLE001 - one session's bug must not end the others
                self._board.report(session_failure(error))

    def _look_at(self, session: Attached, now: float, nursery: trio.Nursery) -> None:
        relay = session.relay
        doing, count = doing_of(relay)
        seen = self._seen.get(session)
        if seen is None or seen.doing is not doing or seen.count != count:
            if seen is None or not seen.cancelling:
                self._seen[session] = Seen(doing, count, now)
            return
        if relay is None or relay.link.ended is not None or seen.cancelling:
            return
        timeouts, spent_s = self._board.timeouts, now - seen.since
        if doing is Doing.IDLE and 0 < timeouts.idle_s <= spent_s:
            self._end(relay, _IDLE)
        elif doing is Doing.IN_TRANSACTION and 0 < timeouts.idle_in_transaction_s <= spent_s:
            self._end(relay, _IDLE_IN_TRANSACTION)
        elif doing is Doing.ACTIVE and self._cancels < CANCELS_MAX:
            self._look_at_statement(relay, seen, spent_s, nursery)

    def _end(self, relay: Relay, error: bytes) -> None:
        self._board.timed_out += 1
        relay.end_with(error)

    # -- statements ---------------------------------------------------------------------------

    def _look_at_statement(
        self, relay: Relay, seen: Seen, spent_s: float, nursery: trio.Nursery
    ) -> None:
        read_s, write_s = self._board.timeouts.read_s, self._board.timeouts.write_s
        if not any(0 < limit_s <= spent_s for limit_s in (read_s, write_s)):
            return
        link = relay.link
        sent, whole = seen.judged
        if seen.busy is None or sent is not link.sent or whole != link.sent_whole:
            # Noted first: what cannot be judged is neither cancelled nor looked at again.
            seen.busy, seen.judged = Busy.COMMIT, (link.sent, link.sent_whole)
            moment = relay.moment
            if moment is not None:
                seen.busy = busy_with(moment)
        if seen.busy is Busy.COMMIT:
            return
        reads = seen.busy is Busy.READ
        limit_s = read_s if reads else write_s
        if not 0 < limit_s <= spent_s or relay.locate() is None:
            return
        name = "read_timeout" if reads else "write_timeout"
        reason = f"the statement exceeded proxy.{name} of {limit_s:g} s"
        self._board.timed_out += 1
        self._cancels += 1
        seen.cancelling = True
        # Now, not when the task gets its turn: what the client sends next might be a COMMIT.
        link.hold(server=seen.busy is Busy.COMMITTING)
        link.inject(notice_response(SqlState.QUERY_CANCELED, reason))
        nursery.start_soon(self._cancel, relay, seen, reason)

    async def _cancel(self, relay: Relay, seen: Seen, reason: str) -> None:
        """Cancel a statement, and end its session unless that is answered in time."""
        link = relay.link
        leg = relay.leg
        try:
            with trio.move_on_after(CANCEL_ANSWER_TIMEOUT_S):
                target = relay.locate()
                if target is not None:
                    await cancel_at_server(self._board, target)
                if seen.busy is Busy.COMMITTING:
                    await self._hear_out(relay, seen.count)
                link.resume()
                while True:
                    if link.ended is not None or relay.leg is not leg or link.answers != seen.count:
                        return
                    await trio.sleep(CANCEL_POLL_S)
            if link.ended is None and relay.leg is leg:
                # Also if it was answered since: nobody knows what the cancel will hit.
                self._give_up(relay, seen, reason)
        except Exception as error:  # noqa: BLE001 - as above
            self._board.report(session_failure(error))
            relay.end("terminating connection: its proxy has failed")
        finally:
            link.resume()
            self._cancels -= 1
            seen.cancelling = False

    async def _hear_out(self, relay: Relay, answers: int) -> None:
        """Return once the client may have the answer, or is told otherwise."""
        link = relay.link
        begin, owed = link.unread_body, link.asked - answers
        while link.ended is None and relay.leg is not None:
            verdict = Verdict.UNTOLD
            if begin is not None:
                verdict = judge_answer(link.peek_server(SCRATCH_BYTES), owed, begin=begin)
            if verdict is Verdict.UNREPLICATED:
                relay.end_with(unreplicated_error(severity="FATAL"))
                return
            if verdict is Verdict.PLAIN:
                return
            await trio.sleep(CANCEL_POLL_S)

    def _give_up(self, relay: Relay, seen: Seen, reason: str) -> None:
        if seen.busy is Busy.COMMITTING:
            relay.end_with(UNKNOWN.message(reason))
            return
        relay.end_with(
            pg.error_response(
                SqlState.QUERY_CANCELED,
                f"terminating connection: {reason}",
                detail="The server did not answer the request to cancel it. Nothing of what was"
                " not answered yet was committed.",
            )
        )
