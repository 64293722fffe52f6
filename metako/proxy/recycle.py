"""Make a leg that a client is done with as good as new, so that the next one may have it.

    DISCARD ALL ──▶ settings, prepared statements, temporary tables, locks, LISTEN … are gone

In: a leg on which nothing is under way, and the settings that its server has reported last. Out:
the leg in the pool, or closed. A leg that was given to somebody else is told from a new one by its
age alone.

It is done in the reactor, without a task: nobody waits for it, and those who connect for a single
statement would pay more for the task than for the statement.

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
from metako.proxy.legs import Leg
from metako.proxy.reactor import READ
from metako.proxy.tracked import Tracked

RESET_TIMEOUT_S = 2.0  # locks on temporary tables, say; a server that takes longer is left alone
ANSWER_BYTES_MAX = 65_536
_RESET = query(b"DISCARD ALL")


def give_back(leg: Leg, tracked: Tracked | None) -> None:
    """Give a leg back to the pool, or close it if it cannot be made as good as new. Soon.

    Nothing is under way on it, and nobody reads it.

    Args:
        tracked: what its last client's session consisted of; None: nobody knows.
    """
    if leg.pool_key is None or tracked is None:
        leg.close(goodbye=True)
    elif tracked.dirty or leg.board.legs.discards_always:
        _Recycling(leg, dict(tracked.reported)).begin()
    else:
        _park(leg, tracked.reported)


def _park(leg: Leg, settings: Mapping[str, str]) -> None:
    leg.park(settings)
    if not leg.parked:
        leg.close(goodbye=True)  # its server has said something, mostly that it ends


class _Recycling:
    """A leg whose server discards."""

    __slots__ = ("_leg", "_reader", "_settings")

    def __init__(self, leg: Leg, settings: dict[str, str]) -> None:
        self._leg = leg
        self._settings = settings  # as the server has reported them last
        self._reader = MessageReader(body_bytes_max=ANSWER_BYTES_MAX)

    def begin(self) -> None:
        leg = self._leg
        leg.on_cut = self._let_go
        leg.board.legs.unfinished[self.give_up] = trio.current_time() + RESET_TIMEOUT_S
        leg.board.links.reactor.watch(leg.sock.fileno(), READ, self._hear)
        try:
            sent = leg.sock.send(_RESET)
        except OSError:
            sent = 0
        if sent != len(_RESET):
            self.give_up()

    def give_up(self) -> None:
        """Close the leg."""
        self._let_go()
        self._leg.close(goodbye=True)

    def _let_go(self) -> None:
        leg = self._leg
        leg.on_cut = None
        leg.board.legs.unfinished.pop(self.give_up, None)
        leg.board.links.reactor.watch(leg.sock.fileno(), 0, self._hear)

    def _hear(self, _events: int) -> None:
        reader = self._reader
        try:
            data = self._leg.sock.recv(ANSWER_BYTES_MAX, 0)
            reader.receive(data)
            found = None if data else False
            while found is None and (message := reader.next_untrusted()) is not None:
                match message.kind:
                    case b"S":
                        name, value = parse_parameter_status_untrusted(message.body)
                        self._settings[name] = value
                    case b"E":
                        found = False
                    case b"Z":
                        idle = parse_ready_untrusted(message.body) is TransactionStatus.IDLE
                        found = idle and not reader.take_rest()
        except BlockingIOError:
            return
        except (OSError, PgWireError):
            found = False
        if found:
            self._leg.board.legs.unfinished.pop(self.give_up, None)
            _park(self._leg, self._settings)
        elif found is not None:
            self.give_up()
