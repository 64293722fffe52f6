"""What a client is told for whom there is no server.

In: why there is none. Out: the last message for the client.
"""

from __future__ import annotations

from metako.pgwire import startup as pg
from metako.pgwire.startup import SqlState
from metako.proxy.legs import Failure, Refused


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
