"""Who is gone for good is dealt with in time: held dead, out of the sync set, out of the routes.

In: ground truth about hosts and data, every tenth of a second. Nothing of it is what the engine
under test says of itself: a listed member counts by the data that its server has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from metako.model.document import ClusterDocument, Durability
from metako.model.durable import HardState
from metako.model.ids import NodeId
from metako.model.member import MemberState
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.standing import has_majority, is_member, is_unheard, record_named
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

PRESENT = (MemberState.ALIVE, MemberState.SUSPECT)
HOLD_MS = 2000
"""The hold that the limits below are for; with a longer one everything takes longer."""
SETTLED_NS = 15 * NS_PER_S
"""A member of a sync set that is dead, and one with other data, is out of it by then."""
FURTHER_NS = 5 * NS_PER_S
"""And so much later for each other one: a removal waits for all that stay, dead or not."""
SUSPECTED_NS = 8 * NS_PER_S
"""From the probe that fails until the suspect is dead, with room for a sick health score."""
PROBED_NS = 3 * NS_PER_S // 2
"""Between two probes, while some of them fail; each member is probed once in 2n − 1 of them."""
QUICKLY_NS = 3 * NS_PER_S
"""The same as `SUSPECTED_NS` where everybody was well before,"""
WELL_NS = 40 * NS_PER_S
"""for so long: then no health score is left of what was before that,"""
INTERVAL_NS = NS_PER_S
"""and probes follow each other like this."""


class Listed(Watcher):
    """Who is dead, or has other data than the document lists, leaves the sync set in time."""

    name = "listed"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._wrong: dict[tuple[NodeId, str], int] = {}  # since when
        self._slower = max(1, world.election.hold_ms / HOLD_MS)
        self._most = 0  # of them at one time
        self._had: dict[NodeId, set[str]] = {}  # identities of the data that a node ever had

    def server_changed(self, server: SimServer) -> None:
        if server.data is not None:
            self._had.setdefault(server.node, set()).add(server.data.data_id)

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        document = hard.document
        if document is None or (before is not None and before.document is document):
            return
        for member in document.sync.members:
            if not is_member(document, member.node):
                raise ViolationError(
                    "stale_listing",
                    f"document {document.ref} lists {member.node}, which is no member by it",
                    (node.name, member.node),
                )
            if member.data_id not in self._had.get(member.node, ()):
                raise ViolationError(
                    "stale_listing",
                    f"document {document.ref} lists {member.node} with data that it never had",
                    (node.name, member.node),
                )

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        world = self._world
        document = world.document()
        if document is None:
            return
        wrong = dict(self._wrongly_listed(document))
        if not wrong or not self._must_be_settled(document, nodes):
            self._wrong, self._most = {}, 0
            return
        now = world.heap.now_ns
        self._wrong = {key: self._wrong.get(key, now) for key in wrong.items()}
        self._most = max(self._most, len(wrong))
        further = (self._most - 1) * FURTHER_NS
        limit_ns = round(self._slower * (SETTLED_NS + further))
        for (name, what), since in self._wrong.items():
            if now - since > limit_ns:
                raise ViolationError(
                    "stale_listing",
                    f"{name} {what} and has been in the sync set for {limit_ns / NS_PER_S:g} s "
                    "since then",
                    (name,),
                )

    def _wrongly_listed(self, document: ClusterDocument) -> Iterable[tuple[NodeId, str]]:
        sync = document.sync
        if document.durability is Durability.STRICT and len(sync.members) <= sync.k:
            return  # nobody may leave before another one has come
        for member in document.sync.members:
            node = self._world.nodes[member.node]
            data = node.server.data
            if not node.host_up and document.durability is Durability.QUORUM:
                yield member.node, "is dead"
            elif data is not None and data.data_id != member.data_id and node.server.receiving:
                yield member.node, "has other data"
            elif self._by_another_record(node, document):
                yield member.node, "has another record than it is a member by"

    def _by_another_record(self, node: SimNode, document: ClusterDocument) -> bool:
        """Return whether a node has another record than the primary knows of, and may know of."""
        hard, primary = node.hard, self._world.nodes[document.primary]
        if hard is None or not node.agent_up or is_unheard(node, primary):
            return False
        return hard.record_id != record_named(document, node.name)

    def _must_be_settled(self, document: ClusterDocument, nodes: Sequence[SimNode]) -> bool:
        """Return whether there is a primary, and all whose hosts run are sound and meet it."""
        monitor, primary = self._monitor, self._world.primary()
        up = [node for node in nodes if node.host_up and is_member(document, node.name)]
        return (
            primary is not None
            and primary == document.primary
            and has_majority(self._world, document, [node.name for node in up])
            and all(
                monitor.agent_ok(node.name, 0)
                and monitor.way_ok(primary, node.name, 0)
                and (node.witness or monitor.server_ok(node.name, 0))
                for node in up
            )
        )


class Noticed(Watcher):
    """A host that is gone is held dead in time, and no reads are led to it."""

    name = "noticed"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        probes = 2 * len(world.names) - 1
        self._limit_ns = SUSPECTED_NS + probes * PROBED_NS
        self._quick_ns = QUICKLY_NS + probes * INTERVAL_NS
        self._down: dict[NodeId, int] = {}  # since when

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        now = self._world.heap.now_ns
        down = [node.name for node in nodes if not node.host_up]
        if not down and not self._down:
            return
        self._down = {name: self._down.get(name, now) for name in down}
        quick = self._all_were_well(now, nodes)
        limit_ns = self._quick_ns if quick else self._limit_ns
        # Somebody who was left almost alone may suspect for longer: it could be the sick one.
        unnoticed = PRESENT if quick else (MemberState.ALIVE,)
        gone = {name for name, since in self._down.items() if now - since >= limit_ns}
        if not gone:
            return
        for node in nodes:
            engine, proxy = node.engine, node.proxy
            if engine is None or not self._can_tell(node.name, nodes, limit_ns):
                continue
            for member in engine.members():
                if member.node in gone and member.state in unnoticed:
                    self._fail(node.name, "does not hold dead", member.node, limit_ns)
            for name in proxy.replicas() if proxy is not None else ():
                if name in gone:
                    self._fail(node.name, "leads reads to", name, limit_ns)

    def _all_were_well(self, now: int, nodes: Sequence[SimNode]) -> bool:
        """Return whether one host is down, and nothing else was wrong for long before that."""
        if len(self._down) != 1:
            return False
        (down, since), *_ = self._down.items()
        long_ns = now - since + WELL_NS
        monitor = self._monitor
        return monitor.was_ok(down, WELL_NS) and all(
            monitor.way_ok(node.name, other.name, long_ns)
            and (node.name == down or monitor.agent_ok(node.name, long_ns))
            for node in nodes
            for other in nodes
        )

    def _can_tell(self, name: NodeId, nodes: Sequence[SimNode], limit_ns: int) -> bool:
        """Return whether a node was sound for long, and so were all that it should reach.

        One that reaches nobody takes itself for the sick one, and waits.
        """
        monitor = self._monitor
        return monitor.agent_ok(name, limit_ns) and all(
            monitor.way_ok(name, other.name, limit_ns) and monitor.agent_ok(other.name, limit_ns)
            for other in nodes
            if other.host_up
        )

    def _fail(self, by: NodeId, does: str, whom: NodeId, limit_ns: int) -> None:
        raise ViolationError(
            "death_unnoticed",
            f"{by} {does} {whom}, whose host has been down for {limit_ns / NS_PER_S:g} s",
            (by, whom),
        )
