"""Find a server for a client that has none, for as long as the client waits for it.

Deliberately unknown here: what the client does before and behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from metako.proxy.board import Board
from metako.proxy.entry import Entry
from metako.proxy.excuses import held_too_long
from metako.proxy.legs import Failure, Leg, Refused
from metako.proxy.link import Link
from metako.proxy.moving import Turn
from metako.proxy.rebuilding import Rebuilt
from metako.proxy.tracked import Tracked


async def find_leg(
    board: Board,
    link: Link,
    entry: Entry,
    turn: Turn,
    tracked: Tracked | None,
    keep: Callable[[Leg], None],
) -> Leg | Refused | Failure | None:
    """Return what came of it, None if the client is gone.

    If cancelled, no leg is left open but one that was given to `keep`.

    Args:
        turn: of the client; it is over then.
        tracked: what its session consists of; None if that is not known.
        keep: told of the leg as soon as there is one.
    """
    found: Leg | Refused | Failure | None = None
    board.waiting += 1
    board.waits += 1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_end, link, nursery.cancel_scope)
            with turn.held_for:
                await board.holding.wait(entry.database)
            if turn.held_for.cancelled_caught:
                found = held_too_long(board.queue_timeout_s)
            elif turn.held is not None:
                found = turn.held
            else:
                await turn.wait()
                found = await _open(board, entry, turn, tracked)
            if isinstance(found, Leg):
                keep(found)
            nursery.cancel_scope.cancel()
    finally:
        board.waiting -= 1
        turn.end()
    return found


async def _open(
    board: Board, entry: Entry, turn: Turn, tracked: Tracked | None
) -> Leg | Refused | Failure:
    opening = entry.opening
    assert opening is not None, "who cannot be moved needs no other server"
    if turn.moves and tracked is not None:
        opening = Rebuilt(opening, tracked)
    return await board.legs.open(opening, entry.pool_key, turn.patience, fresh=turn.moves)


async def _cancel_at_end(link: Link, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the client hangs up: those who left must not keep a place."""
    await link.wait_end()
    scope.cancel()
