"""The world: nodes with the production engine, a network, servers, clients, faults and checkers.

A node is an engine, a durable record, a guard's deadline and a server. Faults act on one of them
at a time, so an agent can be dead while its PostgreSQL lives. Checkers look at ground truth that no
node can see and fail at the exact event.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from metako.cluster.engine import Engine, NodeSettings, blank_hard_state, next_boot
from metako.cluster.ready import Input, Ready, StopRequested, Tick
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.wants import GuardDeadline
from metako.membership.config import MembershipConfig
from metako.model.document import Durability
from metako.model.durable import HardState
from metako.model.events import Event, EventName
from metako.model.ids import Address, NodeId
from metako.model.member import MemberMeta
from metako.model.routing import RoutingTable
from metako.wire.messages import Outbound, Received
from sim.first.checks import Ack, Checks, ViolationError
from sim.first.heap import Heap
from sim.first.network import Network
from sim.first.postgres import MS, SimServer

__all__ = ["Node", "ViolationError", "World"]

PUMP_MS = 3
FENCE_MS = 20  # time a fenced server needs to die; less than the fence margin


@dataclass(slots=True)
class Node:
    """One node and everything that survives or does not survive its faults."""

    name: NodeId
    server: SimServer
    hard: HardState
    engine: Engine | None = None  # None while the agent is dead
    paused: bool = False  # SIGSTOP of the agent: inputs wait
    guard_frozen: bool = False  # the guard does not fence: its promises are off
    queue: list[Input] = field(default_factory=list)
    routing: RoutingTable | None = None
    wake_token: int = 0
    stopped: bool = False


class World:
    """A cluster in virtual time. `run(seconds)` advances it. Nodes in `down` are not started."""

    def __init__(
        self,
        names: str = "abc",
        *,
        seed: int = 0,
        election: ElectionSettings | None = None,
        witnesses: str = "",
        acks: int = 1,
        durability: Durability = Durability.QUORUM,
        down: str = "",
    ) -> None:
        self.heap = Heap()
        self.seed = seed
        self.rng = random.Random(f"{seed}/world")  # noqa: S311 - a simulator is predictable
        self.network = Network(random.Random(f"{seed}/network"))  # noqa: S311 - same
        self.election = election or ElectionSettings()
        self.names = tuple(NodeId(n) for n in names)
        self.witnesses = tuple(NodeId(n) for n in witnesses)
        self.acks = acks
        self.durability = durability
        self.slowness = 0.01  # chance per pump that a standby stops receiving for a while
        self.stalled: set[NodeId] = set()  # standbys that stay connected and receive nothing
        self.checks = Checks(seed)
        self.events: list[tuple[int, NodeId, Event]] = []
        self.keep_sent = False
        self.sent: list[tuple[int, NodeId, Outbound]] = []  # filled while `keep_sent`
        self.unknown: set[str] = set()
        self._values = 0
        self._ids = 0
        self.nodes = {name: self._node(name) for name in self.names}
        for name in self.names:
            if name not in down:
                self.start(name)
        self.heap.after(PUMP_MS * MS, self._pump)

    # ------------------------------------------------------------ nodes

    def _node(self, name: NodeId) -> Node:
        server = SimServer(
            node=name,
            schedule=self.heap.after,
            fetch=lambda other: self._fetch(name, other),
            changed=lambda: self._observe(name),
            new_id=self._new_id,
            minted=lambda tli: self.checks.minted(name, tli),
        )
        return Node(name, server, blank_hard_state(name, 0))

    def _new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    def _fetch(self, asker: NodeId, other: NodeId) -> SimServer | None:
        if (asker, other) in self.network.cut or (other, asker) in self.network.cut:
            return None
        return self.nodes[other].server if other in self.nodes else None

    def start(self, name: NodeId) -> None:
        """Start the agent of a node; its record and its data are what they are."""
        node = self.nodes[name]
        if node.engine is not None:
            return
        fresh = node.hard.boot_epoch == 0
        node.hard = next_boot(node.hard)
        node.paused, node.queue, node.stopped = False, [], False
        node.guard_frozen, node.server.frozen = False, False
        peers = tuple((n, Address(n, 7946)) for n in self.names if n != name)
        settings = NodeSettings(
            election=self.election,
            cluster=ClusterSettings(
                name="sim",
                bootstrap_node=self.names[0],
                voters=self.names,
                witnesses=self.witnesses,
                acks=self.acks,
                durability=self.durability,
            ),
            membership=MembershipConfig(),
            address=Address(name, 7946),
            peers=peers,
            meta=MemberMeta(postgres_address=Address(name, 5432), witness=name in self.witnesses),
        )
        rng = random.Random(f"{self.seed}/{name}/{node.hard.boot_epoch}")  # noqa: S311 - same
        armed = node.server.armed
        node.engine = Engine(
            armed=GuardDeadline(*armed) if armed is not None else None,
            settings=settings,
            hard=node.hard,
            rng=rng,
            now=self.heap.instant(),
            fresh=fresh,
        )
        self.step(name, node.server.observed())

    def kill_agent(self, name: NodeId) -> None:
        """kill -9 of the agent: the guard keeps its deadline, the server runs on."""
        node = self.nodes[name]
        node.engine = None
        node.wake_token += 1
        node.server.abandon_step()

    def kill_node(self, name: NodeId) -> None:
        """Power off: agent, guard and server are gone; record and data stay."""
        self.kill_agent(name)
        node = self.nodes[name]
        node.server.armed = None
        node.server.crash()
        node.server.step = None

    def kill_server(self, name: NodeId) -> None:
        self.nodes[name].server.crash()

    def pause(self, name: NodeId, *, server: bool) -> None:
        """SIGSTOP the agent, with `server` also the guard and PostgreSQL."""
        node = self.nodes[name]
        node.paused = True
        node.server.frozen = node.server.frozen or server

    def freeze_guard(self, name: NodeId) -> None:
        """Stop the guard alone: what rests on no clock must hold without it."""
        self.nodes[name].guard_frozen = True

    def wipe_record(self, name: NodeId) -> None:
        """Lose the durable record of a node that is down; its data stays."""
        assert self.nodes[name].engine is None
        self.nodes[name].hard = blank_hard_state(name, 0)

    def wipe_data(self, name: NodeId) -> None:
        """Lose the data directory of a node that is down; its record stays."""
        assert self.nodes[name].engine is None
        self.nodes[name].server.data = None

    def resume(self, name: NodeId) -> None:
        node = self.nodes[name]
        node.paused = False
        node.guard_frozen, node.server.frozen = False, False
        self._fence(name)
        queued, node.queue = node.queue, []
        for event in queued:
            self.step(name, event)
        self.step(name, node.server.observed())

    def stop(self, name: NodeId) -> None:
        self.step(name, StopRequested())

    # ------------------------------------------------------------ the engine's driver

    def step(self, name: NodeId, event: Input) -> None:
        """Give one input to a node's engine and carry out what it wants."""
        node = self.nodes[name]
        if node.engine is None:
            return
        if node.paused:
            node.queue.append(event)
            return
        ready = node.engine.step(self.heap.instant(), event)
        self._carry_out(node, ready)
        if node.engine is not None:
            self._wake(node)

    def _carry_out(self, node: Node, ready: Ready) -> None:
        if ready.persist is not None:
            node.hard = ready.persist
        for message in ready.messages:
            self._send(node, message)
        if ready.routing is not None:
            node.routing = ready.routing
        if ready.guard is not None:
            if ready.guard.deadline_boot_ns is None:
                node.server.armed = None
            else:
                node.server.armed = (ready.guard.term, ready.guard.deadline_boot_ns)
                self.heap.at(ready.guard.deadline_boot_ns, lambda: self._fence(node.name))
        for event in ready.events:
            self.events.append((self.heap.now_ns, node.name, event))
            if event.name is EventName.ELECTION_WON:
                self.checks.elected(node.name, dict(event.fields)["term"])
        if ready.target is not None:
            node.server.set_target(ready.target)
        if ready.stopped:
            node.stopped = True
            self.kill_agent(node.name)

    def _fence(self, name: NodeId) -> None:
        """The guard: kill the server at its deadline, whatever the agent does."""
        server = self.nodes[name].server
        if server.frozen or self.nodes[name].guard_frozen:
            return
        if server.armed is None or self.heap.now_ns < server.armed[1]:
            return
        server.armed = None
        self.heap.after(FENCE_MS * MS, server.crash)

    def _wake(self, node: Node) -> None:
        assert node.engine is not None
        node.wake_token += 1
        token = node.wake_token
        at = node.engine.wakeup()

        def tick() -> None:
            if token == node.wake_token and node.engine is not None:
                self.step(node.name, Tick())

        if at < 2**62:
            self.heap.at(max(at, self.heap.now_ns + MS // 10), tick)

    def _send(self, node: Node, outbound: Outbound) -> None:
        to = outbound.to
        assert to != node.name
        if self.keep_sent:
            self.sent.append((self.heap.now_ns, node.name, outbound))
        lost = self.network.rng.random() < self.network.loss
        delay = round(self.network.rng.uniform(*self.network.delay_ms) * MS)
        if to not in self.nodes or (node.name, to) in self.network.cut or lost:
            return
        received = Received(node.name, node.hard.boot_epoch, outbound.message)
        self.heap.after(delay, lambda: self.step(to, received))

    def _observe(self, name: NodeId) -> None:
        # The supervisor reports through the agent, a moment later.
        self.heap.after(MS, lambda: self.step(name, self.nodes[name].server.observed()))

    def _pump(self) -> None:
        for name in self.names:
            server = self.nodes[name].server
            if self.rng.random() < (0.05 if server.slow else self.slowness):
                server.slow = not server.slow
            server.slow = server.slow or name in self.stalled
            server.pump()
            node = self.nodes[name]
            server.unattended = node.engine is None or node.paused
            server.work()
        self._check_writable()
        if (self.heap.now_ns // (PUMP_MS * MS)) % 8 == 0:
            for name in self.names:
                if self.nodes[name].server.writable:
                    self._observe(name)
        self.heap.after(PUMP_MS * MS, self._pump)

    # ------------------------------------------------------------ time and clients

    def run(self, seconds: float) -> None:
        self.heap.run_until(self.heap.now_ns + round(seconds * 1000 * MS))

    def run_until_primary(self, limit_s: float = 20.0, *, other_than: str = "") -> NodeId:
        """Run until a node's routing names an admitting primary; fail at the limit."""
        for _ in range(round(limit_s * 100)):
            self.run(0.01)
            primary = self.primary()
            if primary is not None and primary != other_than:
                return primary
        raise ViolationError(f"no primary within {limit_s} s of virtual time")

    def primary(self) -> NodeId | None:
        for name in self.names:
            server = self.nodes[name].server
            engine = self.nodes[name].engine
            if server.writable and server.config.admit and not server.frozen and engine:
                status = engine.status(self.heap.instant())
                if status.primary == name and not self.nodes[name].paused:
                    return name
        return None

    def write(self, name: NodeId) -> str | None:
        """Commit a new value on a server, as a client would; return it if it was accepted."""
        self._values += 1
        value = f"v{self._values}"
        server = self.nodes[name].server

        def done(acknowledged: bool) -> None:
            if not acknowledged:
                self.unknown.add(value)
                return
            assert server.data is not None
            self.checks.acknowledged(Ack(self.heap.now_ns, name, server.data.tli, value))

        return value if server.commit(value, done) else None

    def write_everywhere(self, seconds: float, per_second: int = 50) -> None:
        """Write to whatever accepts writes, on every node, for a while."""
        for _ in range(round(seconds * per_second)):
            for name in self.names:
                self.write(name)
            self.run(1 / per_second)

    # ------------------------------------------------------------ checkers

    def _check_writable(self) -> None:
        self.checks.writable(
            self.heap.now_ns,
            [
                n
                for n in self.names
                if self.nodes[n].server.writable
                and self.nodes[n].server.config.admit
                and not self.nodes[n].server.frozen
                and not self.nodes[n].guard_frozen
                and self.nodes[n].server.armed is not None
            ],
        )

    def check_nothing_lost(self, name: NodeId) -> None:
        """Every acknowledged value is on `name`'s server, once."""
        data = self.nodes[name].server.data
        assert data is not None
        self.checks.nothing_lost([record.value for record in data.wal if record.value])

    @property
    def acked(self) -> list[Ack]:
        return self.checks.acked

    def log(self) -> str:
        """Return the events so far as readable lines."""
        return "\n".join(
            f"{at / 1e9:9.3f} {node} {event.name:<22} {event.message}"
            for at, node, event in self.events
        )
