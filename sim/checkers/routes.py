"""Routes are fresh: a proxy leads to a server only as long as its lease can run, for all it knows.

In: the heartbeats that reach a node, and when leases really ended. A follower counts a lease from
the receipt of a heartbeat, because it has nothing else: one that was held up in the network, or in
the inbox of an agent that was starved or stood still, makes it believe in a lease that has ended.
While the agent stands still no heartbeat does, and its proxy has only the table that it got before.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from metako.model.ids import NodeId
from metako.model.instant import milliseconds
from metako.proxy.routes import Route
from metako.wire.messages import Heartbeat, Outbound, Received
from sim.heap import NS_PER_MS
from sim.monitor import clocks_off, disk_ill
from sim.network import Fate, FateKind
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.processes import Processes
    from sim.world import World

LATE_NS = 300 * NS_PER_MS
"""A route may outlive its server's lease by a hold and the time that a message takes."""
CAME_LATE_NS = 250 * NS_PER_MS
"""What was under way for longer is reported by the world as having come late."""
HANDED_ON_NS = 60 * NS_PER_MS
"""From the arrival of a heartbeat until the proxy has the table."""
HEARTBEATS_MAX = 64
"""Of those that are under way to one node the newest."""


class Routes(Watcher):
    """See the module's docstring."""

    name = "routes"
    sent_kinds: ClassVar[frozenset[type] | None] = frozenset({Heartbeat})

    def __init__(self, world: World) -> None:
        self._world = world
        self._hold_ns = milliseconds(world.election.hold_ms)
        self._misled: dict[NodeId, int] = {}  # until when late heartbeats excuse its routes
        self._delaying: set[NodeId] = set()  # whose agent lets its inbox wait
        self._still: set[NodeId] = set()  # whose agent stands still
        # From when and until when heartbeats may reach a node, by (node, their sender).
        self._arrivals: dict[tuple[NodeId, NodeId], deque[tuple[int, int]]] = {}

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        if fate is None:
            return
        spans = [(at, at) for at in fate.arrivals]
        if fate.kind is FateKind.CLOGGED:
            # Nobody knows when it comes. One that comes later than this is told of below.
            now = self._world.heap.now_ns
            spans = [(now, now + CAME_LATE_NS)]
        if spans:
            way = outbound.to, node.name
            if way not in self._arrivals:
                self._arrivals[way] = deque(maxlen=HEARTBEATS_MAX)
            self._arrivals[way].extend(spans)

    def came_late(self, node: Processes, received: Received, sent_ns: int) -> None:
        if type(received.message) is Heartbeat:
            self._excuse(node.name)

    def node_changed(self, node: Processes) -> None:
        still = node.name in self._still
        stops = _stands_still(node) and not still and node.name in self._delaying
        if self._reads_late(node) or stops:
            self._excuse(node.name)
        if _stands_still(node):
            self._still.add(node.name)
        else:
            self._still.discard(node.name)
        if _starved(node) or _stands_still(node):
            self._delaying.add(node.name)
        else:
            self._delaying.discard(node.name)

    def _reads_late(self, node: Processes) -> bool:
        """Return whether the agent runs, and may read now what came long ago."""
        if _stands_still(node):
            return False
        return node.name in self._delaying or _starved(node)

    def _excuse(self, name: NodeId) -> None:
        self._misled[name] = self._world.heap.now_ns + self._hold_ns + LATE_NS

    def route_taken(self, node: Processes, route: Route) -> None:
        world = self._world
        now = world.heap.now_ns
        late = now - world.nodes[route.node].lease_end_ns
        silent = now - self._last_heard(node.name, route.node)
        if clocks_off(world) or any(each.was_hidden for each in world.nodes.values()):
            return
        if late <= self._hold_ns + LATE_NS and silent <= self._hold_ns + HANDED_ON_NS:
            return
        if self._reads_late(node):
            self._excuse(node.name)
        if now < self._misled.get(node.name, 0):
            world.note(node.name, "route_by_late_heartbeat", f"to {route.node}")
            return
        ended = f"whose lease ended {late / 1e9:.2f} s ago" if late > 0 else "whose lease runs"
        raise ViolationError(
            "stale_route",
            f"the proxy of {node.name} leads to {route.node}, {ended}; the last heartbeat from "
            f"there came {silent / 1e9:.2f} s ago",
            (node.name, route.node),
        )

    def _last_heard(self, node: NodeId, leader: NodeId) -> int:
        """Return when the newest heartbeat of a leader may have reached a node at the latest."""
        now = self._world.heap.now_ns
        if node == leader:  # it needs none
            return now
        arrivals = self._arrivals.get((node, leader), ())
        return max((min(last, now) for first, last in arrivals if first <= now), default=0)


def _stands_still(node: Processes) -> bool:
    agent = node.agent
    return agent is not None and agent.alive and (agent.paused or node.suspended)


def _starved(node: Processes) -> bool:
    agent = node.agent
    return agent is not None and bool(agent.step_ns or disk_ill(node))
