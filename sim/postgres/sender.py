"""A WAL sender: the upstream's end of one standby's connection.

In: a start request, replies. Out: batches of flushed records, and the release of waiting commits.
PostgreSQL compares timeline numbers and LSNs here and nothing else: a standby with other rows under
the same number attaches silently, and one that is ahead acknowledges what it does not have.

A slot that the standby names is its for as long as it streams, and follows what it has on disk.

Each sender has its own copy of `synchronous_standby_names`. After a reload it renews the copy
within a moment; the one reply that it was busy with when the signal came is judged by the old copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from metako.model.ids import NodeId, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import SyncSetting
from sim.heap import NS_PER_S
from sim.postgres.slots import Slot, acquired
from sim.postgres.syncwait import APPLY, FLUSH, WRITE
from sim.postgres.wal import count_until, left_at, segment_of

if TYPE_CHECKING:
    from sim.network import Connection
    from sim.postgres.data import Data
    from sim.postgres.receiver import Receiver
    from sim.postgres.server import SimServer

TIMEOUT_NS = 10 * NS_PER_S
"""`wal_sender_timeout`: without a reply for so long the standby is given up."""


class Feeder(Protocol):
    """Whose WAL is sent: a primary, or a standby that sends on what it gets."""

    server: SimServer
    data: Data
    senders: list[Sender]
    write_replies: int  # how many ask that standbys reply about what is only written

    @property
    def stopping(self) -> Callable[[], None] | None: ...
    @property
    def tli(self) -> TimelineId: ...
    @property
    def ready(self) -> int: ...
    @property
    def surplus(self) -> int: ...
    def attach(self, sender: Sender) -> None: ...
    def sender_ended(self, sender: Sender) -> None: ...
    def release(self, sender: Sender) -> None: ...
    def check_stopping(self) -> None: ...


class Sender:
    """See the module's docstring."""

    __slots__ = (
        *("_busy", "_feeder", "_renewed", "alive", "apply_lsn", "conn", "flush_lsn", "heard_ns"),
        *("limit", "listed", "next_setting", "node", "receiver", "reply_ns", "sent", "setting"),
        *("slot", "streaming", "write_lsn"),
    )

    def __init__(
        self, feeder: Feeder, conn: Connection, receiver: Receiver, sent: int, limit: int | None
    ) -> None:
        server = feeder.server
        assert server.config is not None
        self._feeder = feeder
        self.node: NodeId = receiver.name  # by its application name
        self.conn = conn
        self.receiver = receiver  # the other end, for ground truth and as the address of messages
        self.alive = True
        self.slot: Slot | None = None  # that it uses, and nobody else meanwhile
        self.streaming = True  # it has caught up; a limit is reached at once
        self.sent = sent  # records so far
        self.limit = limit  # records of the timeline that was asked for; None: the current one
        self.write_lsn = self.flush_lsn = self.apply_lsn = Lsn(0)  # 0: no reply so far
        self.reply_ns = 0  # when the standby sent its last reply
        self.heard_ns = server.heap.now_ns
        self.setting: SyncSetting = server.config.sync  # the own copy
        self.next_setting: SyncSetting | None = None  # reloaded, not looked at yet
        self._renewed = 0  # virtual time from which on the next setting is looked at
        self._busy = False  # the one reply after the reload was handled by the old copy
        self.listed = self.node in self.setting.nodes
        conn.on_closed[server.node] = self._closed
        server.later(TIMEOUT_NS, self._expire)

    def succeed(self, former: Sender) -> None:
        """Take over from the same process's answer to an earlier request."""
        former.alive = False
        self.write_lsn, self.flush_lsn = former.write_lsn, former.flush_lsn
        self.apply_lsn, self.reply_ns = former.apply_lsn, former.reply_ns
        self.setting, self.next_setting = former.setting, former.next_setting
        self._renewed, self._busy = former._renewed, former._busy
        self.listed = self.node in self.setting.nodes

    # ------------------------------------------------------------ sending

    def begin(self, tli: TimelineId, next_tli: TimelineId | None) -> None:
        """Answer the start request, with all that there is to send."""
        feeder = self._feeder
        count = self.limit if self.limit is not None else feeder.ready
        lo, self.sent = self.sent, max(self.sent, count)
        deliver = partial(self.receiver.started, feeder.data.wal, lo, count, tli, next_tli, self)
        self.conn.send(feeder.server.node, deliver)

    def push(self, count: int) -> None:
        """Send what was flushed since."""
        lo = self.sent
        if lo < count and self.limit is None and self.alive:
            self.sent = count
            feeder = self._feeder
            self.conn.send(
                feeder.server.node, partial(self.receiver.receive, feeder.data.wal, lo, count)
            )

    def outlive(self, feeder: Feeder, count: int, next_tli: TimelineId) -> None:
        """Go on as a process of a primary: send the rest of the timeline, and say what follows.

        What its standby has acknowledged so far stays with the process, whatever comes at those
        places now. It counts for nobody until the standby asks for the new timeline.
        """
        self._feeder, self.limit, self.listed = feeder, count, False
        lo, self.sent = self.sent, max(self.sent, count)
        wal, receiver = feeder.data.wal, self.receiver
        self.conn.send(feeder.server.node, partial(receiver.ended, wal, lo, count, next_tli))
        feeder.attach(self)

    # ------------------------------------------------------------ replies

    def replied(self, write: Lsn, flush: Lsn, apply: Lsn, sent_ns: int, ping: bool) -> None:
        """Take a reply of the standby; `ping` asks for an answer."""
        if not self.alive:
            return
        server = self._feeder.server
        if server.frozen:
            server.hold(self.replied, write, flush, apply, sent_ns, ping)
            return
        if (surplus := self._feeder.surplus) and flush == self._feeder.data.end:
            write = flush = Lsn(flush + surplus)
        elif self.limit is not None:  # its bytes stay until it asks for the next timeline
            write, flush = max(write, self.write_lsn), max(flush, self.flush_lsn)
        self.write_lsn, self.flush_lsn, self.apply_lsn = write, flush, apply
        self.reply_ns = sent_ns
        self.heard_ns = server.heap.now_ns
        server.version += 1
        slot = self.slot
        if slot is not None and flush:
            slot.restart_lsn = flush
        self._renew()
        if ping:
            self.conn.send(server.node, self.receiver.kept_alive)
        feeder = self._feeder
        if self.listed and self.streaming:
            feeder.release(self)
        if self.limit is not None:
            # It was in state streaming for just as long as it took to reach the limit: long enough
            # for a standby beyond the fork to acknowledge what it will never get (measured).
            self.streaming = False
            self.release_slot()
        if feeder.stopping is not None:
            feeder.check_stopping()

    def reload(self, setting: SyncSetting, late_ns: int) -> None:
        """Get SIGHUP; the copy is renewed in a moment, or after the reply that is at hand then."""
        server = self._feeder.server
        self.next_setting = setting
        self._renewed = server.heap.now_ns + late_ns
        self._busy = False
        server.later(late_ns, self._wake)

    def _wake(self) -> None:
        if self._feeder.server.heap.now_ns >= self._renewed:  # not that of an earlier reload
            self._renew()

    def _renew(self) -> None:
        if self.next_setting is None:
            return
        if self._feeder.server.heap.now_ns < self._renewed and not self._busy:
            self._busy = True
            return
        self.setting, self.next_setting = self.next_setting, None
        self.listed = self.node in self.setting.nodes

    @property
    def wants_writes(self) -> bool:
        """Return whether somebody waits for replies about what is written but not flushed yet.

        PostgreSQL's standbys always send them; here they are left out where nobody would notice.
        """
        return self._feeder.write_replies > 0

    # ------------------------------------------------------------ the end

    @property
    def attached(self) -> bool:
        """Return the truth: both ends live, and what is sent now is answered now."""
        if not self.alive or not self.conn.open or self.limit is not None:
            return False
        here, there = self._feeder.server, self.receiver.server
        network = here.env.network
        kind = self.conn.traffic
        return (
            self.receiver.alive
            and not there.frozen
            and not there.receive_stalled
            and network.is_open(here.node, there.node, kind)
            and network.is_open(there.node, here.node, kind)
        )

    def end(self) -> None:
        """End this process; its server forgets it."""
        if self.alive:
            self.alive = False
            self.release_slot()
            self.conn.close(self._feeder.server.node)

    def terminate(self) -> None:
        """Take SIGTERM; the slot is free when this returns.

        In PostgreSQL that takes until a standby that stands still has read what fills the socket.
        """
        self.end()
        self._feeder.sender_ended(self)

    def release_slot(self) -> None:
        """Let others have the slot; where the standby is stays written in it."""
        if self.slot is not None:
            self.slot.sender = None
            self.slot = None

    def _closed(self) -> None:
        server = self._feeder.server
        if server.frozen:
            server.hold(self._closed)
        elif self.alive:
            self.alive = False
            self.release_slot()
            self._feeder.sender_ended(self)

    def _expire(self) -> None:
        if not self.alive:
            return
        server = self._feeder.server
        left = self.heard_ns + TIMEOUT_NS - server.heap.now_ns
        if left > 0:
            server.later(left, self._expire)
        else:
            self.terminate()


