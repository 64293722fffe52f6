"""One PostgreSQL server: how it starts, ends and changes, and what others may ask of it.

In: starts, stops, reloads and promotions of the supervisor and the guard; commits and reads of
clients, already "at" the server; requests of other servers. Out: outcomes, messages to other
servers, ground truth.

Does not know why anything is asked of it, and never decides on its own what to become.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from metako.model.ids import DataId, NodeId, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import ProcessState
from metako.postgres.steps import ServerConfig
from sim.heap import NS_PER_MS, NS_PER_S
from sim.network import Traffic
from sim.postgres.commits import Commit, Outcome, SyncLevel
from sim.postgres.data import Data, first_data
from sim.postgres.primary import Primary
from sim.postgres.reading import Tables
from sim.postgres.sender import Feeder, start_sending
from sim.postgres.slots import forget_unsaved
from sim.postgres.startup import Startup
from sim.postgres.state import Ending, GuardPort, ServerState
from sim.postgres.wal import RECORD_BYTES, RecordKind

if TYPE_CHECKING:
    from sim.ports import Environment
    from sim.postgres.receiver import Receiver

__all__ = ["Commit", "GuardPort", "Outcome", "SimServer", "SyncLevel"]

BOOT_MS = 110
CRASH_BOOT_MS = 70
REDO_NS = 20_000
"""Per record that recovery replays before the server is up."""
REDO_MAX_MS = 20_000.0
DIE_MS = 5
STOP_STANDBY_MS = 30
STOP_BACKENDS_MS = 25
RELOAD_MS = 1
CHECKPOINTER_MS = 2
FAIL_MS = 80
BLOCKED_NS = NS_PER_S
HUNG_LOOK_NS = 100 * NS_PER_MS
"""How soon a server that no longer hangs reads what has arrived meanwhile."""


class SimServer(ServerState):
    """See the module's docstring."""

    def __init__(self, env: Environment, node: NodeId, guard: GuardPort) -> None:
        super().__init__(env, node, guard)
        self._in_doubt = 0  # commits that a restart will make visible
        self._tables = Tables(self)

    def changed(self) -> None:
        self.version += 1
        self.truth.server_changed(self)

    # ------------------------------------------------------------ disk

    def remove_wal(self) -> bool:
        """Remove WAL that this server itself does not need; False if there is none."""
        data, primary = self.data, self.primary
        if data is None or primary is None or len(data.wal) <= self.wal_keep:
            return False
        begin = data.lsn_at(len(data.wal) - self.wal_keep)
        if begin <= data.wal_begin:
            return False
        primary.checkpoint(keep_from=begin)
        return True

    def make_foreign(self) -> None:
        """Replace the data of a server that does not run by that of another system."""
        assert self.process is ProcessState.STOPPED
        self.data = self.new_data()
        self.changed()

    def new_data(self) -> Data:
        """Return what initdb makes."""
        rng = self.env.rng(self.node, "system_id")
        new_id = self.env.new_id
        return first_data(rng.getrandbits(62) + 1, DataId(new_id("data")), new_id("branch"))

    # ------------------------------------------------------------ life

    def start(self, config: ServerConfig) -> None:
        """Start the postmaster, as a standby."""
        data = self.data
        assert data is not None
        assert self.process is ProcessState.STOPPED
        self.epoch += 1
        self.conf = self.config = config
        self.process, self.in_recovery = ProcessState.STARTING, True
        data.settle()
        data.standby_signal = True
        self.sync_defined = config.sync.k > 0
        startup = self.startup = Startup(self, data)
        wrong = startup.begin()
        if not wrong and self.start_failures > 0:
            self.start_failures -= 1
            wrong = "it was told to fail"
        self.changed()
        if wrong:
            self.note("start_failed", wrong)
            self.later(self.delay_ns(FAIL_MS), self.kill)
            return
        control = data.control
        redo = max(0, startup.least_lsn - control.redo_lsn) // RECORD_BYTES
        boot_ms = float(BOOT_MS if control.clean else BOOT_MS + CRASH_BOOT_MS)
        boot_ms += min(REDO_MAX_MS, redo * REDO_NS / NS_PER_MS)
        self.later(self.delay_ns(boot_ms), startup.recover)

    def came_up(self) -> None:
        """Recovery is consistent: readers are let in, unless it is being stopped already."""
        if self.process is not ProcessState.STARTING:
            return
        self.process = ProcessState.RUNNING
        if self._in_doubt:
            self.note("waiters_visible_after_restart", f"{self._in_doubt} commits")
            self._in_doubt = 0
        self.changed()

    def became_primary(self) -> None:
        """Recovery has ended in a promotion."""
        data, startup = self.data, self.startup
        assert data is not None
        assert startup is not None
        primary = Primary(self, data)
        startup.cascade.go_over(primary)
        startup.drop()
        self.startup, self.primary = None, primary
        self.in_recovery = False
        self.truth.promoted(self, data.tli)
        self.changed()

    def stop(self, fast: bool) -> None:
        """SIGINT (fast) or SIGQUIT to the postmaster."""
        if not self.listens and self.process is not ProcessState.STOPPING:
            return
        if self.frozen:
            # Both signals wait for SIGCONT; only SIGKILL does not.
            if self._pending is not Ending.QUIT:
                self._pending = Ending.FAST if fast else Ending.QUIT
        elif not fast:
            self.kill()
        elif self.hung:
            self._pending = Ending.FAST
        elif self.process is not ProcessState.STOPPING:
            self._stop_fast()

    def _stop_fast(self) -> None:
        self.process = ProcessState.STOPPING
        if self.primary is not None:
            self._in_doubt += self.primary.end_backends()
            self.changed()
            self.later(self.delay_ns(STOP_BACKENDS_MS), self._checkpoint_and_stop)
        else:
            self.changed()
            self.later(self.delay_ns(STOP_STANDBY_MS), self._stop_standby)

    def _checkpoint_and_stop(self) -> None:
        primary = self.primary
        if primary is None:
            return
        if self.wal_full:
            self.panic("no space is left for WAL")
            return
        primary.stop_when_sent(self._gone)
        if primary.senders:
            self.later(BLOCKED_NS, self._note_blocked)

    def _note_blocked(self) -> None:
        primary = self.primary
        if primary is not None and primary.stopping is not None:
            behind = [s.node for s in primary.senders if s.flush_lsn < primary.data.end]
            self.note("stop_blocked_by_standby", " ".join(behind))

    def end_senders(self, successor: NodeId) -> None:
        """SIGTERM to the WAL senders of everybody else, in a shutdown that waits for them."""
        primary = self.primary
        if primary is None or self.frozen or self.process is not ProcessState.STOPPING:
            return
        for sender in [s for s in primary.senders if s.node != successor]:
            self.note("stop_ended_sender", sender.node)
            sender.terminate()

    def _stop_standby(self) -> None:
        startup = self.startup
        if startup is None:
            return
        if startup.receiver is not None:
            startup.receiver.terminate()
        startup.restartpoint()
        startup.data.control.clean = True
        self._gone()

    def panic(self, why: str) -> None:
        """The server ends itself."""
        self.note("server_panicked", why)
        self.kill()

    def kill(self) -> None:
        """End every process, frozen or not; a few milliseconds later they are gone."""
        if self.process in (ProcessState.STOPPED, ProcessState.DYING):
            return
        self._end_processes()
        if self.data is not None:
            self.data.cut(self.data.written)
        self.process = ProcessState.DYING
        self.changed()
        self._tell_exit()
        self.later(self.delay_ns(DIE_MS), self._gone)

    def host_crash(self) -> None:
        """The host loses power: peers are told nothing, the disk keeps what was durable."""
        network = self.env.network
        for connection in network.connections:
            if (
                self.node in (connection.src, connection.dst)
                and connection.traffic is Traffic.REPLICATION
            ):
                connection.abandon(self.node)
        self._end_processes()
        if self.data is not None and (lost := self.data.lose_power(self.rng)):
            self.note("host_crash_cut_wal", f"{lost} records")
        self.process = ProcessState.STOPPED
        self.changed()

    def _end_processes(self) -> None:
        """Every process is gone; nothing that was scheduled for it happens."""
        self.epoch += 1
        self._held = []
        self._pending = None
        self.frozen = False
        primary, startup = self.primary, self.startup
        self.primary = self.startup = None
        self.in_recovery, self.config = None, None
        if startup is not None:
            startup.drop()
        if primary is not None:
            self._in_doubt += primary.end_backends()
            for sender in primary.senders:
                sender.end()
        if self.data is not None and self.data.slots:
            forget_unsaved(self.data.slots)
        self.env.network.close_all(self.node, Traffic.REPLICATION)

    def _gone(self) -> None:
        """The postmaster and all that it started have ended."""
        if self.process is not ProcessState.DYING:
            self._end_processes()
        self.process = ProcessState.STOPPED
        self.changed()
        self._tell_exit()

    def _tell_exit(self) -> None:
        if self.watcher is not None:
            self.heap.after(NS_PER_MS // 2, self._call_watcher, self.watcher)

    def _call_watcher(self, watcher: Callable[[], None]) -> None:
        if watcher is self.watcher:
            watcher()

    # ------------------------------------------------------------ settings

    def reload(self) -> None:
        """SIGHUP to the postmaster: it reads the file that is on disk when it gets to it."""
        if self.listens:
            self.later(self.draw_ns(RELOAD_MS * NS_PER_MS), self._load)

    def _load(self) -> None:
        before, config = self.config, self.conf
        if config is None or before is None or not self.listens:
            return
        self.config = config
        if config.sync != before.sync:
            lag_ms = CHECKPOINTER_MS * self.rng.random() + self.checkpointer_stall_ms
            busy_ns = max(0, self.checkpointer_free_ns - self.heap.now_ns)
            self.later(busy_ns + int(lag_ms * NS_PER_MS), self._define_sync)
            feeder: Feeder | None = self.primary
            if feeder is None and self.startup is not None:
                feeder = self.startup.cascade
            for sender in () if feeder is None else feeder.senders:
                sender.reload(config.sync, self.draw_ns(NS_PER_MS // 2))
        startup = self.startup
        if startup is not None and (
            config.upstream != before.upstream or self.upstream_read[1] != startup.slot
        ):
            startup.reload()
        self.changed()

    def _define_sync(self) -> None:
        """The checkpointer takes note of whether any synchronous standby is defined."""
        assert self.config is not None
        self.sync_defined = self.config.sync.k > 0
        if not self.sync_defined and self.primary is not None:
            self.primary.wake_all()

    @property
    def promoting(self) -> bool:
        """Whether a promotion is under way, which nothing but its end can stop."""
        return self.startup is not None and self.startup.promoting

    def promote(self, done: Callable[[], None]) -> None:
        """Carry out pg_promote; `done` once it is out of recovery."""
        if self.startup is not None and self.is_up:
            self.startup.promote(done)

    def terminate_receiver(self) -> None:
        """SIGTERM to the WAL receiver, which works also while nothing else reacts."""
        receiver = self.receiver
        if receiver is not None and not self.frozen and not receiver.terminating:
            receiver.terminating = True
            self.note("receiver_terminated")
            self.later(self.draw_ns(NS_PER_MS), receiver.terminate)

    def log_removed(self) -> None:
        """A line in the log says that the upstream has removed WAL which is needed here."""
        self.removed_seen += 1
        self.note("wal_lost")

    # ------------------------------------------------------------ other servers

    def ask(self, upstream: NodeId, what: str, receiver: Receiver, *args: object) -> None:
        """Hand what has arrived at the upstream's address to the server there."""
        other = self.env.server(upstream)
        if other is not None:
            other.answer(what, receiver, *args)

    def answer(self, what: str, receiver: Receiver, *args: object) -> None:
        """Take a request of a standby's receiver; one in recovery sends on what it gets."""
        conn, startup, data = receiver.conn, self.startup, self.data
        feeder: Feeder | None = self.primary
        if feeder is None and startup is not None:
            feeder = startup.cascade
        if self.frozen:
            self.hold(self.answer, what, receiver, *args)
            return
        if conn is None or not conn.open:
            return
        if self.hung:
            # It stays in the socket until somebody reads on.
            self.later(HUNG_LOOK_NS, self.answer, what, receiver, *args)
            return
        if not self.is_up or feeder is None or data is None:
            conn.close(self.node)
            return
        if what == "identify":
            known = (data.system_id, feeder.tli, data.history_files)
            conn.send(self.node, partial(receiver.identified, *known))
        else:
            lsn, tli = args
            assert isinstance(lsn, int)
            assert isinstance(tli, int)
            start_sending(feeder, conn, receiver, Lsn(lsn), TimelineId(tli))

    # ------------------------------------------------------------ clients

    def can_login(self) -> bool:
        """Return whether an application gets a session now."""
        return self.admitting and not self.silent

    def commit(
        self,
        values: tuple[tuple[str, str], ...],
        level: SyncLevel,
        on_done: Callable[[Outcome], object],
    ) -> Commit | None:
        """Commit a transaction of an application; None: refused at once, nothing was written."""
        primary = self.primary
        if primary is None or not self.can_login():
            return None
        return primary.commit(RecordKind.COMMIT, values, level, on_done)

    def message(self, level: SyncLevel, on_done: Callable[[Outcome], object]) -> Commit | None:
        """Commit a transactional WAL message; None if the server does not take it."""
        primary = self.primary
        if primary is None or not self.is_up or self.silent:
            return None
        return primary.commit(RecordKind.MESSAGE, (), level, on_done)

    def cancel(self, commit: Commit) -> None:
        """Cancel the statement that commits: only its wait for standbys can be cancelled."""
        if self.frozen:
            self.hold(self.cancel, commit)
        elif self.primary is not None and commit.waiting and not self.hung:
            self.primary.cancel(commit)

    def read(self, key: str) -> tuple[str, ...] | None:
        """Return what a new snapshot sees of a key; None if there is no session to be had."""
        return self._tables.read(key) if self.can_login() else None
