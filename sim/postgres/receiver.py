"""A WAL receiver: the standby's process that connects to its upstream and writes what comes.

In: the upstream's messages, SIGTERM. Out: WAL on this disk, flushed; replies; the news for the
startup process that there is more, that the timeline has ended there, or that this process has
ended. It takes WAL as it comes: only the system identifier and timeline numbers are compared.

Source: PostgreSQL 15, walreceiver.c.
"""

from __future__ import annotations

import enum
from functools import partial
from typing import TYPE_CHECKING

from metako.model.ids import NodeId, TimelineId
from metako.model.lsn import Lsn
from sim.heap import NS_PER_MS, NS_PER_S
from sim.network import Connection, Dial, Traffic
from sim.postgres.sender import REMOVED
from sim.postgres.wal import Chain, Record, timeline_at

if TYPE_CHECKING:
    from sim.postgres.sender import Sender
    from sim.postgres.startup import Startup

HANDSHAKE_NS = 3 * NS_PER_S
"""`connect_timeout`, which covers everything up to the first WAL here."""
STATUS_NS = NS_PER_S
"""`wal_receiver_status_interval`."""
TIMEOUT_NS = 10 * NS_PER_S
"""`wal_receiver_timeout`; after half of it the upstream is asked for a sign of life."""
UNACKNOWLEDGED_NS = 5 * NS_PER_S
"""`tcp_user_timeout` of the connection: what was sent stays unacknowledged for so long."""
IDLE_NS = 100 * NS_PER_MS
"""A receiver that got nothing replies for the first time within this."""


class ReceiverPhase(enum.Enum):
    """What a receiver is at."""

    CONNECTING = enum.auto()
    STREAMING = enum.auto()
    FETCHING = enum.auto()  # the timeline ended upstream, for one whose history file is not here
    WAITING = enum.auto()  # the timeline ended upstream; the startup process must say how to go on


