"""Carry out a sequence of commands on the simulator's model, without supervisor, agent or faults.

The servers stand on a heap of their own and a calm network. What a command does to real servers by
SQL, files and signals it does here by the calls that the simulated supervisor makes. After each
command virtual time goes on for longer than a status interval.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from differential import vocabulary as do
from differential.model_slots import (
    change_slots,
    lift_limit,
    remove_wal,
    set_up,
    slots_of,
    switch_segment,
)
from differential.model_world import CalmGuard, SmallWorld
from differential.vocabulary import LEVELS, NAMES, Command, Seen, ServerView
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.postgres import ProcessState, SyncSetting, Upstream
from metako.postgres.facts import Facts
from metako.postgres.steps import ServerConfig, UpstreamAddress
from sim.heap import NS_PER_MS, NS_PER_S
from sim.postgres.commits import Commit, Outcome, SyncLevel
from sim.postgres.observe import Observer
from sim.postgres.rebuild import Rebuilder, copy_of
from sim.postgres.receiver import ReceiverPhase
from sim.postgres.server import SimServer
from sim.postgres.steps import Executor
from sim.postgres.task import Steps, Task
from sim.postgres.wal import PLACEHOLDER, SEGMENT_BYTES

SETTLE_NS = 1_300 * NS_PER_MS
"""More than a status interval, and so little that a few commands pass before a frozen standby is
given up, for which the real servers of this test have no time-out."""
WAIT_NS = 30 * NS_PER_S
BLOCKED_NS = 2 * NS_PER_S
SLICE_NS = 10 * NS_PER_MS
KEYS = ("k1", "k2")
_LEVELS = {name: SyncLevel[name.upper()] for name in LEVELS}
_OUTCOMES = {
    Outcome.OK: "ok",
    Outcome.OK_WITH_WARNING: "warned",
    Outcome.ERROR: "refused",
    Outcome.LOST: "lost",
}


class Model:
    """Three servers of one sequence; the counterpart of `real.Real`."""

    def __init__(self, seed: int = 0) -> None:
        self._world = SmallWorld(seed)
        self._heap = self._world.heap
        self._commits: dict[str, str] = {}
        self._waiting: dict[str, tuple[SimServer, Commit]] = {}
        self._names = {name: NodeId(name) for name in NAMES}
        for name, node in self._names.items():
            server = self._world.servers[name] = SimServer(self._world, node, CalmGuard())
            set_up(server)
        self._servers = self._world.servers
        self._receiver_frozen: set[str] = set()
        self._first_segment = 0  # in which the sequence begins

    def begin(self) -> Seen:
        """Bring the servers to where every sequence begins."""
        first = self._servers["a"]
        first.data = first.new_data()
        self._start(first, "")
        self._promote(first, 0)
        self._run_for(SETTLE_NS)
        for name in NAMES[1:]:
            server = self._servers[name]
            server.data = copy_of(first, DataId(name))
            self._start(server, "a")
        self._first_segment = first.data.end // SEGMENT_BYTES
        return self._see("ok")

    def run(self, command: Command) -> Seen:
        """Carry out one command, let time pass, and look."""
        return self._see(self._execute(command))

    def logs(self) -> str:
        return "\n".join(self._world.truth.notes[-40:])

    # ---------------------------------------------------------------- time

    def _run_for(self, nanoseconds: int) -> None:
        self._heap.run_until(self._heap.now_ns + nanoseconds)

    def _until(self, condition: Callable[[], bool], limit_ns: int = WAIT_NS) -> bool:
        deadline = self._heap.now_ns + limit_ns
        while not condition():
            if self._heap.now_ns >= deadline:
                return False
            self._run_for(SLICE_NS)
        return True

    def _do(self, body: Steps) -> str:
        """Run a step of the simulated agent to its end; return its error."""
        task = Task(self._world, body)
        task.start()
        assert self._until(lambda: task.over)
        return str(task.error) if task.error is not None else ""

    # ---------------------------------------------------------------- commands

    def _execute(self, command: Command) -> str:
        match command:
            case do.Commit():
                return self._commit(command)
            case do.CancelCommit(value=value, how=how):
                return self._cancel(value, how)
            case do.Settle():
                self._run_for(SETTLE_NS)
            case do.Rewind(server=name, source=source):
                return self._rewind(self._servers[name], source)
            case do.Clone(server=name, source=source):
                return self._clone(self._servers[name], source)
            case do.Stop(server=name, how=how):
                return self._stop(self._servers[name], how)
            case do.Start(server=name, upstream=upstream):
                return self._start(self._servers[name], upstream)
            case _:
                server = self._servers[command.server]
                return self._change(server, command) if server.is_up else "not running"
        return "ok"

    def _change(self, server: SimServer, command: Command) -> str:
        """Carry out the commands on one server that runs."""
        match command:
            case do.SetSync(names=names, k=k):
                nodes = tuple(self._names[name] for name in sorted(names))
                self._configure(server, sync=SyncSetting(nodes, k))
            case do.Detach():
                self._configure(server, upstream="")
            case do.Attach(upstream=upstream):
                self._configure(server, upstream=upstream)
            case do.PauseReplay():
                server.replay_paused = True
            case do.ResumeReplay():
                server.replay_paused = False
            case do.KillReceiver():
                server.terminate_receiver()
            case do.Promote(tli=tli):
                return self._promote(server, tli)
            case do.Freeze(what=what):
                return self._freeze(server, what)
            case do.Thaw():
                self._receiver_frozen.discard(server.node)
                server.receive_stalled = False
                server.thaw()
            case do.Checkpoint():
                if server.primary is not None:
                    server.primary.checkpoint()
                elif server.startup is not None:
                    server.startup.restartpoint()
            case do.RemoveWal():
                for _ in range(2):
                    switch_segment(server)  # removed are whole segments
                self._run_for(SETTLE_NS)
                remove_wal(server)
            case do.SwitchWal():
                switch_segment(server)
            case do.CreateSlot() | do.DropSlot() | do.UseSlot() | do.LimitSlots():
                return change_slots(server, command)
            case do.Read(key=key):
                return str(tuple(sorted(server.read(key) or ())))
            case _:
                raise AssertionError(command)
        return "ok"

    def _configure(
        self, server: SimServer, *, upstream: str | None = None, sync: SyncSetting | None = None
    ) -> None:
        before = server.conf or ServerConfig()
        above = before.upstream if upstream is None else self._address(upstream)
        server.conf = ServerConfig(above, before.sync if sync is None else sync)
        server.reload()

    def _address(self, name: str) -> UpstreamAddress | None:
        return UpstreamAddress(self._names[name], Address(name, 1)) if name else None

    def _commit(self, command: do.Commit) -> str:
        server, value = self._servers[command.server], command.value
        level = _LEVELS[command.level]
        # What the checkers take for the truth has to be what happens.
        could = server.could_acknowledge()
        begun = server.commit(((command.key, value),), level, partial(self._done, value))
        if begun is None:
            recovering = server.is_up and server.primary is None
            self._commits[value] = "refused 25006" if recovering else "refused"
            return "ok"
        if value not in self._commits:
            self._commits[value] = "waiting"
            self._waiting[value] = (server, begun)
        if level is not SyncLevel.ON:
            return "ok"
        return "acknowledged" if could else "not acknowledged"

    def _done(self, value: str, outcome: Outcome) -> None:
        self._commits[value] = _OUTCOMES[outcome]
        self._waiting.pop(value, None)

    def _cancel(self, value: str, how: str) -> str:
        if value not in self._waiting:
            return "nothing to cancel"
        server, commit = self._waiting[value]
        if how == "cancel":
            server.cancel(commit)
        else:
            assert server.primary is not None
            server.primary.terminate(commit)
            self._done(value, Outcome.LOST)
        return "ok"

    def _stop(self, server: SimServer, how: str) -> str:
        if how == "kill":
            server.kill()
        else:
            server.stop(fast=how == "fast")
        in_time = self._until(lambda: server.process is ProcessState.STOPPED, BLOCKED_NS)
        if not in_time:
            server.stop(fast=False)
            assert self._until(lambda: server.process is ProcessState.STOPPED)
        server.receive_stalled = server.replay_paused = False
        self._receiver_frozen.discard(server.node)
        lift_limit(server)
        return "ok" if in_time else "blocked"

    def _start(self, server: SimServer, upstream: str) -> str:
        sync = server.conf.sync if server.conf is not None else SyncSetting()
        server.start(ServerConfig(self._address(upstream), sync))
        ended = (ProcessState.RUNNING, ProcessState.STOPPED)
        self._until(lambda: server.process in ended, 5 * NS_PER_S)
        if server.process is ProcessState.RUNNING:
            return "ok"
        return "failed" if server.process is ProcessState.STOPPED else "starting"

    def _promote(self, server: SimServer, tli: int) -> str:
        data, receiver = server.data, server.receiver
        assert data is not None
        if server.primary is not None:
            return "refused 55000"
        seen = (data.control.checkpoint_tli, data.control.min_recovery_tli)
        current = max(*seen, receiver.tli if receiver is not None else 0)
        for number in range(current + 1, tli):
            data.history_files.setdefault(number, PLACEHOLDER)
        done: list[bool] = []
        server.replay_paused = False  # a promotion ends a pause
        server.promote(lambda: done.append(True))
        if not self._until(lambda: bool(done), 10 * NS_PER_S):
            return "failed"
        data.standby_signal = True
        assert server.primary is not None
        # PostgreSQL asks for this checkpoint itself; here the simulated agent does.
        server.primary.checkpoint()
        return "reserved" if data.tli == tli else "ok" if not tli else f"took {data.tli}"

    def _rebuilder(self, server: SimServer) -> Rebuilder:
        facts = Facts(members={})
        return Rebuilder(Executor(server, facts, Observer(server, facts)))

    def _rewind(self, server: SimServer, source: str) -> str:
        assert server.data is not None
        address = Address(source, 1)
        upstream = Upstream(self._names[source], address, Term(1), (), TimelineId(1), 0)
        error = self._do(self._rebuilder(server).rewind(upstream))
        server.data.tainted = False  # PostgreSQL itself knows no such mark
        if "no difference" in error:
            return "not required"
        if error:
            self._world.truth.note(server.node, "rewind", error)
            return "failed"
        return "done"

    def _clone(self, server: SimServer, source: str) -> str:
        address, above = self._address(source), self._servers[source].primary
        assert address is not None
        assert above is not None
        # So does pg_basebackup; the model has only what it reads. It reads to the end of a segment,
        # so that a checkpoint may remove that one at once.
        switch_segment(self._servers[source])
        above.checkpoint()
        switch_segment(self._servers[source])
        error = self._do(self._rebuilder(server).clone(address))
        above.checkpoint()
        return "failed" if error else "ok"

    def _freeze(self, server: SimServer, what: str) -> str:
        if what == "server":
            server.freeze()
        elif not server.receiving:
            return "nothing to freeze"
        else:
            server.receive_stalled = True
            self._receiver_frozen.add(server.node)
        return "ok"

    # ---------------------------------------------------------------- what is seen

    def _see(self, outcome: str) -> Seen:
        self._run_for(SETTLE_NS)
        views = tuple((name, self._view(server)) for name, server in self._servers.items())
        return Seen(outcome, tuple(sorted(self._commits.items())), views)

    def _view(self, server: SimServer) -> ServerView:
        if server.frozen:
            return ServerView("frozen")
        if server.process is ProcessState.STOPPED:
            return ServerView("stopped")
        if not server.is_up:
            return ServerView("starting")
        data = server.data
        assert data is not None
        seen = {key: tuple(sorted(server.read(key) or ())) for key in KEYS}
        rows = tuple((key, values) for key, values in seen.items() if values)
        frozen = {name for name, each in self._servers.items() if each.frozen}
        slots = slots_of(server, self._first_segment, frozen | self._receiver_frozen)
        if server.primary is not None:
            return ServerView("primary", data.tli, sync=_sync(server), rows=rows, slots=slots)
        startup = server.startup
        assert startup is not None
        upstream, tli = _streams(server)
        received = "position" if startup.received % SEGMENT_BYTES else "segment"
        return ServerView(
            "standby",
            tli,
            streams_from=upstream,
            received=received if startup.received else "null",
            rows=rows,
            slots=slots,
        )


def _sync(server: SimServer) -> tuple[tuple[str, str], ...]:
    """Return what pg_stat_replication says of the standbys that stream."""
    config = server.config
    assert config is not None
    found = []
    for node, sender in sorted(server.senders.items()):
        if sender.streaming and sender.limit is None:
            quorum = config.sync.k > 0 and sender.listed
            found.append((str(node), "quorum" if quorum else "async"))
    return tuple(found)


def _streams(server: SimServer) -> tuple[str, int]:
    """Return from whom a standby streams, and which timeline."""
    receiver = server.receiver
    if receiver is None or receiver.phase is not ReceiverPhase.STREAMING:
        return "", 0
    sender = receiver.sender
    if sender is None or not sender.alive or sender.limit is not None:
        return "", 0
    return str(receiver.upstream), int(receiver.tli)
