"""Steps on a server that runs or is to run, as `metako.postgres.execute` carries them out.

Each is a generator that sleeps for as long as the real work takes and ends when the work is done; a
failure is an exception. What a step has found out goes into production's `Facts`. The order of
effects is production's own, so that an agent that is killed between two of them leaves what a real
one would leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import DataState, ProcessState, SyncSetting
from metako.postgres.facts import Facts
from metako.postgres.steps import NOBODY, ServerConfig, detached_config
from sim.heap import NS_PER_MS, NS_PER_S, Heap
from sim.postgres.commits import Outcome, SyncLevel
from sim.postgres.observe import POSTMASTER, Observer, control_of
from sim.postgres.server import SimServer
from sim.postgres.task import SqlError, StepError, Steps
from sim.postgres.wal import may_have_gone_over, missing_histories

FILE_MS = 3.0
"""Write one small file durably."""
CONNECT_MS = 4.0
SPAWN_MS = 9.0
READ_DISK_MS = 22.0
"""Run pg_controldata and pg_waldump."""
END_CLIENTS_MS = 3.0
QUERY_NS = 2 * NS_PER_S
POLL_NS = 4 * NS_PER_MS
WAIT_POLL_NS = 5 * NS_PER_MS
RELOAD_TIMEOUT_NS = 5 * NS_PER_S
RECEIVER_TERM_AFTER_NS = 100 * NS_PER_MS
RECEIVER_GIVE_UP_NS = NS_PER_S
STOP_FAST_TIMEOUT_NS = 60 * NS_PER_S
STOP_SENDERS_AFTER_NS = NS_PER_S // 2
QUIT_GRACE_NS = NS_PER_S
GUARD_TIMEOUT_NS = 2 * NS_PER_S
ARMED_WITHIN_NS = NS_PER_S // 2
GUARD_START_TIMEOUT_NS = 10 * NS_PER_S
KILL_TIMEOUT_NS = 5 * NS_PER_S
PROMOTE_TIMEOUT_NS = 30 * NS_PER_S
PROMOTE_POLL_NS = NS_PER_MS
PROMOTE_POLL_LATE_NS = 20 * NS_PER_MS
PROMOTE_USUAL_NS = 150 * NS_PER_MS


class Executor:
    """See the module's docstring. One step at a time."""

    def __init__(self, server: SimServer, facts: Facts, observer: Observer) -> None:
        self.server = server
        self.facts = facts
        self.observer = observer
        self.heap: Heap = server.heap
        self._rng = server.env.rng(server.node, "supervisor")
        self.checkpoint_wanted = False  # set by a promotion

    # ------------------------------------------------------------ waiting

    def sleep(self, typical_ms: float) -> Steps:
        """Do something that typically takes so long."""
        yield int(typical_ms * NS_PER_MS * (0.7 + 0.6 * self._rng.random()) * self.server.slow)

    def draw(self, most: int) -> int:
        """Return a random number from 0 to `most`."""
        return self._rng.randint(0, most)

    def session(self, timeout_ns: int = QUERY_NS) -> Steps:
        """Open a connection to a fresh backend.

        Raises:
            SqlError: there is no server that takes one, or it does not answer.
        """
        yield from self.sleep(CONNECT_MS)
        yield from self.answered(timeout_ns)

    def answered(self, timeout_ns: int = QUERY_NS) -> Steps:
        """Have a statement answered.

        Raises:
            SqlError: the server went away or does not answer.
        """
        server, epoch = self.server, self.server.epoch
        deadline = self.heap.now_ns + timeout_ns
        while True:
            if server.process is not ProcessState.RUNNING or server.epoch != epoch:
                raise SqlError("connect: the server takes no connections")
            if not server.silent:
                return
            if self.heap.now_ns >= deadline:
                raise SqlError(f"not answered within {timeout_ns / NS_PER_S:g} s")
            yield WAIT_POLL_NS

    def wait_gone(self, timeout_ns: int) -> Steps:
        """Wait until the guard says that all is gone, at most so long."""
        deadline = self.heap.now_ns + timeout_ns
        while not self.observer.gone and self.heap.now_ns < deadline:
            yield WAIT_POLL_NS

    # ------------------------------------------------------------ settings

    def write(self, config: ServerConfig) -> Steps:
        """Make the settings file say `config`, durably."""
        facts = self.facts
        if config.upstream is not None:
            facts.forget_position()
        if facts.written is None or facts.written.upstream != config.upstream:
            facts.wal_lost = False
            facts.log_offset = self.server.removed_seen
        facts.verified = False
        facts.written = config
        if facts.barrier != config.sync:
            facts.barrier = None
        yield from self.sleep(FILE_MS * 2)
        self.server.conf = config

    def signal_reload(self) -> None:
        """SIGHUP the postmaster.

        Raises:
            StepError: there is none.
        """
        if not self.server.listens:
            raise StepError("PostgreSQL does not run")
        self.server.reload()

    def apply_settings(self, config: ServerConfig) -> Steps:
        """Write, reload, verify in a fresh backend; commits are first made to wait at all."""
        facts = self.facts
        before = facts.written
        unprotected = before is not None and before.sync.k == 0 and config.sync.k > 0
        if unprotected and before is not None and facts.last_in_recovery is False:
            yield from self._make_commits_wait(before)
        yield from self._load(config)

    def _make_commits_wait(self, before: ServerConfig) -> Steps:
        """Set the placeholder and return once a commit is seen to wait for it."""
        try:
            yield from self._load(replace(before, sync=NOBODY))
            yield from self._see_commit_wait()
        except (StepError, SqlError):
            yield from self._load(before)
            raise

    def _see_commit_wait(self) -> Steps:
        """Return once the backend of a commit is seen waiting for standbys.

        Raises:
            StepError: none was in time.
        """
        server, deadline = self.server, self.heap.now_ns + RELOAD_TIMEOUT_NS
        while self.heap.now_ns < deadline:
            yield from self.session()
            outcomes: list[Outcome] = []
            commit = server.message(SyncLevel.ON, outcomes.append)
            if commit is None:
                raise StepError("the server is no primary")
            while not outcomes and self.heap.now_ns < deadline:
                yield POLL_NS
                yield from self.answered()
                if server.primary is not None and server.primary.queue.holds(commit):
                    server.primary.terminate(commit)
                    return
        raise StepError("no commit was seen to wait for standbys")

    def _load(self, config: ServerConfig) -> Steps:
        yield from self.write(config)
        self.signal_reload()
        if self.facts.was_up:
            yield from self._verify()

    def _verify(self) -> Steps:
        deadline = self.heap.now_ns + RELOAD_TIMEOUT_NS
        while self.heap.now_ns < deadline:
            yield from self.session()
            if self.server.config == self.facts.written:
                self.facts.verified = True
                return
            yield POLL_NS
        raise StepError("PostgreSQL has not loaded its settings")

    # ------------------------------------------------------------ start and stop

    def start(self, config: ServerConfig) -> Steps:
        """Start the postmaster as a standby; it runs, but does not answer yet."""
        facts, server = self.facts, self.server
        if not self.observer.gone:
            raise StepError("processes of the server that ran before are left")
        data = server.data
        assert data is not None
        if facts.control is None or facts.control_is_old:
            facts.read_control(control_of(data))
        control = facts.control
        assert control is not None
        keep = max(control.checkpoint_tli, control.min_recovery_tli)
        if facts.position is not None:
            keep = max(keep, facts.position.timeline)
            data.set_histories_aside(keep)
        facts.timeline = keep
        yield from self.write(config)
        yield from self.sleep(FILE_MS)
        data.standby_signal = True
        facts.server_stopped()
        facts.stop_asked = False
        facts.rewind_failed = False
        facts.failed_starts += 1  # until it has answered
        facts.log_offset = server.removed_seen
        yield from self.ask_guard(GUARD_START_TIMEOUT_NS)
        yield from self.sleep(SPAWN_MS)
        if server.process is not ProcessState.STOPPED or server.data is not data:
            raise StepError("the guard refused to start: a server is there")
        server.start(config)

    def ask_guard(self, timeout_ns: int) -> Steps:
        """Have the guard answer a request.

        Raises:
            StepError: it does not.
        """
        deadline = self.heap.now_ns + timeout_ns
        while not self.server.guard.answers:
            if self.heap.now_ns >= deadline:
                raise StepError("the guard does not answer")
            yield WAIT_POLL_NS

    def stop(self, fast: bool, successor: NodeId | None = None, restart: str = "") -> Steps:
        """Stop the server; at the end every one of its processes is gone."""
        server = self.server
        if server.process in POSTMASTER:
            self.facts.stopping()
        if fast and not self.observer.gone:
            server.stop(fast=True)
            if successor is not None:
                yield from self.wait_gone(STOP_SENDERS_AFTER_NS)
                server.end_senders(successor)
            yield from self.wait_gone(STOP_FAST_TIMEOUT_NS)
        if not self.observer.gone:
            server.stop(fast=False)
            yield from self.wait_gone(QUIT_GRACE_NS)
        if not self.observer.gone:
            yield from self.ask_guard(GUARD_TIMEOUT_NS)
            server.kill()
            yield from self.wait_gone(KILL_TIMEOUT_NS)
            if not self.observer.gone:
                raise StepError("PostgreSQL's processes are not all gone")
        self.facts.server_stopped()
        self.facts.restarted = restart or self.facts.restarted

    # ------------------------------------------------------------ promise

    def measure(self, promise: Term) -> Steps:
        """Find the position of a server of which nothing runs."""
        server, facts = self.server, self.facts
        if not self.observer.gone:
            raise StepError("the server is not gone")
        facts.forget_position()
        yield from self.sleep(READ_DISK_MS)
        if not self.observer.gone:
            raise StepError("the server was started meanwhile")
        if server.data is None or server.data_state is not DataState.PRESENT:
            raise StepError("pg_control cannot be read")
        facts.read_control(control_of(server.data))
        facts.found_position(server.data.position, promise, received=Lsn(0))

    def detach(self, promise: Term, prepared: SyncSetting | None = None) -> Steps:
        """Stop the WAL receiver, verify that it is gone, find the position, verify again."""
        facts, server = self.facts, self.server
        config = detached_config(facts.written, prepared)
        facts.forget_position()
        if config != facts.written or not facts.verified:
            yield from self.write(config)
            self.signal_reload()
        try:
            yield from self._receiver_gone()
            if not facts.was_up:
                raise SqlError("it was not up yet")
            yield from self.session()
            yield from self._find_position(promise)
        except SqlError:
            server.note("detach_stopped_server")
            yield from self.stop(fast=False)

    def _receiver_gone(self) -> Steps:
        """Wait until no receiver exists, ending it if it stays.

        Raises:
            SqlError: it stays, or the server is lost.
        """
        server, heap = self.server, self.heap
        begun = heap.now_ns
        yield from self.session(RECEIVER_GIVE_UP_NS)
        while True:
            yield from self.answered(RECEIVER_GIVE_UP_NS)
            if not server.receiving and server.config == self.facts.written:
                return
            if heap.now_ns - begun > RECEIVER_GIVE_UP_NS:
                raise SqlError("the receiver does not go")
            if heap.now_ns - begun > RECEIVER_TERM_AFTER_NS:
                server.terminate_receiver()
            yield POLL_NS

    def _find_position(self, promise: Term) -> Steps:
        server, facts = self.server, self.facts
        if server.config != facts.written or server.primary is not None:
            raise SqlError("the server has not loaded the empty primary_conninfo")
        facts.verified = True
        data = server.data
        assert data is not None
        position = data.position
        received = server.received
        yield from self.sleep(READ_DISK_MS)
        yield from self.answered()
        if server.receiving:
            raise SqlError("the WAL receiver came back")
        facts.found_position(position, promise, received=received)

    # ------------------------------------------------------------ promotion

    def promote(self, term: Term, tli: TimelineId) -> Steps:
        """Make the standby the primary on exactly `tli`."""
        facts, server = self.facts, self.server
        armed_by = self.heap.now_ns + ARMED_WITHIN_NS
        while server.guard.armed_term != term and self.heap.now_ns < armed_by:
            yield POLL_NS
        self._check_armed(term)
        data, current = server.data, facts.timeline
        assert data is not None
        if tli in data.history_files or tli <= current:
            self._refuse(f"timeline {tli} was used before: this server is on {current}")
        if (ahead := may_have_gone_over(current, data.history_files)) is not None:
            yield from self.stop(True)
            raise StepError(
                f"restarts without the history of timeline {ahead}, of which it has no WAL"
            )
        for number, chain in missing_histories(current, tli, data.history_files).items():
            yield from self.sleep(FILE_MS)
            data.history_files.setdefault(number, chain)
            server.version += 1
        yield from self.session()
        yield from self.sleep(END_CLIENTS_MS)
        yield from self.answered()
        self._check_armed(term)
        facts.promoting()
        promoted: list[bool] = []
        server.promote(lambda: promoted.append(True))
        yield from self._until(lambda: bool(promoted), PROMOTE_TIMEOUT_NS)
        if not promoted:
            raise StepError("PostgreSQL is still in recovery after 30 s")
        yield from self.sleep(FILE_MS)
        data.standby_signal = True
        yield from self.answered()
        facts.timeline = data.tli
        if data.tli != tli:
            raise StepError(f"PostgreSQL took timeline {data.tli} instead of the reserved {tli}")
        self.checkpoint_wanted = True

    def _until(self, condition: Callable[[], bool], timeout_ns: int) -> Steps:
        begun = self.heap.now_ns
        while not condition() and self.heap.now_ns - begun < timeout_ns:
            # As often as production where it usually ends; seldom where it hangs.
            usual = self.heap.now_ns - begun < PROMOTE_USUAL_NS
            yield PROMOTE_POLL_NS if usual else PROMOTE_POLL_LATE_NS
            yield from self.answered()

    def _check_armed(self, term: Term) -> None:
        if self.server.guard.armed_term != term:
            self._refuse(f"the guard is not armed for term {term}: not promoting")

    def _refuse(self, why: str) -> None:
        self.server.note("promote_refused", why)
        raise StepError(why)
