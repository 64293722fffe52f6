"""The startup process of a standby: recovery, replay, following a timeline, promotion.

In: WAL on disk and what the receiver adds; reloads; the request to promote. Out: rows that readers
see, a receiver when there is nothing left to replay, and in the end a primary. While it is paused
(a conflict, a delay, pg_wal_replay_pause) it reacts to nothing: a reload then ends no receiver, and
what that receives goes on being acknowledged.

Source: PostgreSQL 15, xlogrecovery.c, xlog.c.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from metako.model.ids import TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import ProcessState
from metako.model.timeline import HistoryStep
from metako.postgres.steps import UpstreamAddress
from sim.heap import NS_PER_MS, NS_PER_S
from sim.postgres.cascade import Cascade, part_of_a_record
from sim.postgres.receiver import Receiver, ReceiverPhase
from sim.postgres.slots import kept_from, oldest, save
from sim.postgres.wal import (
    Chain,
    RecordKind,
    chain_of,
    count_until,
    last_checkpoint,
    newest_from,
    segment_of,
    timeline_at,
)

if TYPE_CHECKING:
    from sim.postgres.data import Data
    from sim.postgres.server import SimServer

RETRY_NS = 100 * NS_PER_MS
"""`wal_retrieve_retry_interval`."""
REPLAY_NS = 100_000
"""Per record of WAL that is found on disk after a start."""
REPLAY_MAX_NS = 10 * NS_PER_S
RESTARTPOINT_NS = 300 * NS_PER_S
REREAD_MS = 2
RELEASE_MS = (15, 55)
"""From the moment at which the startup process knows of another upstream until the old receiver is
gone; measured."""
PROMOTE_MS = 28
END_OF_RECOVERY_MS = 9
HANG_NS = 20 * NS_PER_MS


class Startup:
    """See the module's docstring."""

    __slots__ = (
        *(
            "_caught_up",
            "_due",
            "_going",
            "_promoting",
            "_received_tli",
            "_reread",
            "_restartpoint_ns",
            "_retry",
            "_since",
            "cascade",
        ),
        *("data", "partial", "received", "receiver", "replayed", "replayed_ns", "server"),
        *("slot", "upstream"),
    )

    def __init__(self, server: SimServer, data: Data) -> None:
        self.server = server
        self.data = data
        self.receiver: Receiver | None = None
        self.upstream: UpstreamAddress | None = None  # as this process last read the settings
        self.slot = ""  # likewise: the slot there; "": none
        self.cascade = Cascade(self)
        self.replayed = 0  # records
        self.replayed_ns = server.heap.now_ns  # when the last one was
        self.received = Lsn(0)  # end of WAL received since the start; 0: none
        self.partial = 0  # bytes received beyond the last whole record
        self._received_tli = TimelineId(0)  # of that WAL
        self._caught_up = False  # what was on disk at the start is replayed
        self._reread = False  # the settings changed while it was paused
        self._due: Callable[[], None] | None = None  # what it was about to do when it was paused
        self._promoting: Callable[[], None] | None = None  # told when the server is a primary
        self._going = False  # a promotion is under way
        self._retry = False  # a turn is scheduled
        self._since = 0  # counts changes of upstream, so that an old release does nothing
        self._restartpoint_ns = server.heap.now_ns + RESTARTPOINT_NS

    # ------------------------------------------------------------ coming up

    def begin(self) -> str:
        """Find the history to follow; return why recovery is impossible, "" if it is not."""
        data, control = self.data, self.data.control
        config = self.server.config
        assert config is not None
        self.upstream, self.slot = self.server.upstream_read
        if control.redo_lsn > data.end:
            return "could not locate a valid checkpoint record"
        chain, wrong = data.recovery_chain()
        if wrong:
            return wrong
        data.history = chain
        if data.wal and data.wal[-1].tli < timeline_at(chain, data.end - 1):
            # Killed beyond the fork, with the new history at hand and none of its WAL: what the old
            # timeline's files hold is replayed to their end, and taken to be of the new one.
            self.server.note("wal_beyond_fork_replayed", f"of timeline {data.wal[-1].tli}")
        self.replayed = count_until(data.wal, control.redo_lsn)
        return ""

    @property
    def least_lsn(self) -> Lsn:
        """Return where recovery becomes consistent: a crashed primary replays all that it has."""
        control = self.data.control
        crashed = not control.clean and not control.min_recovery_lsn
        return self.data.end if crashed else max(control.min_recovery_lsn, control.redo_lsn)

    def recover(self) -> None:
        """Replay to the minimum recovery point; the server is up if that is on disk."""
        data, control = self.data, self.data.control
        self.replayed = max(self.replayed, count_until(data.wal, self.least_lsn))
        control.min_recovery_tli = timeline_at(data.history, self.least_lsn - 1)
        control.min_recovery_lsn = self.least_lsn
        control.clean = False
        if control.min_recovery_lsn <= data.end:
            self.server.came_up()
        if self.server.startup is self:
            left = len(data.wal) - self.replayed
            self.server.later(min(REPLAY_MAX_NS, NS_PER_MS + left * REPLAY_NS), self._catch_up)

    def _catch_up(self) -> None:
        if self.server.replay_paused:
            self._due = self._catch_up
            return
        self._caught_up = True
        self._replay(len(self.data.wal))
        self.turn()

    # ------------------------------------------------------------ replay

    def available(self, count: int) -> None:
        """There are so many records on disk."""
        if self._caught_up and not self.server.replay_paused:
            self._replay(count)
        elif self.cascade.senders:
            self.cascade.push()

    def _replay(self, count: int) -> None:
        server, data = self.server, self.data
        if count > self.replayed:
            self.replayed = count
        server.moves += 1
        if (
            server.process is ProcessState.STARTING
            and data.lsn_at(self.replayed) >= data.control.min_recovery_lsn
        ):
            server.came_up()
        now = self.replayed_ns = server.heap.now_ns
        if now >= self._restartpoint_ns or (server.wal_limit and self._checkpoint_replayed()):
            self._restartpoint_ns = now + RESTARTPOINT_NS
            self.restartpoint()
        if self.cascade.senders:
            self.cascade.push()

    def _checkpoint_replayed(self) -> bool:
        """Return whether a restartpoint would make room for WAL."""
        return last_checkpoint(self.data.wal, self.replayed) > self.data.control.redo_lsn

    def restartpoint(self) -> None:
        """Let pg_control name how far replay has come."""
        self.server.version += 1
        control, data = self.data.control, self.data
        lsn = data.lsn_at(self.replayed)
        if data.slots:
            save(data.slots)
        if self.server.removes_wal:
            self._remove_wal(lsn)
        owner = data.wal[self.replayed - 1].tli if self.replayed else data.history[0].tli
        control.checkpoint_tli, control.redo_lsn = owner, lsn
        control.min_recovery_tli, control.min_recovery_lsn = owner, lsn

    def _remove_wal(self, replayed: Lsn) -> None:
        """Remove what is not needed from the last checkpoint in the WAL on.

        Without one since the last restartpoint there is none to be made, and nothing is removed: a
        standby whose disk is full stays full, although the slot was dropped (measured).
        """
        server, data = self.server, self.data
        redo = last_checkpoint(data.wal, self.replayed)
        if redo <= data.control.redo_lsn:
            return
        most = data.lsn_at(max(0, len(data.wal) - server.wal_keep))
        keep = Lsn(min(redo, most) // server.wal_grain * server.wal_grain)
        if data.slots:
            keep = kept_from(server, keep, replayed, oldest(data.slots.values()))
        data.wal_begin = max(data.wal_begin, keep)

    def unpause(self) -> None:
        """Go on after a pause, by the settings of now: PostgreSQL reads them while it is paused."""
        if self._reread:
            self._reread = False
            self._read_settings()
        due, self._due = self._due, None
        if due is not None:
            due()
        if self._caught_up:
            self._replay(self.data.flushed)
            if self.receiver is not None and self.receiver.phase is ReceiverPhase.STREAMING:
                self.receiver.reply()
        self.turn()

    # ------------------------------------------------------------ the receiver

    def will_receive(self, tli: TimelineId, *, anew: bool) -> None:
        """Take note that a receiver is asked for WAL of a timeline from the end on.

        What is received is counted on, but for another timeline, or if it is to begin `anew`.
        """
        begin = segment_of(self.data.end)
        again = anew or tli != self._received_tli
        self.received = begin if again else max(self.received, begin)
        self._received_tli = tli

    def turn(self) -> None:
        """Do what the startup process does when there is no more WAL to replay."""
        server = self.server
        if self._retry or self._going or not self._caught_up or server.replay_paused:
            return
        if self._promoting is not None:
            self._promote()
            return
        receiver = self.receiver
        if receiver is not None and receiver.phase is not ReceiverPhase.WAITING:
            return
        moved = self._follow_newest()
        if receiver is not None:
            begin = timeline_at(self.data.history, self.data.end)
            if moved or begin != receiver.tli:
                receiver.request(begin)
            else:
                # There is a newer timeline that this server cannot follow: it asks again and again.
                self._retry = True
                server.later(RETRY_NS, self._ask_again, receiver)
            return
        if self.upstream is not None:
            self.receiver = Receiver(self, self.upstream.node)
            server.version += 1

    def _ask_again(self, receiver: Receiver) -> None:
        self._retry = False
        if receiver is self.receiver and receiver.phase is ReceiverPhase.WAITING:
            if not self._follow_newest():
                self.server.note("diverged_standby_attached", f"follows {receiver.upstream}")
            receiver.request(timeline_at(self.data.history, self.data.end))
        else:
            self.turn()

    def _follow_newest(self) -> bool:
        """Go over to the newest timeline that a history file names, if replay is not past it."""
        data = self.data
        target = newest_from(data.tli, data.history_files)
        if target == data.tli:
            return False
        chain = chain_of(target, data.history_files)
        at = data.lsn_at(self.replayed)
        for step, successor in pairwise(chain):
            if step.tli == data.tli:
                if successor.begin_lsn < at:
                    return False
                if lost := data.follow(chain):
                    self.server.note("wal_beyond_fork_dropped", f"{lost} records")
                self.server.version += 1
                return True
        return False

    def receiver_ended(self, receiver: Receiver, why: str) -> None:
        """The receiver is gone: try again, or go on with whatever waited for that."""
        if receiver is not self.receiver:
            return
        self.receiver = None
        server = self.server
        if receiver.phase is ReceiverPhase.STREAMING:
            self.partial = part_of_a_record(server.rng)
        server.version += 1
        server.last_receiver_error = why
        if self._promoting is not None:
            self.turn()
            return
        self._retry = True
        server.later(RETRY_NS, self._try_again)

    def _try_again(self) -> None:
        self._retry = False
        self.turn()

    def reload(self) -> None:
        """Get SIGHUP."""
        if self.server.replay_paused:
            self._reread = True
        else:
            self.server.later(self.server.draw_ns(REREAD_MS * NS_PER_MS), self._read_settings)

    def _read_settings(self) -> None:
        server = self.server
        if server.replay_paused:
            self._reread = True
            return
        read = server.upstream_read
        if read == (self.upstream, self.slot):
            return
        self.upstream, self.slot = read
        self._since += 1
        if self.receiver is not None:
            low, high = RELEASE_MS
            delay = server.rng.uniform(low, high) * NS_PER_MS
            server.later(int(delay), self._release, self._since)
        else:
            self._retry = False
            self.turn()

    def _release(self, since: int) -> None:
        if since != self._since:
            return  # the settings changed once more
        if self.server.replay_paused:
            self._due = partial(self._release, since)
        elif self.receiver is not None:
            self.receiver.terminate()
            self._retry = False
            self.turn()

    # ------------------------------------------------------------ promotion

    @property
    def promoting(self) -> bool:
        """Whether it has been told to become a primary, and will, unless it ends."""
        return self._promoting is not None

    def promote(self, done: Callable[[], None]) -> None:
        """Become a primary after replaying everything that was received."""
        self._promoting = done
        self.turn()

    def _promote(self) -> None:
        receiver = self.receiver
        if receiver is not None:
            receiver.terminate()
            return  # `receiver_ended` comes back
        self._going = True  # nothing else is done from here on
        server = self.server
        delay = server.delay_ns(PROMOTE_MS) + int(server.promote_extra_ms * NS_PER_MS)
        server.later(delay, self._choose_timeline)

    def _choose_timeline(self) -> None:
        server, data = self.server, self.data
        if server.promote_hangs or server.replay_paused:
            server.later(HANG_NS, self._choose_timeline)
            return
        self.replayed = len(data.wal)
        tli = TimelineId(newest_from(data.tli, data.history_files) + 1)
        chain = (*data.history, HistoryStep(tli, data.end))
        data.history_files[tli] = chain
        server.version += 1
        server.later(server.delay_ns(END_OF_RECOVERY_MS), self._end_recovery, chain)

    def _end_recovery(self, chain: Chain) -> None:
        server, data, done = self.server, self.data, self._promoting
        if server.wal_full:
            server.panic("no space is left for WAL")
            return
        data.history = chain
        data.branch = server.env.new_id("branch")
        data.append(RecordKind.END_OF_RECOVERY)
        # It is flushed before anybody is let in, and makes pg_control name the new timeline as
        # the one that recovery must reach.
        data.written = data.flushed = len(data.wal)
        if not server.fsync_lies:
            data.durable = data.flushed
        data.control.min_recovery_tli, data.control.min_recovery_lsn = data.tli, data.end
        data.standby_signal = False
        self.partial = 0  # what is written now takes its place
        server.became_primary()
        if done is not None:
            done()

    def drop(self) -> None:
        """End with the whole server, or with its recovery."""
        self.cascade.end()
        if self.receiver is not None:
            self.receiver.drop()
            self.receiver = None
