"""A model of one PostgreSQL server with enough truth to make loss and split brain visible.

It executes the production planner's steps and reports `PostgresObserved`. WAL is a list of
records whose contents identify the commit that wrote them, so two servers that claim the same
position can be told apart. Modelled: streaming, quorum synchronous commits, crash, promotion on a
reserved timeline, rewind and clone. Not modelled yet: slots, archives, conflicts, partial flushes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import (
    DataState,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    StandbySeen,
    SyncSetting,
    Untouched,
)
from metako.model.timeline import HistoryStep, owner_of
from metako.postgres.plan import plan
from metako.postgres.steps import (
    CANCELLABLE,
    ApplySettings,
    Clone,
    Detach,
    EmitMarker,
    InitDb,
    MeasurePosition,
    Promote,
    Rewind,
    ServerConfig,
    Start,
    Step,
    Stop,
    SyncBarrier,
    step_name,
)

MS = 1_000_000
RECORD_BYTES = 64
DURATIONS_MS = {
    "InitDb": 900,
    "Clone": 800,
    "Start": 250,
    "Stop": 80,
    "ApplySettings": 25,
    "Detach": 70,
    "MeasurePosition": 20,
    "Promote": 40,
    "Rewind": 700,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One WAL record; `value` names the commit, "" for anything else."""

    end: int
    tli: TimelineId
    value: str


@dataclass(slots=True)
class Data:
    """Contents of a data directory."""

    system_id: int
    data_id: DataId
    history: tuple[HistoryStep, ...]
    wal: list[Record]

    @property
    def end(self) -> Lsn:
        return Lsn(self.wal[-1].end if self.wal else RECORD_BYTES)

    @property
    def tli(self) -> TimelineId:
        return self.history[-1].tli

    def values(self) -> set[str]:
        return {record.value for record in self.wal if record.value}


@dataclass(slots=True)
class Waiting:
    """A commit that waits for acknowledgements."""

    value: str
    lsn: int
    done: Callable[[bool], None]


