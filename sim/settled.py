"""Directed scenarios by hand: a cluster that has settled, waiting, outages, and the end of a run.

In: names of nodes and a seed; then faults, straight through nodes and network. Out: a world that
every checker watches and whose story is written down. What does not come in its time is a
`ViolationError`, like everything else that was promised.

No client does anything: a write is committed at a server itself, so that nothing happens but what a
scenario says. Knows neither scenario files nor random faults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from metako.election.settings import ElectionSettings
from metako.model.document import ClusterDocument, Durability, PairMode
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, TimelineId
from metako.model.status import NodeStatus
from metako.wire.messages import Outbound
from sim.checkers import all_checkers
from sim.checkers.durability import Durable
from sim.client import ClientConfig
from sim.heap import NS_PER_S
from sim.marks import Marks
from sim.network import Fate
from sim.postgres.commits import Commit, Outcome, SyncLevel
from sim.postgres.server import SimServer
from sim.processes import Processes
from sim.watch import ViolationError, Watcher
from sim.world import World, WorldConfig

STEP_MS = 1.0
COMMIT_S = 0.02
"""Within this a commit returns if nothing is wrong: two flushes and a round trip, with room."""
KEEP_DOWN = 10**9
"""So many starts of a server fail before one succeeds."""

T = TypeVar("T")


class Ack(NamedTuple):
    """A value whose commit returned."""

    at_ns: int
    node: NodeId
    tli: TimelineId
    value: str


class Story(Watcher):
    """Writes down what happens, in order."""

    name = "story"

    def __init__(self, world: World) -> None:
        self._world = world
        self.events: list[tuple[int, NodeId, Event]] = []
        self.acked: list[Ack] = []
        self.messages: list[tuple[int, NodeId, Outbound]] = []  # that agents sent

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        now = self._world.heap.now_ns
        self.events.extend((now, node.name, event) for event in events)

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        now, tli = self._world.heap.now_ns, commit.record.tli
        self.acked.extend(Ack(now, server.node, tli, value) for _, value in commit.values)

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        self.messages.append((self._world.heap.now_ns, node.name, outbound))


class Stage(World):
    """A world with every checker, the marks, and its story. A letter is a node's name."""

    def __init__(
        self,
        names: str = "abc",
        *,
        seed: int = 0,
        witnesses: str = "",
        spares: str = "",
        acks: int = 1,
        durability: Durability = Durability.QUORUM,
        pair_mode: PairMode | None = PairMode.MANUAL,
        election: ElectionSettings | None = None,
        down: str = "",
    ) -> None:
        config = WorldConfig(
            names=tuple(map(NodeId, names)),
            witnesses=tuple(map(NodeId, witnesses)),
            spares=tuple(map(NodeId, spares)),
            acks=acks,
            durability=durability,
            pair_mode=pair_mode,
            election=election or ElectionSettings(),
            clients=(ClientConfig("c1", rate=0),),  # so that commits are expected to return
            down=tuple(map(NodeId, down)),
        )
        super().__init__(config, seed)
        self.story = Story(self)
        self.marks = Marks(self)
        self.checkers = all_checkers(self)
        self.watch.add(self.story, self.marks, *self.checkers)
        self._values = 0

    @property
    def acked(self) -> list[Ack]:
        return self.story.acked

    def checker(self, kind: type[T]) -> T:
        """Return the checker of a class."""
        return next(c for c in self.checkers if isinstance(c, kind))

    def write(
        self,
        node: str,
        done: Callable[[Outcome], object] = lambda _: None,
        *,
        level: SyncLevel = SyncLevel.ON,
    ) -> str | None:
        """Commit a new value at a server, as a client there would; return it if it was taken."""
        self._values += 1
        value = f"v{self._values}"
        commit = self.nodes[NodeId(node)].server.commit((("k", value),), level, done)
        return value if commit is not None else None

    def write_everywhere(self, seconds: float, per_second: int = 50) -> None:
        """Write to whatever accepts writes, on every node, for a while."""
        for _ in range(round(seconds * per_second)):
            for name in self.names:
                self.write(name)
            self.run(1 / per_second)


def settled(
    names: str = "abc",
    *,
    seed: int = 0,
    witnesses: str = "",
    spares: str = "",
    acks: int = 1,
    durability: Durability = Durability.QUORUM,
    pair_mode: PairMode | None = PairMode.MANUAL,
    election: ElectionSettings | None = None,
) -> Stage:
    """Return a cluster with a primary, every data node in the sync set, and some writes."""
    world = Stage(
        names,
        seed=seed,
        witnesses=witnesses,
        spares=spares,
        acks=acks,
        durability=durability,
        pair_mode=pair_mode,
        election=election,
    )
    settle(world)
    world.write_everywhere(0.3)
    assert world.acked
    return world


