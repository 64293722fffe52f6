"""An operator's order is answered once, soon, and done once.

In: orders as they are given, answers, events of the engines, and whose agent is sound. An order
whose agent is killed, or does not run as it should, may stay without an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.election.orderdesk import ORDER_TIMEOUT_MS
from metako.model.events import Event, EventName
from metako.model.ids import NodeId
from metako.model.instant import milliseconds
from metako.model.orders import Order, OrderAnswer
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.processes import Processes
    from sim.world import World

LIMIT_NS = milliseconds(ORDER_TIMEOUT_MS) + NS_PER_S


class Orders(Watcher):
    """See the module's docstring."""

    name = "orders"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._waiting: dict[str, tuple[NodeId, int]] = {}  # where an order was given, and when
        self._answered: set[str] = set()
        self._done: dict[str, NodeId] = {}  # orders for a switchover, and who took them

    def ordered(self, node: Processes, order: Order) -> None:
        self._waiting[order.order_id] = (node.name, self._world.heap.now_ns)

    def answered(self, node: Processes, answers: Sequence[OrderAnswer]) -> None:
        for answer in answers:
            self._waiting.pop(answer.order_id, None)
            if answer.order_id in self._answered:
                raise ViolationError(
                    "order_twice", f"{node.name} answered an order twice: {answer}", (node.name,)
                )
            self._answered.add(answer.order_id)

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is not EventName.SWITCHOVER_ACCEPTED:
                continue
            order = str(dict(event.fields)["order"])
            before = self._done.get(order)
            if before is not None:
                raise ViolationError(
                    "order_twice",
                    f"order {order}, which {before} had taken, was taken again by {node.name}",
                    (before, node.name),
                )
            self._done[order] = node.name

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        now = self._world.heap.now_ns
        for order, (node, since) in tuple(self._waiting.items()):
            if not self._monitor.agent_ok(node, now - since):
                del self._waiting[order]
            elif now - since > LIMIT_NS:
                raise ViolationError(
                    "order_unanswered",
                    f"{node} has not answered order {order} for {(now - since) / NS_PER_S:.1f} s",
                    (node,),
                )
