"""A world for the PostgreSQL model alone: servers, supervisors and a network, no engine.

Tests set targets by hand. The truth is kept in lists: what was acknowledged, promoted and noted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import (
    Detached,
    Following,
    Initialize,
    Leading,
    PostgresObserved,
    ProcessState,
    ReceiverState,
    Stopped,
    SyncSetting,
    Upstream,
)
from metako.model.timeline import HistoryStep, TimelineEntry
from metako.postgres.steps import ServerConfig, Step, UpstreamAddress, step_name
from sim.heap import NS_PER_MS, Heap
from sim.network import Network
from sim.postgres.commits import Commit, Outcome, SyncLevel
from sim.postgres.data import Control, Data
from sim.postgres.server import SimServer
from sim.postgres.supervisor import SimSupervisor
from sim.postgres.wal import FIRST_LSN, RECORD_BYTES, Record, RecordKind
from sim.streams import stream

NODES = ("n1", "n2", "n3")


class Guard:
    """A guard that does what it is told."""

    def __init__(self) -> None:
        self.armed_term = 0
        self.answers = True
        self.lost = False


class Cluster:
    """Servers of some nodes, and what really happens to them."""

    def __init__(
        self, nodes: tuple[str, ...] = NODES, *, seed: int = 1, own_slots: bool = False
    ) -> None:
        self.heap = Heap()
        self.seed = seed
        self.network = Network(self.heap, partial(stream, seed))
        self.network.listening = self._listening
        self.truth = self
        self.postgres_version = 15
        self.notes: list[tuple[str, str]] = []
        self.acknowledged_commits: list[Commit] = []
        self.promotions: list[tuple[str, int]] = []
        self.changes = 0
        self.steps: list[tuple[str, str, bool, str]] = []  # node, step, ok, error
        self.reports: dict[str, list[PostgresObserved]] = {node: [] for node in nodes}
        self.hosts_down: set[str] = set()
        self.own_slots = own_slots  # standbys use the slots that supervisors make for them
        self._streams: dict[tuple[str, str], random.Random] = {}
        self._ids = 0
        self.guards = {node: Guard() for node in nodes}
        self.servers = {
            node: SimServer(self, NodeId(node), self.guards[node])  # type: ignore[arg-type]
            for node in nodes
        }
        self.supervisors = {node: self.boot(node) for node in nodes}

    # ------------------------------------------------------------ the environment

    def rng(self, node: NodeId, purpose: str) -> random.Random:
        return self._streams.setdefault((node, purpose), stream(self.seed, node, purpose))

    def server(self, node: NodeId) -> SimServer | None:
        return self.servers.get(node)

    def new_id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}{self._ids}"

    def _listening(self, end: str, _traffic: object) -> bool | None:
        return None if end in self.hosts_down else self.servers[end].listens

    def server_changed(self, _server: SimServer) -> None:
        self.changes += 1

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        self.promotions.append((server.node, tli))

    def acknowledged(self, _server: SimServer, commit: Commit) -> None:
        self.acknowledged_commits.append(commit)

    def note(self, node: NodeId, mark: str, _text: str = "") -> None:
        self.notes.append((node, mark))

    # ------------------------------------------------------------ acting

    def boot(self, node: str) -> SimSupervisor:
        supervisor = SimSupervisor(
            self,  # type: ignore[arg-type]  # it has what an environment has
            self.servers[node],
            self.reports[node].append,
            on_step=partial(self._ended, node),
        )
        supervisor.set_members([NodeId(name) for name in self.servers])
        if not self.own_slots:
            self.servers[node].primary_slot = ""
        return supervisor

    def reboot(self, node: str) -> SimSupervisor:
        self.supervisors[node].kill()
        self.supervisors[node] = self.boot(node)
        return self.supervisors[node]

    def _ended(self, node: str, step: Step, _begun: int, ok: bool, error: str) -> None:
        self.steps.append((node, step_name(step), ok, error))

    def run(self, seconds: float) -> None:
        self.heap.run_until(self.heap.now_ns + round(seconds * 1e9))

    def run_to(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Run in small steps until something is so."""
        deadline = self.heap.now_ns + round(seconds * 1e9)
        while not condition():
            assert self.heap.now_ns < deadline, "it never became so"
            self.heap.run_until(self.heap.now_ns + NS_PER_MS // 4)

    def observed(self, node: str) -> PostgresObserved:
        return self.supervisors[node].observed

    def step_names(self, node: str) -> list[str]:
        return [name for who, name, _, _ in self.steps if who == node]

    def noted(self, mark: str) -> int:
        return sum(1 for _, name in self.notes if name == mark)

    def commit(
        self, node: str = "n1", value: str = "v", level: SyncLevel = SyncLevel.ON
    ) -> tuple[Commit | None, list[Outcome]]:
        outcomes: list[Outcome] = []
        return self.servers[node].commit((("k", value),), level, outcomes.append), outcomes

    def crash_host(self, node: str) -> None:
        self.supervisors[node].kill()
        self.servers[node].host_crash()
        self.hosts_down.add(node)

    # ------------------------------------------------------------ shapes

    def lead(self, node: str, term: int, tli: int, sync: SyncSetting, admit: bool = True) -> None:
        self.guards[node].armed_term = term
        self.supervisors[node].set_target(Leading(Term(term), TimelineId(tli), sync, admit))

    def upstream(self, node: str = "n1", *, term: int = 1, wrong_past: bool = False) -> Upstream:
        """Return a primary as an upstream, with its own history as the document's timelines."""
        data = self.servers[node].data
        assert data is not None
        parents = [TimelineId(0), *(step.tli for step in data.history)]
        entries = tuple(
            TimelineEntry(
                Term(step.tli), step.tli, parent, step.begin_lsn, NodeId(node), confirmed=True
            )
            for step, parent in zip(data.history, parents, strict=False)
        )
        return Upstream(
            NodeId(node),
            Address(node, 5432),
            Term(term),
            () if wrong_past else entries,
            data.tli,
            data.system_id,
        )

    def follow(self, node: str, upstream: str = "n1", *, term: int = 1) -> None:
        self.supervisors[node].set_target(Following(self.upstream(upstream, term=term)))

    def detach(self, node: str, promise: int) -> None:
        self.supervisors[node].set_target(Detached(Term(promise)))

    def streams(self, node: str) -> bool:
        return self.observed(node).receiver is ReceiverState.STREAMING


def ready_data(number: int = 1) -> Data:
    """Return a small data directory; those of one cluster share their only record."""
    record = Record(Lsn(FIRST_LSN + RECORD_BYTES), TimelineId(1), "b0", RecordKind.CHECKPOINT)
    return data_of([record], number)


def data_of(wal: list[Record], number: int = 1) -> Data:
    return Data(
        system_id=4711,
        data_id=DataId(f"d{number}"),
        wal=list(wal),
        history=(HistoryStep(TimelineId(1), Lsn(0)),),
        history_files={},
        control=Control(TimelineId(1), wal[0].end),
    )


def sync_of(*nodes: str, k: int = 1) -> SyncSetting:
    return SyncSetting(tuple(NodeId(node) for node in sorted(nodes)), k)


def primary_cluster(
    nodes: tuple[str, ...] = NODES,
    *,
    k: int = 1,
    seed: int = 1,
    sync: bool = True,
    own_slots: bool = False,
) -> Cluster:
    """Return a cluster whose first node leads on timeline 2; the others stream from it."""
    cluster = Cluster(nodes, seed=seed, own_slots=own_slots)
    first, others = nodes[0], nodes[1:]
    record = ready_data().wal[0]
    for number, node in enumerate(nodes):
        cluster.servers[node].data = data_of([record], number)
    setting = sync_of(*others, k=k) if sync else SyncSetting()
    cluster.lead(first, 1, 2, SyncSetting())
    cluster.run_to(lambda: cluster.servers[first].primary is not None)
    cluster.run(0.2)
    for node in others:
        cluster.follow(node, first)
    cluster.run_to(lambda: all(cluster.streams(node) for node in others))
    cluster.lead(first, 1, 2, setting)
    cluster.run_to(lambda: cluster.observed(first).sync_barrier == setting)
    return cluster


def initialize(cluster: Cluster, node: str = "n1") -> None:
    cluster.supervisors[node].set_target(Initialize())
    cluster.run_to(lambda: cluster.observed(node).in_recovery)


def data_on(cluster: Cluster, node: str) -> Data:
    data = cluster.servers[node].data
    assert data is not None
    return data


def errors(cluster: Cluster, step: str) -> list[str]:
    return [error for _, name, ok, error in cluster.steps if name == step and not ok]


def detached_standbys(seed: int = 1) -> Cluster:
    """Return a cluster led by n1 whose other nodes have left it for the promise of term 2."""
    cluster = primary_cluster(seed=seed)
    for node in ("n2", "n3"):
        cluster.detach(node, 2)
    cluster.run_to(lambda: all(cluster.observed(n).detached_for == 2 for n in ("n2", "n3")))
    return cluster


def diverged(seed: int = 1) -> Cluster:
    """Return a cluster whose old primary n1 is down with rows that the new one, n2, lacks."""
    cluster = detached_standbys(seed)
    for number in range(5):
        cluster.commit(value=f"old{number}")
        cluster.run(0.01)
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.STOPPED)
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.run(0.4)
    return cluster


def attach(cluster: Cluster, node: str, upstream: str) -> None:
    """Let a running standby follow another server, without the planner's checks."""
    cluster.supervisors[node].kill()
    server = cluster.servers[node]
    server.conf = ServerConfig(
        UpstreamAddress(NodeId(upstream), cluster.upstream(upstream).address)
    )
    server.reload()


def split(seed: int = 1, *, tli: int = 3) -> Cluster:
    """Return a cluster in which n1 leads on timeline 2, n3 follows it, and n2 was promoted alone.

    n1 and n3 have rows beyond the fork which n2 does not have.
    """
    cluster = primary_cluster(seed=seed)
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    cluster.lead("n1", 1, 2, sync_of("n3"))
    for number in range(20):
        cluster.commit(value=f"old{number}")
        cluster.run(0.01)
    cluster.lead("n2", 3, tli, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.run(0.3)
    return cluster
