"""A lease that is given up is followed by an election at once, not after the hold of the voters.

In: events of the engines, and who is sound. The stopwatch runs only while everybody but the one who
released is sound, and every standby is listed with the data that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.document import Phase
from metako.model.events import Event, EventName
from metako.model.ids import NodeId
from metako.model.instant import milliseconds
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.processes import Processes
    from sim.world import World

LIMIT_OF_HOLD = 0.6
"""Part of a hold within which somebody leads."""
HOLD_MS_MIN = 2000
"""With shorter holds an election takes about as long as a hold, and nothing can be told apart."""
CALM_NS = 2 * NS_PER_S
"""How long everybody was sound before."""


class Handover(Watcher):
    """See the module's docstring."""

    name = "handover"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._released: tuple[NodeId, int] | None = None  # who, and when
        hold_ms = world.election.hold_ms
        self._limit_ns = milliseconds(hold_ms * LIMIT_OF_HOLD) if hold_ms >= HOLD_MS_MIN else 0

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is EventName.ELECTION_WON:
                self._released = None
            elif event.name is EventName.LEASE_RELEASED and self._limit_ns:
                ways = (self._monitor.way_ok(node.name, n, NS_PER_S) for n in self._world.names)
                self._released = (node.name, self._world.heap.now_ns) if all(ways) else None

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        if self._released is None:
            return
        by, since = self._released
        late = self._world.heap.now_ns - since
        if not self._calm(by, CALM_NS + late):
            self._released = None
        elif late > self._limit_ns:
            raise ViolationError(
                "slow_handover",
                f"{by} released its lease {late / NS_PER_S:.1f} s ago, and nobody leads",
                (by,),
            )

    def _calm(self, by: NodeId, span_ns: int) -> bool:
        world, monitor = self._world, self._monitor
        document = world.document()
        if document is None or document.phase is not Phase.ACTIVE or by != document.primary:
            return False
        # One that was cloned since it was listed counts for no election.
        listed = {
            member.node
            for member in document.sync.members
            if (data := world.nodes[member.node].server.data) is not None
            and data.data_id == member.data_id
        }
        others = [name for name in world.names if name != by]
        if len(set(document.voters) - {by}) < document.majority:
            return False  # nobody can lead without the one that has given it up
        return len(listed) == len(world.data_nodes()) - 1 and all(
            monitor.agent_ok(name, span_ns)
            and all(monitor.way_ok(other, name, span_ns) for other in others)
            and (name not in listed or monitor.server_ok(name, span_ns))
            for name in others
        )
