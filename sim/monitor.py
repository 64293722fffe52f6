"""Ground truth about health: since when a node and the way between two nodes have been sound.

Sampled ten times a second and whenever something changes. A node is *sound* when nothing is wrong
with its host, agent, guard, clock and server; a way is *clean* when messages pass in both
directions without much loss or delay. "Has been sound for two seconds" is what the checkers of
availability ask: nothing else excuses an election, and nothing less may be asked to recover.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from metako.election.settings import CLOCK_RATE_ERROR
from metako.model.ids import NodeId
from metako.model.postgres import DataState, ProcessState
from sim.network import Disturbance, Traffic
from sim.watch import Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

LOSS_MAX = 0.02
DELAY_MAX_MS = 40.0
RATE_PPM_MAX = round(CLOCK_RATE_ERROR * 1_000_000)
DISK_SLOW_MS = 20
NOT = -1
"""`since` of what is not sound."""


class Monitor(Watcher):
    """See the module's docstring."""

    name = "monitor"

    def __init__(self, world: World) -> None:
        self._world = world
        self.agent_since: dict[NodeId, int] = dict.fromkeys(world.names, NOT)
        self._agent_was: dict[NodeId, int] = {}  # for how long, when it last ceased to be
        self.server_since: dict[NodeId, int] = dict.fromkeys(world.names, NOT)
        pairs = combinations(sorted(world.names), 2)
        self._disturbances: list[Disturbance] = []  # of the network, when the ways were looked at
        self._looked = False
        self._faults = 0  # that last
        self._changed: set[NodeId] = set(world.names)  # since they were looked at
        self.clean_since: dict[tuple[NodeId, NodeId], int] = dict.fromkeys(pairs, NOT)

    # ------------------------------------------------------------ sampling

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        now = self._world.heap.now_ns
        agents, servers = self.agent_since, self.server_since
        changed, self._changed = self._changed, set()
        for node in nodes:
            name = node.name
            if not self._faults and name not in changed:
                continue  # nothing has happened to it
            if not self._agent_sound(node):
                self._agent_ceased(name)
            elif agents[name] == NOT:
                agents[name] = now
            if not self._server_sound(node):
                servers[name] = NOT
            elif servers[name] == NOT:
                servers[name] = now
        disturbances = list(self._world.network.disturbances)
        if disturbances != self._disturbances or not self._looked:
            self._disturbances, self._looked = disturbances, True
            ways = self.clean_since
            for pair in ways:
                if not self._clean(*pair):
                    ways[pair] = NOT
                elif ways[pair] == NOT:
                    ways[pair] = now

    def server_changed(self, server: SimServer) -> None:
        self._changed.add(server.node)

    def node_changed(self, node: Processes) -> None:
        self._changed.add(node.name)
        if not self._agent_sound(node):
            self._agent_ceased(node.name)
        if not self._server_sound(node):
            self.server_since[node.name] = NOT

    def fault_began(self, number: int, fault: object, text: str, nodes: tuple[str, ...]) -> None:
        self._faults += 1
        self.refresh()

    def fault_ended(self, number: int) -> None:
        self.refresh()
        self._faults -= 1

    def refresh(self) -> None:
        """Look now: a fault has begun or ended."""
        self._changed.update(self._world.names)
        self.sampled(list(self._world.nodes.values()))

    def _agent_ceased(self, name: NodeId) -> None:
        since = self.agent_since[name]
        if since != NOT:
            self.agent_since[name] = NOT
            self._agent_was[name] = self._world.heap.now_ns - since

    def _agent_sound(self, node: Processes) -> bool:
        agent = node.agent
        guard = node.seat.guard
        return (
            node.host_up
            and not node.suspended
            and agent is not None
            and agent.alive
            and not agent.paused
            and not agent.step_ns
            and not disk_ill(node)
            and -RATE_PPM_MAX <= node.clock.rate_ppm <= RATE_PPM_MAX
            and (node.witness or (guard is not None and guard.answers))
        )

    def _server_sound(self, node: Processes) -> bool:
        server = node.server
        return (
            not node.witness
            and node.host_up
            and server.process is ProcessState.RUNNING
            and not server.frozen
            and not server.hung
            and not server.ill
            and server.data_state is DataState.PRESENT
        )

    def _clean(self, a: NodeId, b: NodeId) -> bool:
        network = self._world.network
        for src, dst in ((a, b), (b, a)):
            for traffic in (Traffic.GOSSIP, Traffic.STREAM, Traffic.REPLICATION):
                if not network.is_open(src, dst, traffic):
                    return False
            link = network.link(src, dst).properties
            if link.loss > LOSS_MAX or link.delay_ms[1] > DELAY_MAX_MS or link.corrupt > LOSS_MAX:
                return False
        return True

    # ------------------------------------------------------------ questions

    def agent_ok(self, node: NodeId, for_ns: int) -> bool:
        """Return whether the agent, its host, guard and clock have been sound for so long."""
        since = self.agent_since[node]
        return since != NOT and self._world.heap.now_ns - since >= for_ns

    def was_ok(self, node: NodeId, for_ns: int) -> bool:
        """Return whether the agent had been sound for so long when it last ceased to be."""
        return self._agent_was.get(node, 0) >= for_ns

    def server_ok(self, node: NodeId, for_ns: int) -> bool:
        since = self.server_since[node]
        return since != NOT and self._world.heap.now_ns - since >= for_ns

    def way_ok(self, a: NodeId, b: NodeId, for_ns: int) -> bool:
        if a == b:
            return True
        since = self.clean_since[(a, b) if a < b else (b, a)]
        return since != NOT and self._world.heap.now_ns - since >= for_ns

    def all_ok_around(self, center: NodeId, nodes: Iterable[SimNode]) -> bool:
        """Return whether everybody with data is sound now, and reached from one of them."""
        agents, servers, ways = self.agent_since, self.server_since, self.clean_since
        for node in nodes:
            name = node.name
            if node.witness:
                continue
            if agents[name] == NOT or servers[name] == NOT:
                return False
            if name != center:
                pair = (center, name) if center < name else (name, center)
                if ways[pair] == NOT:
                    return False
        return True

    def friends(self, node: NodeId, among: Iterable[NodeId], for_ns: int) -> list[NodeId]:
        """Return the nodes with sound agents that `node` reaches, itself included."""
        return [
            other
            for other in among
            if self.agent_ok(other, for_ns) and self.way_ok(node, other, for_ns)
        ]

    def clique(self, nodes: Collection[NodeId], for_ns: int) -> list[NodeId]:
        """Return a largest set of sound nodes that all reach each other (greedy, small n)."""
        best: list[NodeId] = []
        for start in sorted(nodes):
            if not self.agent_ok(start, for_ns):
                continue
            group = [start]
            for other in sorted(nodes):
                if (
                    other != start
                    and self.agent_ok(other, for_ns)
                    and all(self.way_ok(other, member, for_ns) for member in group)
                ):
                    group.append(other)
            if len(group) > len(best):
                best = group
        return sorted(best)


def clocks_off(world: World) -> bool:
    """Return whether a clock runs at a rate beyond what a lease allows for."""
    return any(abs(node.clock.rate_ppm) > RATE_PPM_MAX for node in world.nodes.values())


def disk_ill(node: Processes) -> bool:
    """Return whether writes of a node's record fail, or wait for long."""
    disk = node.disk
    return disk.full or disk.failing or disk.lying or disk.slow_ms > DISK_SLOW_MS