def settle(world: Stage, *, limit_s: float = 20) -> NodeId:
    """Run until there is a primary and every other data node is a listed standby."""
    name = wait_primary(world, limit_s)
    standbys = sum(name not in world.witnesses for name in world.members) - 1
    until(world, lambda: len(document(world).sync.members) == standbys, limit_s=limit_s)
    return name


# ---------------------------------------------------------------- waiting


def until(world: Stage, condition: Callable[[], bool], *, limit_s: float) -> float:
    """Run in steps of a millisecond until the condition holds; return how long it took.

    Raises:
        ViolationError: it did not hold in time.
    """
    began = world.heap.now_ns
    if not world.run_until(condition, limit_s=limit_s, step_ms=STEP_MS):
        raise ViolationError("expected", f"not within {limit_s} s\n{log(world)}")
    return (world.heap.now_ns - began) / NS_PER_S


def wait_primary(world: Stage, limit_s: float = 20, *, other_than: str = "") -> NodeId:
    """Run until a server takes writes of applications under a lease; return its node."""
    until(world, lambda: world.primary() not in (None, other_than), limit_s=limit_s)
    return primary(world)


def outage(world: Stage, *, other_than: str = "", limit_s: float = 10) -> float:
    """Return the virtual seconds until writes are acknowledged (by another node) again."""

    def back() -> bool:
        name = world.primary()
        if name is None or name == other_than:
            return False
        before = len(world.acked)
        world.write(name)
        world.run(COMMIT_S / 2)
        return any(ack.node == name for ack in world.acked[before:])

    return until(world, back, limit_s=limit_s)


def finish(world: Stage) -> NodeId:
    """Write on, let everybody settle, and check that nothing acknowledged is missing.

    Raises:
        ViolationError: no primary came back, or something is missing.
    """
    world.write_everywhere(0.5)
    wait_primary(world, 10)
    world.run(1)
    name = primary(world)
    data = world.nodes[name].server.data
    assert data is not None
    world.checker(Durable).check_end(data, name)
    return name


# ---------------------------------------------------------------- the truth, and what nodes say


def primary(world: Stage) -> NodeId:
    """Return the primary that there must be now."""
    name = world.primary()
    assert name is not None, log(world)
    return name


def others(world: Stage, *names: str) -> list[NodeId]:
    """Return the other nodes, in order."""
    return [n for n in world.names if n not in names]


def document(world: Stage) -> ClusterDocument:
    """Return the newest document that any node has made durable."""
    found = world.document()
    assert found is not None, log(world)
    return found


def status(world: Stage, node: str) -> NodeStatus:
    """Return what a running agent says of itself now."""
    found = world.nodes[NodeId(node)]
    assert found.engine is not None
    return found.engine.status(found.clock.instant(world.heap.now_ns))


def writes(world: Stage) -> bool:
    """Return whether a write to the current primary is acknowledged at once."""
    name = world.primary()
    before = len(world.acked)
    if name is None or world.write(name) is None:
        return False
    world.run(COMMIT_S)
    return len(world.acked) > before


def follows(world: Stage, node: str, upstream: str) -> bool:
    """Return whether a standby is attached to a server, by the truth of both."""
    sender = world.nodes[NodeId(upstream)].server.senders.get(NodeId(node))
    receiver = world.nodes[NodeId(node)].server.receiver
    return sender is not None and sender.receiver is receiver and sender.alive


def happened(world: Stage, name: EventName, *nodes: str) -> list[NodeId]:
    """Return who reported events of that name, in order; of `nodes` only, if any are given."""
    return [n for _, n, e in world.story.events if e.name is name and (not nodes or n in nodes)]


def log(world: Stage) -> str:
    """Return the events so far as readable lines."""
    return "\n".join(
        f"{at / NS_PER_S:9.3f} {node} {event.name:<22} {event.message}"
        for at, node, event in world.story.events
    )


# ---------------------------------------------------------------- faults that many scenarios use


def stall(world: Stage, *nodes: str) -> None:
    """Let standbys stay connected and receive nothing.

    What arrives meanwhile is read after `unstall`, unless the receiver has ended by then.
    """
    for node in nodes:
        world.nodes[NodeId(node)].server.receive_stalled = True


def unstall(world: Stage) -> None:
    """Let every standby receive again."""
    for node in world.nodes.values():
        if node.server.receive_stalled:
            node.server.receive_stalled = False


def keep_down(world: Stage, *nodes: str) -> None:
    """End servers whose agents live, and let no start of them succeed."""
    for node in nodes:
        world.nodes[NodeId(node)].server.start_failures = KEEP_DOWN
        world.nodes[NodeId(node)].kill_postgres()


def let_up(world: Stage, *nodes: str) -> None:
    """Let servers start again."""
    for node in nodes:
        world.nodes[NodeId(node)].server.start_failures = 0
