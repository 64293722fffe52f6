"""What a client is told last, if there is no server for it or its session has ended.

In: why that is so. Out: the last message for the client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from metako.pgwire import startup as pg
from metako.pgwire.startup import SqlState
from metako.proxy.frames import WorkerEvent
from metako.proxy.legs import Failure, Refused
from metako.proxy.link import Link
from metako.proxy.loss import Outcome, Tell
from metako.proxy.transport import Ended

if TYPE_CHECKING:
    from metako.proxy.board import Board

CLOSED = "the server closed the connection"


def excuse_of(found: Refused | Failure, had_one: bool, timeout_s: float) -> bytes:
    """Build it.

    Args:
        found: what came of the search.
        had_one: the client was in the middle of its session.
        timeout_s: that was waited for at most.
    """
    if isinstance(found, Failure):
        if found.error:
            return found.error
        return pg.error_response(
            SqlState.ADMIN_SHUTDOWN if had_one else SqlState.CANNOT_CONNECT_NOW,
            f"no primary within {timeout_s:g} s",
            detail=found.reason,
            hint="Connect again; see `metako status` for the state of the cluster.",
        )
    if not had_one:
        return found.error
    # In the middle of a session, words about a login would puzzle whoever reads them.
    return pg.error_response(
        SqlState.ADMIN_SHUTDOWN,
        "the session cannot go on after its server was lost; connect again",
        detail=found.message,
    )


def held_too_long(timeout_s: float) -> Failure:
    """Return what came of the search for a server where nobody may begin a transaction."""
    reason = "The database is paused, or its primary is about to hand over."
    error = pg.error_response(
        SqlState.CANNOT_CONNECT_NOW,
        f"no transaction was let begin within {timeout_s:g} s",
        detail=reason,
        hint="Connect again; RESUME in the proxy's console ends a pause.",
    )
    return Failure(reason, error)


def last_word(board: Board, link: Link, outcome: Callable[[], Outcome] | None) -> bytes:
    """Return what a client is told whose link has ended, b"" if nothing, and count the violation.

    Args:
        outcome: says what becomes of a client whose server is lost; None: it cannot be kept.
    """
    error = link.violation
    if link.ended is Ended.SERVER and outcome is not None:
        if not link.over and link.at_boundary and not link.at_rest:
            found = outcome()
            return found.message(CLOSED) if isinstance(found, Tell) else b""
    elif link.ended is Ended.SERVER_VIOLATION:
        detail = (("error", str(error)),)
        board.report(WorkerEvent("ERROR", "a server broke the protocol", detail))
    elif link.ended is Ended.CLIENT_VIOLATION:
        board.malformed += 1
        if error is not None and link.at_boundary:
            return pg.error_response(error.sqlstate, str(error))
    return b""