@dataclass(slots=True)
class SimServer:
    """One server and the supervisor that drives it."""

    node: NodeId
    schedule: Callable[[int, Callable[[], None]], None]
    fetch: Callable[[NodeId], SimServer | None]  # the server of another node, if reachable
    changed: Callable[[], None]  # a new observation is worth telling
    new_id: Callable[[], str]
    minted: Callable[[TimelineId], None]  # a promotion made this timeline
    data: Data | None = None
    process: ProcessState = ProcessState.STOPPED
    in_recovery: bool | None = None
    config: ServerConfig = field(default_factory=ServerConfig)
    streaming: bool = False
    position: WalPosition | None = None
    detached_for: Term = Term(0)
    marker_term: Term = Term(0)
    marker_lsn: int = 0
    barrier: SyncSetting | None = None
    flushed: dict[NodeId, int] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    target: PostgresTarget = field(default_factory=Untouched)
    step: Step | None = None
    step_token: int = 0
    slow: bool = False  # a standby that is connected but receives nothing for a while
    unattended: bool = False  # the agent, hence the supervisor, is dead or stopped
    frozen: bool = False  # SIGSTOP: nothing of it runs
    armed: tuple[Term, int] | None = None  # the guard's term and deadline (virtual ns)
    durations_ms: dict[str, int] = field(default_factory=lambda: dict(DURATIONS_MS))

    # ------------------------------------------------------------ what is seen

    def observed(self) -> PostgresObserved:
        data = self.data
        if data is None:
            return PostgresObserved(data=DataState.EMPTY, process=self.process)
        running = self.process is ProcessState.RUNNING
        primary = running and self.in_recovery is False
        sync = self.config.sync if running else None
        return PostgresObserved(
            data=DataState.PRESENT,
            process=self.process,
            system_id=data.system_id,
            data_id=data.data_id,
            in_recovery=self.in_recovery if running else None,
            timeline=data.tli,
            history=data.history,
            max_tli=max(step.tli for step in data.history),
            lsn=data.end,
            replay_lsn=data.end,
            receiver=self._receiver(),
            upstream=self.config.upstream.node if self.config.upstream else None,
            position=self.position,
            detached_for=self.detached_for,
            sync_applied=sync,
            sync_barrier=self.barrier if primary else None,
            admitting=self.config.admit,
            standbys=self._standbys() if primary else (),
            marker_term=self.marker_term if primary else Term(0),
        )

    def _receiver(self) -> ReceiverState:
        if self.process is not ProcessState.RUNNING or self.config.upstream is None:
            return ReceiverState.GONE
        return ReceiverState.STREAMING if self.streaming else ReceiverState.PRESENT

    def _standbys(self) -> tuple[StandbySeen, ...]:
        seen = []
        for node, lsn in sorted(self.flushed.items()):
            other = self.fetch(node)
            live = other is not None and other.follows(self.node)
            if live:
                counted = node in self.config.sync.nodes
                seen.append(StandbySeen(node, True, Lsn(lsn), Lsn(lsn), counted))
        return tuple(seen)

    def follows(self, node: NodeId) -> bool:
        return (
            self.streaming
            and not self.frozen
            and self.config.upstream is not None
            and self.config.upstream.node == node
        )

    @property
    def writable(self) -> bool:
        return self.process is ProcessState.RUNNING and self.in_recovery is False

    # ------------------------------------------------------------ clients and streaming

    def commit(self, value: str, done: Callable[[bool], None]) -> bool:
        """Write a commit; `done(True)` once it is acknowledged. False: not accepted here."""
        if not self.writable or self.frozen or not self.config.admit:
            return False
        self._append(value)
        assert self.data is not None
        self.waiting.append(Waiting(value, self.data.end, done))
        return True

    def _append(self, value: str) -> None:
        assert self.data is not None
        self.data.wal.append(Record(self.data.end + RECORD_BYTES, self.data.tli, value))

    def pump(self) -> None:
        """Stream from the upstream, release commits that have their acknowledgements."""
        if self.frozen or self.process is not ProcessState.RUNNING:
            return
        if self.in_recovery:
            self._stream()
        else:
            self._release()

    def _stream(self) -> None:
        was = self.streaming
        upstream = self.fetch(self.config.upstream.node) if self.config.upstream else None
        self.streaming = False
        data = self.data
        assert data is not None
        if upstream is not None and upstream.writable and not upstream.frozen and upstream.data:
            source = upstream.data
            own = data.wal[-1] if data.wal else None
            behind = len(data.wal) <= len(source.wal)
            if behind and (own is None or source.wal[len(data.wal) - 1] == own):
                if not self.slow:
                    data.wal.extend(source.wal[len(data.wal) :])
                data.history = source.history
                self.streaming = True
                upstream.flushed[self.node] = data.end
        if was != self.streaming:
            self.changed()

    def _release(self) -> None:
        sync = self.config.sync
        ready = [w for w in self.waiting if self._acknowledged(w.lsn, sync)]
        self.waiting = [w for w in self.waiting if w not in ready]
        for commit in ready:
            commit.done(True)
        if isinstance(self.step, EmitMarker) and self._acknowledged(self.marker_lsn, sync):
            self.marker_term = self.step.term
            self._finish(self.step_token)
        elif isinstance(self.step, SyncBarrier):
            end = self.data.end if self.data else 0
            if self.config.sync == self.step.setting and self._acknowledged(end, sync):
                self.barrier = self.step.setting
                self._finish(self.step_token)

    def _acknowledged(self, lsn: int, sync: SyncSetting) -> bool:
        count = sum(1 for node in sync.nodes if self.flushed.get(node, 0) >= lsn)
        return count >= sync.k

    def crash(self) -> None:
        """The postmaster and all its processes are gone at once."""
        for commit in self.waiting:
            commit.done(False)
        self.waiting = []
        self.process, self.in_recovery, self.streaming = ProcessState.STOPPED, None, False
        self.flushed, self.position, self.barrier = {}, None, None
        self.marker_term = Term(0)
        if self.step is not None and not isinstance(self.step, Start):
            self.step, self.step_token = None, self.step_token + 1
        self.changed()

    # ------------------------------------------------------------ steps

    def set_target(self, target: PostgresTarget) -> None:
        self.target = target
        self.work()

    def work(self) -> None:
        """Plan and begin the next step, as the supervisor does."""
        if self.frozen or self.unattended:
            return
        wanted = plan(self.observed(), self.target)
        if self.step is not None:
            if wanted == self.step or step_name(self.step) not in CANCELLABLE:
                return
            self.step, self.step_token = None, self.step_token + 1
        if wanted is None:
            return
        self.step, self.step_token = wanted, self.step_token + 1
        token = self.step_token
        if isinstance(wanted, EmitMarker):
            self._append("")
            assert self.data is not None
            self.marker_lsn = self.data.end
            return
        if isinstance(wanted, SyncBarrier):
            return
        self.schedule(self.durations_ms[step_name(wanted)] * MS, lambda: self._complete(token))

    def abandon_step(self) -> None:
        """The supervisor is gone in the middle of whatever it did."""
        self.step, self.step_token = None, self.step_token + 1

    def _complete(self, token: int) -> None:
        if token != self.step_token or self.step is None:
            return
        if self.frozen or self.unattended:
            self.schedule(50 * MS, lambda: self._complete(token))
            return
        self._effect(self.step)
        self._finish(token)

    def _finish(self, token: int) -> None:
        if token == self.step_token:
            self.step = None
            self.changed()
            self.work()

    def _effect(self, step: Step) -> None:
        match step:
            case InitDb():
                first = (HistoryStep(TimelineId(1), Lsn(0)),)
                self.data = Data(4711, DataId(self.new_id()), first, [])
            case Clone(upstream):
                source = self.fetch(upstream.node)
                if source is not None and source.data is not None and source.writable:
                    self._copy(source.data)
            case Rewind(upstream):
                source = self.fetch(upstream.node)
                if source is not None and source.data is not None and source.writable:
                    self._copy(source.data)
            case Start(config):
                self.process, self.in_recovery = ProcessState.RUNNING, True
                self.config, self.streaming = config, False
                if config.upstream is not None:
                    self.position = None
            case Stop():
                self.crash()
            case ApplySettings(config):
                if self.process is ProcessState.RUNNING:
                    if config.upstream is not None:
                        self.position = None
                    if config.sync != self.config.sync:
                        self.barrier = None
                    self.config = config
            case Detach(promise):
                self.config = replace(self.config, upstream=None)
                self.streaming = False
                self._measure(promise)
            case MeasurePosition(promise):
                self._measure(promise)
            case Promote(term, tli):
                self._promote(term, tli)
            case EmitMarker() | SyncBarrier():
                pass

    def _measure(self, promise: Term) -> None:
        assert self.data is not None
        owner = self.data.wal[-1].tli if self.data.wal else owner_of(self.data.history, Lsn(1))
        self.position = WalPosition(owner, self.data.end)
        self.detached_for = max(promise, self.detached_for)

    def _promote(self, term: Term, tli: TimelineId) -> None:
        if self.armed is None or self.armed[0] != term or self.process is not ProcessState.RUNNING:
            return
        assert self.data is not None
        self.minted(tli)
        self.data.history = (*self.data.history, HistoryStep(tli, self.data.end))
        self.in_recovery, self.position, self.flushed = False, None, {}

    def _copy(self, source: Data) -> None:
        self.data = Data(source.system_id, DataId(self.new_id()), source.history, list(source.wal))
        self.position = None
