"""What a standby sends on to other standbys: cascading replication.

In: start requests, news of what was received and replayed. Out: that WAL. No commit waits for what
is acknowledged here, whatever the settings list: a standby has no commits.

A sender goes on beyond a promotion, by telling its standby where the timeline ended. In PostgreSQL
it does so beyond any other change of timeline as well; here the standby is cut off then, and asks
anew in a moment. What came of a record that is not whole is sent on too, and acknowledged.

Source: PostgreSQL 15, walsender.c (GetStandbyFlushRecPtr, am_cascading_walsender).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from metako.model.ids import TimelineId
from sim.postgres.sender import Feeder, Sender
from sim.postgres.wal import count_until

if TYPE_CHECKING:
    from sim.postgres.data import Data
    from sim.postgres.server import SimServer
    from sim.postgres.startup import Startup


PARTIAL_SHARE = 0.25
"""Of the connections that end: amid a record."""
PARTIAL_BYTES = 1 << 16
"""Fewer are received of such a record, of which the longest are as long as several others."""


def part_of_a_record(rng: random.Random) -> int:
    """Return how many bytes came of a record that was not sent to its end, as a rule none."""
    return rng.randrange(1, PARTIAL_BYTES) if rng.random() < PARTIAL_SHARE else 0


class Cascade:
    """See the module's docstring. Implements `sim.postgres.sender.Feeder`."""

    __slots__ = ("_fed", "_startup", "data", "senders", "server", "write_replies")

    def __init__(self, startup: Startup) -> None:
        self._startup = startup
        self._fed = TimelineId(0)  # that the senders send; valid while there are any
        self.server: SimServer = startup.server
        self.data: Data = startup.data
        self.senders: list[Sender] = []
        self.write_replies = 0  # nobody waits for what is only written

    @property
    def stopping(self) -> None:
        """A standby's shutdown waits for nobody."""
        return None

    @property
    def tli(self) -> TimelineId:
        """Return the timeline of the last record that was replayed."""
        startup, data = self._startup, self.data
        return data.wal[startup.replayed - 1].tli if startup.replayed else data.history[0].tli

    @property
    def ready(self) -> int:
        """Return how many records may be sent: what was replayed, or received and flushed."""
        startup = self._startup
        received = count_until(self.data.wal, startup.received) if startup.received else 0
        return min(self.data.flushed, max(startup.replayed, received))

    @property
    def surplus(self) -> int:
        """Return how many bytes of a record that is not whole are sent behind the last one."""
        return self._startup.partial

    def push(self) -> None:
        """Send on what came, or cut everybody off because it is of another timeline."""
        if self._fed != self.tli:
            self.end()
            return
        ready = self.ready
        for sender in self.senders:
            sender.push(ready)

    def attach(self, sender: Sender) -> None:
        """Take a new sender among those that are fed."""
        self._fed = self.tli
        self.senders.append(sender)
        self.server.version += 1
        self.server.note("cascaded", f"to {sender.node}")

    def sender_ended(self, sender: Sender) -> None:
        """Forget a sender."""
        if sender in self.senders:
            self.senders.remove(sender)
            self.server.version += 1

    def release(self, sender: Sender) -> None:
        """No commit waits here."""

    def check_stopping(self) -> None:
        """No shutdown waits here."""

    def go_over(self, primary: Feeder) -> None:
        """Hand every sender on: the server was promoted."""
        senders, self.senders = self.senders, []
        fork = self.data.history[-1]
        for sender in senders:
            sender.outlive(primary, count_until(self.data.wal, fork.begin_lsn), fork.tli)

    def end(self) -> None:
        """End every sender."""
        senders, self.senders = self.senders, []
        for sender in senders:
            sender.end()
