"""Bounds: messages, queues and records stay small; routes are fresh; no data but ours serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.durable import HardState
from metako.model.ids import NodeId
from metako.model.instant import milliseconds
from metako.model.postgres import DataState, ProcessState
from metako.proxy.routes import Route
from metako.wire.codec import encode_hard_state
from metako.wire.messages import Heartbeat, Outbound, Received
from sim.agent import INBOX_MAX, LOCAL_MAX
from sim.monitor import Monitor
from sim.network import Fate
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

MESSAGES_PER_SECOND_MAX = 400
"""Of one node, for each peer it has."""
RECORD_BYTES_MAX = 16_000
"""Of a durable record; the encoder refuses a little more."""
LATE_NS = 300_000_000
"""A route may outlive its server's lease by a hold and the time that a message takes."""


class Bounds(Watcher):
    """See the module's docstring."""

    name = "bounds"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._sent: dict[NodeId, int] = dict.fromkeys(world.names, 0)
        self._samples = 0
        self._records = 0
        self._hold_ns = milliseconds(world.election.hold_ms)
        self._misled: dict[NodeId, int] = {}  # until when late heartbeats excuse its routes

    # ------------------------------------------------------------ messages and queues

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        self._sent[node.name] += 1

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        self._samples += 1
        if self._samples % 10:
            return
        limit = MESSAGES_PER_SECOND_MAX * max(1, len(nodes) - 1)
        for node in nodes:
            if self._sent[node.name] > limit:
                raise ViolationError(
                    "too_much",
                    f"{node.name} sent {self._sent[node.name]} messages in a second",
                    (node.name,),
                )
            self._sent[node.name] = 0
            agent = node.agent
            if agent is not None and agent.longest_inbox > INBOX_MAX + LOCAL_MAX:
                raise ViolationError(
                    "too_much", f"{agent.longest_inbox} inputs wait in {node.name}", (node.name,)
                )

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        self._records += 1
        if self._records % 16 == 0 and len(encode_hard_state(hard)) > RECORD_BYTES_MAX:
            raise ViolationError(
                "too_much", f"the record of {node.name} is too large", (node.name,)
            )

    def engine_failed(self, node: Processes, error: Exception) -> None:
        raise ViolationError(
            "engine", f"{node.name}: {type(error).__name__}: {error}", (node.name,)
        ) from error

    # ------------------------------------------------------------ routes and data

    def route_taken(self, node: Processes, route: Route) -> None:
        world = self._world
        named = world.nodes[route.node]
        late = world.heap.now_ns - named.lease_end_ns
        if late <= self._hold_ns + LATE_NS or self._clocks_off():
            return
        # A starved or paused agent takes heartbeats for new that have waited in its own inbox.
        starved = not self._monitor.agent_ok(node.name, self._hold_ns + LATE_NS)
        if starved or world.heap.now_ns < self._misled.get(node.name, 0):
            world.note(node.name, "route_by_late_heartbeat", f"to {route.node}")
        else:
            raise ViolationError(
                "stale_route",
                f"the proxy of {node.name} leads to {route.node}, whose lease ended "
                f"{late / 1e9:.2f} s ago",
                (node.name, route.node),
            )

    def came_late(self, node: Processes, received: Received, sent_ns: int) -> None:
        # A follower counts from receipt, because it has nothing else: a heartbeat that was held
        # up in the network makes it believe in a lease that has ended.
        if type(received.message) is Heartbeat:
            self._misled[node.name] = self._world.heap.now_ns + self._hold_ns + LATE_NS

    def _clocks_off(self) -> bool:
        nodes = self._world.nodes.values()
        return any(abs(n.clock.rate_ppm) > 10_000 or n.was_hidden for n in nodes)

    def server_changed(self, server: SimServer) -> None:
        data = server.data
        if data is None or server.process is not ProcessState.RUNNING:
            return
        if data.mixed or server.data_state is DataState.TAINTED:
            raise ViolationError(
                "foreign_served", f"{server.node} runs on a half-rewound directory", (server.node,)
            )
        document = self._world.document()
        foreign = document is not None and document.system_id not in (0, data.system_id)
        if foreign and server.writable:
            raise ViolationError(
                "foreign_served", f"{server.node} serves data of another system", (server.node,)
            )
