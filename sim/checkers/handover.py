"""A lease that is given up is followed by an election at once, and a switchover by its own end.

In: events of the engines, and who is sound. The stopwatch runs only while everybody but the one who
released is sound, and every standby is listed with the data that it has. Then a switchover also
ends where it was meant to, and nobody's data has to be rewound or cloned for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metako.model.document import Phase
from metako.model.events import Event, EventName
from metako.model.ids import NodeId
from metako.model.instant import milliseconds
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.standing import has_majority
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
SWITCHOVER_NS = 4 * NS_PER_S
"""From the order to the new primary; it includes a checkpoint."""
REJOIN_NS = 4 * NS_PER_S
"""How long after it the old primary's data are looked at."""


@dataclass(slots=True)
class _Switchover:
    by: NodeId  # who led when it was ordered
    target: str
    since_ns: int
    order: object  # by which it was asked for
    completed_ns: int | None = None


class Handover(Watcher):
    """See the module's docstring."""

    name = "handover"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._released: tuple[NodeId, int] | None = None  # who, and when
        self._switchover: _Switchover | None = None  # the newest, while everybody is sound
        hold_ms = world.election.hold_ms
        self._limit_ns = milliseconds(hold_ms * LIMIT_OF_HOLD) if hold_ms >= HOLD_MS_MIN else 0

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            match event.name:
                case EventName.ELECTION_WON:
                    self._released = None
                case EventName.LEASE_RELEASED if self._limit_ns:
                    ways = (self._monitor.way_ok(node.name, n, NS_PER_S) for n in self._members())
                    at = self._world.heap.now_ns
                    self._released = (node.name, at) if all(ways) else None
                case EventName.SWITCHOVER_ACCEPTED:
                    fields = dict(event.fields)
                    self._ordered(node, str(fields["target"]), fields.get("order"))
                case EventName.SWITCHOVER_COMPLETED if self._switchover is not None:
                    self._switchover.completed_ns = self._world.heap.now_ns
                case EventName.SWITCHOVER_FAILED:
                    self._failed(node, event)
                case EventName.POSTGRES_CRASHED:
                    self._switchover = None
                case _:
                    pass

    def noted(self, node: NodeId, mark: str, text: str) -> None:
        switched = self._switchover
        if mark not in ("rewind_used", "clone_used") or switched is None:
            return
        if node == switched.by and self._all_calm(switched):
            raise ViolationError(
                "switchover_rewound",
                f"the data of {node} went astray in a switchover to {switched.target} ({mark})",
                (node,),
            )
        self._switchover = None

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        self._look_at_release()
        self._look_at_switchover()

    # ------------------------------------------------------------ a release

    def _look_at_release(self) -> None:
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

    # ------------------------------------------------------------ a switchover

    def _look_at_switchover(self) -> None:
        switched, now = self._switchover, self._world.heap.now_ns
        if switched is None:
            return
        if switched.completed_ns is not None:
            if now > switched.completed_ns + REJOIN_NS:
                self._switchover = None
        elif not self._all_calm(switched):
            self._switchover = None
        elif now - switched.since_ns > SWITCHOVER_NS:
            raise ViolationError(
                "slow_switchover",
                f"a switchover from {switched.by} to {switched.target} is not over after "
                f"{(now - switched.since_ns) / NS_PER_S:.1f} s, although all are sound",
                (switched.by,),
            )

    def _ordered(self, node: Processes, target: str, order: object) -> None:
        now = self._world.heap.now_ns
        whole = self._calm(node.name, CALM_NS)
        self._switchover = _Switchover(node.name, target, now, order) if whole else None

    def _failed(self, node: Processes, event: Event) -> None:
        fields = dict(event.fields)
        switched, why = self._switchover, str(fields["reason"])
        if switched is not None and fields.get("order") not in (None, switched.order):
            return  # one that was asked for by the clock, and dropped for this one
        self._switchover = None
        if switched is not None and "cancelled" not in why and self._all_calm(switched):
            raise ViolationError(
                "switchover_failed",
                f"the switchover from {switched.by} to {switched.target} failed although all are "
                f"sound: {why}",
                (node.name,),
            )

    def _all_calm(self, switched: _Switchover) -> bool:
        """Return whether all was sound since before the order, but for the server that stops."""
        world, monitor, by = self._world, self._monitor, switched.by
        span_ns = CALM_NS + world.heap.now_ns - switched.since_ns
        stops, members = world.nodes[by].server, self._members()
        return not (stops.ill or stops.hung or stops.frozen) and all(
            monitor.agent_ok(name, span_ns)
            and all(monitor.way_ok(other, name, span_ns) for other in members if other != name)
            and (name == by or world.nodes[name].witness or monitor.server_ok(name, span_ns))
            for name in members
        )

    def _members(self) -> Sequence[NodeId]:
        document = self._world.document()
        return document.members() if document is not None else self._world.members

    def _calm(self, by: NodeId, span_ns: int) -> bool:
        world, monitor = self._world, self._monitor
        document = world.document()
        if document is None or document.phase is not Phase.ACTIVE or by != document.primary:
            return False
        if document.paused:
            return False  # nobody else stands
        # One that was cloned since it was listed counts for no election, and neither does one that
        # has yet to be rewound: a former primary is listed with its data as it left them.
        led = world.nodes[by].server.data
        listed = {
            member.node
            for member in document.sync.members
            if (data := world.nodes[member.node].server.data) is not None
            and data.data_id == member.data_id
            and led is not None
            and data.wal[-1].branch == led.wal[-1].branch
        }
        others = [name for name in document.members() if name != by]
        if not has_majority(world, document, others):
            return False  # nobody can lead without the one that has given it up
        standbys = [name for name in others if not world.nodes[name].witness]
        return len(listed) == len(standbys) and all(
            monitor.agent_ok(name, span_ns)
            and all(monitor.way_ok(other, name, span_ns) for other in others)
            and (name not in listed or monitor.server_ok(name, span_ns))
            for name in others
        )
