"""What a server does once it is out of recovery: insert, flush, send, and let commits wait.

Invariant: only flushed WAL is sent, a commit waits for standbys only after its own flush, and an
application sees a commit only when its wait has ended, however it ended.

Source: PostgreSQL 15, xlog.c, walsender.c, syncrep.c.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from metako.model.ids import NodeId, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import SyncSetting
from sim.heap import NS_PER_MS, NS_PER_S
from sim.postgres.commits import Commit, CommitState, Outcome, SyncLevel
from sim.postgres.sender import POSITIONS, Sender
from sim.postgres.slots import kept_from, save
from sim.postgres.syncwait import MODES, SyncQueue
from sim.postgres.wal import Record, RecordKind

if TYPE_CHECKING:
    from sim.postgres.data import Data
    from sim.postgres.server import SimServer

WRITER_NS = 200 * NS_PER_MS
"""`wal_writer_delay`: within it, WAL that nobody waits for is flushed."""
CHECKPOINT_NS = 300 * NS_PER_S
CHECKPOINTS_OF_ROOM = 4
"""Where space for WAL is limited, `max_wal_size` is set so that a checkpoint begins this often
before it is used up."""


class Primary:
    """See the module's docstring."""

    __slots__ = (
        *("_checkpoint", "_checkpoint_end", "_checkpoint_ns", "_flushing", "_keep_from", "_lazy"),
        *("_slots_need", "_unflushed"),
        *("data", "queue", "senders", "server", "stopping", "write_replies"),
    )

    def __init__(self, server: SimServer, data: Data) -> None:
        self.server = server
        self.data = data
        self.senders: list[Sender] = []  # processes, oldest first; one that lost its standby stays
        self.queue = SyncQueue()
        self.stopping: Callable[[], None] | None = None  # told when every standby has everything
        self.write_replies = 0  # how many ask that standbys reply about what is only written
        self._unflushed: deque[Commit] = deque()  # wait for their own flush
        self._flushing = False
        self._lazy = False  # the WAL writer will flush
        self._checkpoint: Record | None = None  # not flushed yet
        self._keep_from: Lsn | None = None  # the checkpoint removes older WAL
        self._slots_need = 0  # LSN from which slots kept WAL when the checkpoint began; 0: none
        self._checkpoint_end = len(data.wal)  # records when the last checkpoint began
        self._checkpoint_ns = server.heap.now_ns + CHECKPOINT_NS

    # ------------------------------------------------------------ inserting and flushing

    def commit(
        self,
        kind: RecordKind,
        values: tuple[tuple[str, str], ...],
        level: SyncLevel,
        on_done: Callable[[Outcome], object],
    ) -> Commit | None:
        """Insert a commit; None if the server panicked instead."""
        server = self.server
        if server.wal_full:
            server.panic("no space is left for WAL")
            return None
        record = self.data.append(kind, values, server.next_commit_id())
        server.version += 1
        commit = Commit(record.commit_id, values, level, record, on_done)
        if level is SyncLevel.REMOTE_WRITE:
            self.write_replies += 1  # there may be more of them
        if level is SyncLevel.OFF:
            if not self._lazy:
                self._lazy = True
                server.later(server.draw_ns(WRITER_NS), self._write_lazily)
            self._finish(commit, Outcome.OK)
        else:
            self._unflushed.append(commit)
            self.flush()
        return commit

    def insert(self, kind: RecordKind) -> Record:
        """Insert a record that nobody waits for, and flush it."""
        record = self.data.append(kind)
        self.server.version += 1
        self.flush()
        return record

    def _write_lazily(self) -> None:
        self._lazy = False
        self.flush()

    def flush(self) -> None:
        """Begin to flush all that was inserted, unless a flush is under way."""
        data = self.data
        if not self._flushing and data.flushed < len(data.wal):
            self._flushing = True
            data.written = count = len(data.wal)
            self.server.after_fsync(self._flushed, count)

    def _flushed(self, count: int) -> None:
        data, server = self.data, self.server
        self._flushing = False
        data.flushed = count
        if not server.fsync_lies:
            data.durable = count
        for sender in self.senders:
            sender.push(count)
        unflushed, end = self._unflushed, data.wal[count - 1].end
        while unflushed and unflushed[0].record.end <= end:
            self._wait(unflushed.popleft())
            if server.primary is not self:
                return  # whoever was told ended the server
        if self._checkpoint is not None and self._checkpoint.end <= end:
            self._checkpointed(self._checkpoint)
            if server.primary is not self:
                return  # it let the last sender go that a shutdown waited for
        if server.heap.now_ns >= self._checkpoint_ns or (server.wal_limit and self._grown()):
            self.checkpoint()
        self.flush()
        if self.stopping is not None:
            self.check_stopping()

    def checkpoint(self, keep_from: Lsn | None = None) -> None:
        """Let pg_control name the current timeline and end of WAL, once that is flushed.

        Args:
            keep_from: older WAL is removed when the checkpoint is complete; None: it is kept.
        """
        if keep_from is not None:
            self._keep_from = keep_from
        self._checkpoint_ns = self.server.heap.now_ns + CHECKPOINT_NS
        self._checkpoint_end = len(self.data.wal)
        self._slots_need = save(self.data.slots) if self.data.slots else 0
        self._checkpoint = self.insert(RecordKind.CHECKPOINT)

    @property
    def redo_lsn(self) -> Lsn:
        """Return where the newest checkpoint begins, be it complete or not."""
        newest = self._checkpoint
        return newest.end if newest is not None else self.data.control.redo_lsn

    def _checkpointed(self, record: Record) -> None:
        self._checkpoint = None
        control = self.data.control
        control.checkpoint_tli, control.redo_lsn = record.tli, record.end
        control.min_recovery_tli, control.min_recovery_lsn = TimelineId(0), Lsn(0)
        if self._keep_from is not None or self.server.removes_wal:
            self._remove_wal(record.end)
        self.server.version += 1

    def _remove_wal(self, end: Lsn) -> None:
        """Remove what neither the checkpoint that ends here nor a setting nor a slot needs."""
        server, data = self.server, self.data
        keep, self._keep_from = self._keep_from, None
        if keep is None:
            most = data.lsn_at(max(0, len(data.wal) - server.wal_keep))
            keep = Lsn(min(end, most) // server.wal_grain * server.wal_grain)
        if data.slots:
            keep = kept_from(server, keep, end, self._slots_need)
        data.wal_begin = max(data.wal_begin, keep)

    def _grown(self) -> bool:
        """Return whether so much was written that a checkpoint has to make room."""
        room = self.server.wal_room // CHECKPOINTS_OF_ROOM
        return self._checkpoint is None and len(self.data.wal) - self._checkpoint_end > room

    # ------------------------------------------------------------ waiting for standbys

    def _wait(self, commit: Commit) -> None:
        mode = MODES.get(commit.level)
        if mode is None or not self.server.sync_defined or not self.queue.wait(commit, mode):
            self._finish(commit, Outcome.OK)
        elif commit.cancelled:
            self.cancel(commit)

    def release(self, sender: Sender) -> None:
        """Wake what k standbys have acknowledged, by the sender's own copy of the setting."""
        queue = self.queue
        released = queue.released
        if (
            sender.flush_lsn <= released[1]
            and sender.apply_lsn <= released[2]
            and sender.write_lsn <= released[0]
        ):
            return
        k = sender.setting.k
        counted = [s for s in self.senders if s.listed and s.streaming and s.flush_lsn]
        if len(counted) < k or k <= 0:
            return
        for mode, position in POSITIONS:
            positions = map(position, counted)
            lsn = max(positions) if k == 1 else sorted(positions, reverse=True)[k - 1]
            if lsn > released[mode]:
                for commit in queue.release(mode, lsn):
                    self._finish(commit, Outcome.OK)

    def wake_all(self) -> None:
        """No standby is defined any more: every waiter returns as if it were acknowledged."""
        woken = self.queue.drain()
        if woken:
            self.server.note("empty_setting_woke_waiters", f"{len(woken)} commits")
        for commit in woken:
            self._finish(commit, Outcome.OK)

    def cancel(self, commit: Commit) -> None:
        """Cancel a wait for standbys; a flush is not cancelled, the wait after it is."""
        if commit.waiting and self.queue.remove(commit):
            self.server.note("commit_cancelled_visible")
            self._finish(commit, Outcome.OK_WITH_WARNING)
        else:
            commit.cancelled = True

    def _finish(self, commit: Commit, outcome: Outcome) -> None:
        server = self.server
        if outcome is Outcome.OK:
            commit.state = CommitState.ACKNOWLEDGED
            if commit.kind is RecordKind.COMMIT:
                server.truth.acknowledged(server, commit)
        else:
            commit.state = CommitState.WARNED
        commit.on_done(outcome)

    def terminate(self, commit: Commit) -> None:
        """End the backend of a commit: its client is gone, the record stays."""
        if commit.waiting:
            commit.state = CommitState.LOST
            self.queue.remove(commit)

    def end_backends(self) -> int:
        """End every backend; return how many commits were written and never answered."""
        ended = [*self.queue.drain(), *self._unflushed]
        self._unflushed.clear()
        written = self.data.written
        known = self.data.lsn_at(written)
        for commit in ended:
            commit.state = CommitState.LOST
        for commit in ended:
            commit.on_done(Outcome.LOST)
        return sum(1 for commit in ended if commit.record.end <= known)

    def first_invisible_lsn(self) -> int | None:
        """Return the LSN of the oldest commit that nobody sees yet."""
        first = self.queue.first_lsn()
        if self._unflushed:
            own = self._unflushed[0].record.end
            return own if first is None else min(first, own)
        return first

    def invisible(self) -> set[Record]:
        """Return the records of commits that nobody sees yet."""
        waiting = [commit.record for queue in self.queue.queues for commit in queue]
        return {*waiting, *(commit.record for commit in self._unflushed)}

    # ------------------------------------------------------------ senders

    @property
    def tli(self) -> TimelineId:
        """Return the timeline that is written."""
        return self.data.tli

    @property
    def ready(self) -> int:
        """Return how many records may be sent."""
        return self.data.flushed

    @property
    def surplus(self) -> int:
        """A primary flushes whole records."""
        return 0

    def attach(self, sender: Sender) -> None:
        """Take a new sender among those that are fed and counted."""
        self.senders.append(sender)
        self.server.version += 1

    def sender_ended(self, sender: Sender) -> None:
        """Forget a sender."""
        if sender in self.senders:
            self.senders.remove(sender)
            self.server.version += 1
        self.check_stopping()

    def newest(self) -> dict[NodeId, Sender]:
        """Return the newest sender of each standby; older ones linger until their time-out."""
        return {sender.node: sender for sender in self.senders}

    def could_acknowledge(self) -> bool:
        """Return whether a commit inserted now would be acknowledged by what is attached now."""
        if not self.server.sync_defined:
            return True
        end = self.data.end
        attached = [s for s in self.senders if s.attached]
        return any(
            self._reaches(attached, setting, end)
            for s in attached
            for setting in (s.setting, s.next_setting)
            if setting is not None and s.node in setting.nodes
        )

    def _reaches(self, attached: list[Sender], setting: SyncSetting, end: int) -> bool:
        count = sum(1 for s in attached if s.listed or s.node in setting.nodes)
        # One that says it is ahead acknowledges what it never got.
        count += sum(
            1 for s in self.senders if s.listed and s.flush_lsn > end and s not in attached
        )
        return 0 < setting.k <= count

    # ------------------------------------------------------------ shutting down

    def stop_when_sent(self, done: Callable[[], None]) -> None:
        """Write the shutdown checkpoint; `done` once every connected standby has it on disk."""
        self.stopping = done
        self.checkpoint()

    def check_stopping(self) -> None:
        """Go on with a shutdown that waited for a sender."""
        done, data = self.stopping, self.data
        if done is None or data.flushed < len(data.wal):
            return
        data.control.clean = True
        end = data.end
        # One that has sent a former timeline to its end is idle, and ends at once.
        if all(s.flush_lsn >= end for s in self.senders if s.limit is None):
            self.stopping = None
            done()
