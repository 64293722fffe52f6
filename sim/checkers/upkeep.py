"""What operators do for upkeep is done as they meant it: a pause is kept, restarts are restarts.

In: orders, events of the engines, the processes of the servers. A restart is judged by the server's
processes, not by what an agent says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.events import Event, EventName
from metako.model.ids import NodeId
from metako.model.orders import Order, OrderKind
from sim.heap import NS_PER_S
from sim.versions import Versions
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.processes import Processes
    from sim.world import World

ORDER_LASTS_NS = 21 * NS_PER_S
"""An operator's order to a node while nobody leads has it stand for so long."""


class Upkeep(Watcher):
    """See the module's docstring. `versions` has to be told of the same event before this."""

    name = "upkeep"

    def __init__(self, world: World, versions: Versions) -> None:
        self._world = world
        self._versions = versions
        self._sent: dict[NodeId, int] = {}  # when an operator last had a node stand for election
        self._epochs: dict[NodeId, int] = {}  # of the servers, when a restart was accepted
        self._restarted: set[tuple[object, object]] = set()  # orders, and whose servers by each

    def ordered(self, node: Processes, order: Order) -> None:
        if order.kind in (OrderKind.FAILOVER, OrderKind.RESUME):
            self._sent[node.name] = self._world.heap.now_ns

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            match event.name:
                case EventName.ELECTION_WON:
                    self._won(node, dict(event.fields).get("document"))
                case EventName.RESTART_ACCEPTED:
                    nodes = self._world.nodes
                    self._epochs = {name: nodes[name].server.epoch for name in nodes}
                case EventName.RESTARTED:
                    fields = dict(event.fields)
                    self._had_its_turn(NodeId(str(fields["node"])), fields["order"])
                case _:
                    pass

    def _won(self, node: Processes, shown: object) -> None:
        base = self._versions.named(shown) if isinstance(shown, str) else None
        if base is None or not base.paused or base.primary == node.name:
            return
        switched = base.switchover is not None and base.switchover.target == node.name
        sent_ns = self._sent.get(node.name)
        now = self._world.heap.now_ns
        by_order = sent_ns is not None and now - sent_ns <= ORDER_LASTS_NS
        if not switched and not by_order:
            raise ViolationError(
                "usurped",
                f"{node.name} won an election by document {base.ref}, by which the cluster is "
                f"paused under {base.primary}",
                (node.name, base.primary),
            )

    def _had_its_turn(self, name: NodeId, order: object) -> None:
        if (order, name) in self._restarted:
            raise ViolationError(
                "restarted_twice", f"{name} had its turn again by order {order}", (name,)
            )
        self._restarted.add((order, name))
        before = self._epochs.get(name)
        if before is not None and self._world.nodes[name].server.epoch == before:
            raise ViolationError(
                "not_restarted", f"the server of {name} is the one that ran before", (name,)
            )
