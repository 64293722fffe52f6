"""Make a leg that a client is done with as good as new, so that the next one may have it.

    DISCARD ALL ──▶ settings, prepared statements, temporary tables, locks, LISTEN … are gone

In: a leg on which nothing is under way, and the settings that its server has reported last. Out:
whether it is as after its login. A leg that was given to somebody else is told from a new one by
its age alone.

Deliberately unknown here: pools, and who was the client.

Source: PostgreSQL documentation, DISCARD: what it releases is all that a session can keep.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from metako.pgwire.messages import (
    TransactionStatus,
    parse_parameter_status_untrusted,
    parse_ready_untrusted,
    query,
)
from metako.pgwire.reader import MessageReader
from metako.pgwire.startup import PgWireError
from metako.proxy import sockets
from metako.proxy.legs import Leg
from metako.proxy.tracked import Tracked

RESET_TIMEOUT_S = 2.0  # locks on temporary tables, say; a server that takes longer is left alone
ANSWER_BYTES_MAX = 65_536
_RESET = query(b"DISCARD ALL")


async def give_back(leg: Leg, tracked: Tracked | None) -> None:
    """Give a leg back to the pool, or close it if it cannot be made as good as new.

    Nothing is under way on it. If cancelled, it is closed.

    Args:
        tracked: what its last client's session consisted of; None: nobody knows.
    """
    try:
        if leg.pool_key is not None and tracked is not None:
            dirty = tracked.dirty or leg.board.legs.discards_always
            settings = await renew(leg, tracked.reported, dirty=dirty)
            if settings is not None and not leg.closed:
                leg.park(settings)
    finally:
        if not leg.parked:
            leg.close(goodbye=True)


async def renew(leg: Leg, settings: Mapping[str, str], *, dirty: bool) -> Mapping[str, str] | None:
    """Return the settings of a leg that is as good as new now; None if it cannot be made so.

    Nothing is closed. If cancelled, the leg is of no further use.

    Args:
        settings: as its server has reported them last, to whoever used the leg.
        dirty: there is something to be discarded.
    """
    if not dirty:
        return settings
    found = dict(settings)
    try:
        with trio.move_on_after(RESET_TIMEOUT_S):
            await sockets.send_all(leg.sock, _RESET)
            if await _hear(leg, found):
                return found
    except (*sockets.BROKEN, PgWireError):
        pass  # whoever owns it closes it
    return None


async def _hear(leg: Leg, settings: dict[str, str]) -> bool:
    """Read the answer; return whether everything was discarded. Settings that change are noted."""
    reader = MessageReader(body_bytes_max=ANSWER_BYTES_MAX)
    while True:
        while (message := reader.next_untrusted()) is not None:
            match message.kind:
                case b"S":
                    name, value = parse_parameter_status_untrusted(message.body)
                    settings[name] = value
                case b"E":
                    return False
                case b"Z":
                    idle = parse_ready_untrusted(message.body) is TransactionStatus.IDLE
                    return idle and not reader.take_rest()
        data = await sockets.receive_some(leg.sock)
        if not data:
            return False
        reader.receive(data)
