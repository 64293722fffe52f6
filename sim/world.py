"""The world: hosts with the production engine, a network, servers, clients, and who watches.

In: a configuration and a seed; faults through the nodes and the network. Out: what the watchers
are told. `run(seconds)` advances virtual time. Same configuration, seed and faults: same run.

Deliberately unaware of scenarios, of what is right, and of how a decision is made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from metako.cluster.engine import NodeSettings
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.membership.config import MembershipConfig
from metako.model.document import ClusterDocument, Durability, PairMode
from metako.model.ids import Address, NodeId, TimelineId
from metako.model.member import MemberMeta
from metako.wire.codec import decode_untrusted, encode
from metako.wire.messages import Message, Outbound, Received
from sim.agent import SimAgent
from sim.client import ClientConfig, SimClient
from sim.clock import NodeClock
from sim.heap import EVENTS_MAX, NS_PER_MS, NS_PER_S, Heap
from sim.network import Network, Traffic
from sim.node import SimNode
from sim.postgres.commits import Commit
from sim.postgres.data import Data
from sim.postgres.server import SimServer
from sim.processes import Processes
from sim.streams import stream
from sim.watch import ViolationError, Watch

POSTGRES_VERSIONS = (15, 18)
"""What the servers of a run are, all of them: where they differ, they do as that one does."""
GOSSIP_PORT, POSTGRES_PORT = 7946, 5432
PRIORITY = 100
"""Of a node that may lead."""
ENCODE_EVERY = 32
"""One message in so many is really encoded and decoded."""
TIMELINES_SENT = 2
"""Fewer than in production, so that already the second failover sends short documents, and who has
missed one or two of them cannot make them whole."""
SAMPLE_NS = NS_PER_S // 10
LATE_NS = NS_PER_S // 4
"""A message that was under way for longer is told to the watchers."""
DATAGRAM_MAX_BYTES = 1400
ENVELOPE_BYTES = 110


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """What a world is made of, besides its seed."""

    names: tuple[NodeId, ...]
    witnesses: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()  # those of the names without a vote
    spares: tuple[NodeId, ...] = ()  # those that run, and are no members until they are added
    never_lead: tuple[NodeId, ...] = ()  # those of priority 0
    acks: int = 1
    durability: Durability = Durability.QUORUM
    pair_mode: PairMode | None = PairMode.MANUAL  # of two voters; None: their majority, both
    takeover_wait_ms: int = 0  # `takeover`: beyond the hold
    election: ElectionSettings = field(default_factory=ElectionSettings)
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    clients: tuple[ClientConfig, ...] = ()
    drift_ppm: int = 0  # clock rates are drawn from ± this
    down: tuple[NodeId, ...] = ()  # not started


class Envelope:
    """A sealed message under way: which agent opened it, for the replay window."""

    __slots__ = ("opened_by", "received", "sent_ns")

    def __init__(self, received: Received, sent_ns: int) -> None:
        self.received = received
        self.sent_ns = sent_ns
        self.opened_by: SimAgent | None = None


class World:
    """See the module's docstring. Implements `sim.ports.Environment` and `sim.ports.Truth`."""

    def __init__(self, config: WorldConfig, seed: int, watch: Watch | None = None) -> None:
        self.config = config
        self.seed = seed
        self.heap = Heap()
        self.names = config.names
        self.witnesses = config.witnesses
        self.members = tuple(n for n in config.names if n not in config.spares)  # at first
        self.voters = tuple(n for n in self.members if n not in config.learners)  # at first
        self.election = config.election
        self.watch = watch or Watch()
        self.backup: Data | None = None  # the newest one that somebody has taken
        self._streams: dict[tuple[str, str], random.Random] = {}
        self._ids: dict[str, int] = {}
        self._operations = 0
        self.messages = 0  # sent by agents
        self.postgres_version = stream(seed, "postgres", "version").choice(POSTGRES_VERSIONS)
        self.network = Network(self.heap, lambda name: stream(seed, "network", name))
        self.nodes: dict[NodeId, SimNode] = {}
        for name in config.names:
            self.nodes[name] = SimNode(self, name, self._clock(name))
        self.network.listening = self._listening
        self.clients: list[SimClient] = []
        for number, client in enumerate(config.clients):
            rng = stream(seed, "client", client.name)
            self.clients.append(SimClient(self, client, rng, number))
        for name in config.names:
            if name not in config.down:
                self.nodes[name].start()
        self.heap.after(SAMPLE_NS, self._sample)

    # ------------------------------------------------------------ Environment

    @property
    def truth(self) -> World:
        return self

    def rng(self, node: NodeId, purpose: str) -> random.Random:
        """Return the random stream of a node for a purpose; the same object each time."""
        key = (node, purpose)
        found = self._streams.get(key)
        if found is None:
            found = self._streams[key] = stream(self.seed, node, purpose)
        return found

    def server(self, node: NodeId) -> SimServer | None:
        found = self.nodes.get(node)
        return found.server if found is not None and not found.witness else None

    def new_id(self, kind: str) -> str:
        self._ids[kind] = self._ids.get(kind, 0) + 1
        return f"{kind}{self._ids[kind]}"

    def next_operation(self) -> int:
        self._operations += 1
        return self._operations

    # ------------------------------------------------------------ Truth

    def server_changed(self, server: SimServer) -> None:
        self.watch.server_changed(server)

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        self.watch.promoted(server, tli)

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        self.watch.acknowledged(server, commit)

    def note(self, node: NodeId, mark: str, text: str = "") -> None:
        self.watch.noted(node, mark, text)

    # ------------------------------------------------------------ making

    def _clock(self, name: NodeId) -> NodeClock:
        rng = self.rng(name, "clock")
        clock = NodeClock(
            origin_ns=rng.randrange(10**9, 10**15),
            wall_ns=1_700_000_000 * NS_PER_S + rng.randrange(-(10**9), 10**9),
        )
        if self.config.drift_ppm:
            clock.set_rate(0, rng.randint(-self.config.drift_ppm, self.config.drift_ppm))
        return clock

    def settings_of(self, name: NodeId) -> NodeSettings:
        """Return what a node's engine is built from."""
        config = self.config
        witness = name in config.witnesses
        priority = 0 if name in config.never_lead else PRIORITY
        return NodeSettings(
            election=replace(config.election, timelines_sent=TIMELINES_SENT),
            cluster=ClusterSettings(
                name="sim",
                bootstrap_node=config.names[0],
                voters=self.voters,
                learners=config.learners,
                witnesses=tuple(n for n in config.witnesses if n in self.members),
                acks=config.acks,
                durability=config.durability,
                pair_mode=config.pair_mode,
                takeover_wait_ms=config.takeover_wait_ms,
                priority=priority,
            ),
            membership=config.membership,
            address=Address(name, GOSSIP_PORT),
            peers=tuple((n, Address(n, GOSSIP_PORT)) for n in config.names if n != name),
            meta=MemberMeta(
                postgres_address=None if witness else Address(name, POSTGRES_PORT),
                witness=witness,
                priority=priority,
            ),
        )

    # ------------------------------------------------------------ messages

    def send(self, node: Processes, agent: SimAgent, outbound: Outbound) -> None:
        """Seal a message and put it on the network."""
        self.messages += 1
        to = outbound.to
        message = outbound.message
        stream_wanted = outbound.stream
        if self.messages % ENCODE_EVERY == 0:
            message, size = self._through_codec(message)
            stream_wanted = stream_wanted or size + ENVELOPE_BYTES > DATAGRAM_MAX_BYTES
        envelope = Envelope(Received(node.name, agent.boot_epoch, message), self.heap.now_ns)
        if to not in self.nodes:
            self.watch.sent(node, outbound, None)
            return
        traffic = Traffic.STREAM if stream_wanted else Traffic.GOSSIP
        if stream_wanted and not self.network.is_open(to, node.name, Traffic.STREAM):
            self.watch.sent(node, outbound, None)  # a connection needs both ways
            return

        deliver = partial(self._open, self.nodes[to], envelope)
        fate = self.network.datagram(node.name, to, deliver, traffic)
        self.watch.sent(node, outbound, fate)

    def _through_codec(self, message: Message) -> tuple[Message, int]:
        data = encode(message)
        decoded = decode_untrusted(data)
        if decoded != message:
            raise ViolationError("codec", f"{message} came back as {decoded}")
        return decoded, len(data)

    def _open(self, node: SimNode, envelope: Envelope, corrupt: bool) -> None:
        agent = node.agent
        if corrupt or agent is None or not agent.alive or envelope.opened_by is agent:
            return  # the seal is broken, nobody listens, or the replay window knows it
        received = envelope.received
        newest = agent.epochs.get(received.sender, 0)
        if received.boot_epoch < newest:
            return
        envelope.opened_by = agent
        agent.epochs[received.sender] = received.boot_epoch
        if self.heap.now_ns - envelope.sent_ns > LATE_NS:
            self.watch.came_late(node, received, envelope.sent_ns)
        agent.give(received)

    def _listening(self, endpoint: str, traffic: Traffic) -> bool | None:
        node = self.nodes.get(NodeId(endpoint))
        if node is None:
            return True
        if not node.host_up or node.suspended:
            return None
        match traffic:
            case Traffic.REPLICATION | Traffic.PROXY:
                return not node.witness and node.server.listens
            case Traffic.CLIENT:
                return node.proxy is not None and node.proxy.alive
            case _:
                return node.agent_up

    # ------------------------------------------------------------ time

    def _sample(self) -> None:
        assert len(self.heap) < EVENTS_MAX, "too many events wait"
        self.watch.sampled(list(self.nodes.values()))
        self.heap.after(SAMPLE_NS, self._sample)

    def run(self, seconds: float) -> None:
        """Advance virtual time."""
        self.heap.run_until(self.heap.now_ns + round(seconds * NS_PER_S))

    def run_until(
        self, condition: Callable[[], bool], *, limit_s: float, step_ms: float = 10
    ) -> bool:
        """Run until the condition holds; return whether it did within the limit."""
        end = self.heap.now_ns + round(limit_s * NS_PER_S)
        while not condition():
            if self.heap.now_ns >= end:
                return False
            self.heap.run_until(min(end, self.heap.now_ns + round(step_ms * NS_PER_MS)))
        return True

    # ------------------------------------------------------------ views of the truth

    def primary(self) -> NodeId | None:
        """Return the node whose server really takes writes of applications under a lease."""
        for name in self.names:
            node = self.nodes[name]
            server = node.server
            if (
                not node.witness
                and server.writable
                and server.admitting
                and node.leads(self.heap.now_ns)
            ):
                return name
        return None

    def document(self, group: Iterable[NodeId] | None = None) -> ClusterDocument | None:
        """Return the newest document that any node (of the group) has made durable.

        A document that is on a majority is also with one of any group that has a majority.
        """
        nodes = self.nodes.values() if group is None else [self.nodes[name] for name in group]
        newest: ClusterDocument | None = None
        for node in nodes:
            document = node.hard.document if node.hard is not None else None
            if document is None or document is newest:  # mostly all nodes have the same one
                continue
            if newest is None or document.ref > newest.ref:
                newest = document
        return newest

    def data_nodes(self) -> Sequence[SimNode]:
        """Return the nodes that hold data, in order."""
        return [node for node in self.nodes.values() if not node.witness]