def start_sending(
    feeder: Feeder, conn: Connection, receiver: Receiver, lsn: Lsn, tli: TimelineId
) -> None:
    """Answer START_REPLICATION on a connection, with a new sender or an error.

    The process that has answered an earlier request of the connection is the one that does.
    """
    formers = [s for s in feeder.senders if s.conn is conn]
    for former in formers:
        former.release_slot()
    version = feeder.server.env.postgres_version
    slot, wrong = acquired(feeder.data.slots, receiver.slot, version)
    sent, limit, following = 0, None, None
    if not wrong:
        sent, limit, following, wrong = start_of(feeder, lsn, tli)
    if wrong:
        here = feeder.server.node
        conn.send(here, partial(receiver.refused, wrong))
        conn.close(here)
        for former in formers:
            former.terminate()
        return
    sender = Sender(feeder, conn, receiver, sent, limit)
    if slot is not None:
        sender.slot, slot.sender = slot, sender
    for former in formers:
        sender.succeed(former)
        feeder.sender_ended(former)
    feeder.attach(sender)
    sender.begin(tli, following)


def start_of(
    feeder: Feeder, lsn: Lsn, tli: TimelineId
) -> tuple[int, int | None, TimelineId | None, str]:
    """Answer START_REPLICATION: first record, limit, next timeline; or an error.

    A standby asks from the beginning of the segment that it wants to go on in, so PostgreSQL
    refuses one that is beyond the fork only if a whole segment is.
    """
    data = feeder.data
    limit: int | None = None
    following: TimelineId | None = None
    if tli != feeder.tli:
        try:
            switch = left_at(data.history, tli)
        except KeyError:
            return 0, None, None, f"requested timeline {tli} is not in this server's history"
        if switch is None:
            return 0, None, None, f"timeline {tli} has not begun on this server"
        if segment_of(lsn) > switch:
            return 0, None, None, f"requested starting point on timeline {tli} is beyond its end"
        limit = count_until(data.wal, switch)
        following = next(s.tli for s in data.history if s.begin_lsn == switch and s.tli > tli)
    if lsn < data.wal_begin:
        return 0, None, None, REMOVED
    return count_until(data.wal, lsn), limit, following, ""


REMOVED = "requested WAL segment has already been removed"
POSITIONS: tuple[tuple[int, Callable[[Sender], Lsn]], ...] = (
    (WRITE, attrgetter("write_lsn")),
    (FLUSH, attrgetter("flush_lsn")),
    (APPLY, attrgetter("apply_lsn")),
)
"""How far a standby said that it has come, in each of the ways in which commits wait for it."""