class Receiver:
    """See the module's docstring."""

    __slots__ = (
        *("_cut_off", "_dial", "_flushing", "_known", "_sent", "_silent_since", "_stalled"),
        *("alive", "conn", "heard_ns", "name", "phase", "replied_ns", "sender", "server", "slot"),
        *("startup", "terminating", "tli", "upstream"),
    )

    def __init__(self, startup: Startup, upstream: NodeId) -> None:
        server = startup.server
        self.server = server
        self.startup = startup
        self.upstream = upstream
        self.slot = startup.slot  # that it asks for with every request; "": none
        # Its application name: that of its node, or one that nobody lists.
        self.name = server.node
        if startup.upstream is not None and not startup.upstream.counts:
            self.name = NodeId(f"{server.node}, catching up")
        self.alive = True
        self.terminating = False  # SIGTERM is on its way
        self.phase = ReceiverPhase.CONNECTING
        self.conn: Connection | None = None
        self.sender: Sender | None = None  # the other end, as the address of replies
        self.tli = TimelineId(0)  # that is being streamed
        self.heard_ns = server.heap.now_ns
        self.replied_ns = 0
        self._flushing = False
        # End of WAL that was there already and does not count as received.
        self._known = startup.data.lsn_at(startup.replayed)
        self._sent = Lsn(0)  # end of WAL that the upstream has sent on this connection
        self._silent_since = 0  # since when nothing sent can arrive; 0: it can
        self._stalled: list[tuple[list[Record], int, int]] = []  # arrived and not read
        self._cut_off = False  # the connection is closed; what has arrived is still to be read
        self._dial: Dial | None = None
        startup.will_receive(timeline_at(startup.data.history, startup.data.end), anew=False)
        if upstream == server.node:
            server.later(NS_PER_MS, self.die, "it is to follow itself")
        else:
            network = server.env.network
            self._dial = network.connect(
                server.node, upstream, Traffic.REPLICATION, self._connected
            )
            server.later(HANDSHAKE_NS, self._give_up)

    # ------------------------------------------------------------ handshake

    def _connected(self, conn: Connection | None, why: str) -> None:
        self._dial = None
        server = self.server
        if not self.alive:
            if conn is not None:
                conn.close(server.node)
        elif conn is None:
            server.later(0, self.die, why)
        else:
            self.conn = conn
            conn.on_closed[server.node] = self._closed
            self._identify()

    def _identify(self) -> None:
        assert self.conn is not None
        server = self.server
        self.conn.send(server.node, partial(server.ask, self.upstream, "identify", self))

    def _give_up(self) -> None:
        if self.alive and self.phase is ReceiverPhase.CONNECTING:
            self.die("the upstream does not answer")

    def identified(self, system_id: int, tli: TimelineId, files: dict[int, Chain]) -> None:
        """Learn who the upstream is and which history files it has; ask for WAL."""
        server = self.server
        if not self.alive:
            return
        if server.frozen:
            server.hold(self.identified, system_id, tli, files)
            return
        data = self.startup.data
        if system_id != data.system_id:
            server.note("foreign_upstream")
            self.die("the system identifier differs")
            return
        begin = timeline_at(data.history, data.end)
        if tli < begin:
            self.die(f"the upstream's timeline {tli} is behind timeline {begin}")
            return
        for number in range(begin, tli + 1):
            # Placeholders are fetched like any other; without one, nothing is followed at all.
            if number > 1 and number not in data.history_files:
                if number not in files:
                    self.die(f"the upstream has no history file of timeline {number}")
                    return
                data.history_files[number] = files[number]
                server.version += 1
        if self.phase is ReceiverPhase.FETCHING:
            self._wait_for_startup(more=data.flushed < len(data.wal))
        else:
            self.request(begin)

    def request(self, tli: TimelineId) -> None:
        """Ask for the WAL of a timeline from the own end on."""
        assert self.conn is not None
        self.tli = tli
        end = self.startup.data.end
        if self.phase is ReceiverPhase.WAITING:
            self.startup.will_receive(tli, anew=True)
        self.conn.send(
            self.server.node, partial(self.server.ask, self.upstream, "start", self, end, tli)
        )

    def refused(self, why: str) -> None:
        """The upstream answers a request with an error."""
        server = self.server
        if server.frozen:
            server.hold(self.refused, why)
        elif self.alive:
            if why == REMOVED:
                server.log_removed()
            self.die(why)

    def started(
        self,
        wal: list[Record],
        lo: int,
        hi: int,
        tli: TimelineId,
        next_tli: TimelineId | None,
        sender: Sender,
    ) -> None:
        """Streaming begins, with what there is; `next_tli`: and ends here."""
        server = self.server
        if not self.alive:
            return
        if server.frozen:
            server.hold(self.started, wal, lo, hi, tli, next_tli, sender)
            return
        self.sender, self.tli = sender, tli
        self.heard_ns = server.heap.now_ns
        first = self.phase is ReceiverPhase.CONNECTING
        startup = self.startup
        self._known = startup.data.lsn_at(startup.replayed)
        self._sent = wal[hi - 1].end
        self.phase = ReceiverPhase.STREAMING
        server.version += 1
        if next_tli is None:
            self._note_branch(wal, lo)
        if lo < hi:
            self.receive(wal, lo, hi)
        elif not server.receive_stalled:
            self.reply()  # PostgreSQL gets what it has of the segment once more
        if next_tli is not None:
            self._timeline_ended(lo < hi, next_tli)
        if first:
            self.replied_ns = server.heap.now_ns - STATUS_NS + IDLE_NS
            self._tick_after(server.draw_ns(IDLE_NS))

    def ended(self, wal: list[Record], lo: int, hi: int, next_tli: TimelineId) -> None:
        """The timeline that is streamed ends with these records: the upstream was promoted."""
        server = self.server
        if not self.alive:
            return
        if server.frozen:
            server.hold(self.ended, wal, lo, hi, next_tli)
            return
        if lo < hi:
            self.receive(wal, lo, hi)
        self._timeline_ended(lo < hi, next_tli)

    def _note_branch(self, wal: list[Record], lo: int) -> None:
        own = self.startup.data.wal
        if lo != len(own) or (lo and own[-1] is not wal[lo - 1]):
            self.server.note("same_timeline_other_branch", f"follows {self.upstream}")

    def _timeline_ended(self, more: bool, next_tli: TimelineId) -> None:
        if next_tli in self.startup.data.history_files:
            self._wait_for_startup(more=more)
        else:  # the upstream was promoted since it was asked who it is
            self.phase = ReceiverPhase.FETCHING
            self._identify()

    def _wait_for_startup(self, *, more: bool) -> None:
        self.phase = ReceiverPhase.WAITING
        if not more:
            self.reply()
            self.startup.turn()

    # ------------------------------------------------------------ WAL

    def receive(self, wal: list[Record], lo: int, hi: int) -> None:
        """Write records [lo, hi) of the upstream's list and have them flushed."""
        server = self.server
        if not self.alive:
            return
        if server.frozen and not self._stalled:
            server.hold(self.receive, wal, lo, hi)
            return
        if server.receive_stalled or self._stalled:
            self._stalled.append((wal, lo, hi))  # behind what came before it
            return
        self.heard_ns = server.heap.now_ns
        self._sent = wal[hi - 1].end
        if server.wal_full:
            self.die("no space is left for WAL")
            return
        data = self.startup.data
        own = data.wal
        if hi - lo == 1 and own:
            record = wal[lo]
            if record.end > own[-1].end:
                own.append(record)
        else:
            end = data.end
            own.extend(record for record in wal[lo:hi] if record.end > end)
        data.written = count = len(own)
        server.moves += 1
        if not self._flushing:
            self._flushing = True
            server.after_fsync(self._flushed, count)
        if self.sender is not None and self.sender.wants_writes:
            self.reply()

    def read_on(self) -> None:
        """Read what has arrived while this process was stalled."""
        stalled, self._stalled = self._stalled, []
        for batch in stalled:
            self.receive(*batch)
        if self._cut_off:
            self._closed()

    def _flushed(self, count: int) -> None:
        if not self.alive:
            return
        self._flushing = False
        data, server = self.startup.data, self.server
        self._mark_flushed(count)
        self.startup.available(count)
        if not self.alive:
            return
        self.reply()
        if len(data.wal) > count:
            self._flushing = True
            server.after_fsync(self._flushed, len(data.wal))
        elif self.phase is ReceiverPhase.WAITING:
            self.startup.turn()

    def _mark_flushed(self, count: int) -> None:
        startup, server = self.startup, self.server
        data = startup.data
        if count > data.flushed:
            data.flushed = count
            if not server.fsync_lies:
                data.durable = count
        lsn = data.lsn_at(count)
        if lsn > startup.received and lsn > self._known:
            startup.received = lsn
        server.moves += 1

    # ------------------------------------------------------------ replies

    def reply(self, ping: bool = False) -> None:
        """Tell the upstream how far this standby is."""
        conn, sender, server = self.conn, self.sender, self.server
        if conn is None or sender is None:
            return
        now = self.replied_ns = server.heap.now_ns
        startup = self.startup
        data = startup.data
        end, count, replayed = data.end, len(data.wal), startup.replayed
        # Only what was sent counts as written, but everything there is as flushed and applied.
        write = self._sent if self._sent < end else end
        flush = end if data.flushed == count else data.lsn_at(data.flushed)
        apply = end if replayed == count else data.lsn_at(replayed)
        conn.send(server.node, partial(sender.replied, write, flush, apply, now, ping))

    def kept_alive(self) -> None:
        """The upstream gives a sign of life."""
        if not self.server.receive_stalled:
            self.heard_ns = self.server.heap.now_ns

    def _tick_after(self, delay_ns: int) -> None:
        self.server.later(delay_ns, self._tick, self.server.heap.now_ns + delay_ns)

    def _tick(self, due_ns: int) -> None:
        """Reply at least once a second, and notice an upstream that is gone."""
        if not self.alive:
            return
        server = self.server
        now = server.heap.now_ns
        if now > due_ns:
            self._tick_after(0)  # it was frozen: what has arrived meanwhile is read first
            return
        silent = now - self.heard_ns
        if silent >= TIMEOUT_NS:
            self.die("the upstream is silent")
            return
        if now - self.replied_ns >= STATUS_NS - NS_PER_MS:
            self.reply(ping=silent >= TIMEOUT_NS // 2)
        if silent >= STATUS_NS and self._unacknowledged(now):
            self.die("the connection timed out")
            return
        self._tick_after(max(NS_PER_MS, self.replied_ns + STATUS_NS - now))

    def _unacknowledged(self, now: int) -> bool:
        """Return whether what was sent could not be acknowledged for too long."""
        network, here = self.server.env.network, self.server.node
        kind = Traffic.REPLICATION
        passes = (
            network.is_open(here, self.upstream, kind)
            and network.is_open(self.upstream, here, kind)
            and network.listening(self.upstream, kind) is not None
        )
        if passes:
            self._silent_since = 0
        elif not self._silent_since:
            self._silent_since = now
        return bool(self._silent_since) and now - self._silent_since >= UNACKNOWLEDGED_NS

    # ------------------------------------------------------------ the end

    def terminate(self) -> None:
        """Take SIGTERM: what was written is flushed first."""
        if self.alive:
            self.die("terminated")

    def die(self, why: str) -> None:
        """End this process; the startup process is told. What was written is flushed."""
        if not self.alive:
            return
        self.drop()
        data = self.startup.data
        self._mark_flushed(len(data.wal))
        self.startup.available(len(data.wal))
        self.startup.receiver_ended(self, why)

    def drop(self) -> None:
        """End with the whole server, or as part of `die`."""
        self.alive = False
        if self._dial is not None:
            self._dial.cancel()
        if self.conn is not None:
            self.conn.close(self.server.node)

    def _closed(self) -> None:
        server = self.server
        if server.frozen:
            server.hold(self._closed)
        elif self._stalled:
            self._cut_off = True
        else:
            self.die("the upstream closed the connection")
