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
from dataclasses import replace

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

RESET_TIMEOUT_S = 2.0  # locks on temporary tables, say; a server that takes longer is left alone
ANSWER_BYTES_MAX = 65_536
_RESET = query(b"DISCARD ALL")


async def renew(leg: Leg, settings: Mapping[str, str], *, dirty: bool) -> bool:
    """Return whether the leg is as good as new now. Nothing is closed; if cancelled, it is not.

    Args:
        settings: as its server has reported them last, to whoever used the leg.
        dirty: there is something to be discarded.
    """
    assert leg.ready is not None
    if not dirty:
        if not leg.closed:
            leg.said, leg.ready = b"", replace(leg.ready, notices=())
        return not leg.closed
    found = dict(settings)
    clean = False
    try:
        with trio.move_on_after(RESET_TIMEOUT_S):
            await sockets.send_all(leg.sock, _RESET)
            clean = await _hear(leg, found)
    except (*sockets.BROKEN, PgWireError):
        return False
    if clean and not leg.closed:
        leg.said, leg.ready = b"", replace(leg.ready, parameters=found, notices=())
        return True
    return False


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
