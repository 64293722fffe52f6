"""Before a server is shut down to hand over: the time for short transactions to end.

A fast shutdown ends every session at once, also one that would have committed in a moment. The
proxies let no transaction begin by then, so those that run are over soon; nobody waits for those
that have been running for long, nor for clients that come by another way and never stop.

In: a session of the local server. Out: nothing but time; what is not over by then is cut off.

Deliberately unknown here: why the server is stopped, and proxies.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from metako.postgres import sql

DRAIN_MAX_S = 0.25
LOOK_INTERVAL_S = 0.005
YOUNG_MS = 1000  # an older transaction is not waited for

_RUNNING = """
select count(*)::int from pg_catalog.pg_stat_activity
where backend_type = 'client backend' and pid <> pg_catalog.pg_backend_pid()
  and application_name <> 'metako agent'
  and pg_catalog.clock_timestamp() - xact_start < $1::pg_catalog.int4 * interval '1 ms'
"""


async def wait_short_transactions(
    open_session: Callable[[], AbstractAsyncContextManager[sql.Session]],
) -> None:
    """Return once no short transaction of a client runs, or after `DRAIN_MAX_S`. Never raises.

    If cancelled, nothing was changed.
    """
    with trio.move_on_after(DRAIN_MAX_S):
        try:
            async with open_session() as session:
                while True:
                    (running,) = await session.row(_RUNNING, YOUNG_MS)
                    if not running:
                        return
                    await trio.sleep(LOOK_INTERVAL_S)
        except sql.SqlError:
            return  # the shutdown does not depend on it
