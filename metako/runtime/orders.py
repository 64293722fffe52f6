"""Callers that have given an order to this node's engine, and wait for the cluster's answer.

In: orders, and the answers that the engine passes out. Out: each answer to the caller whose order
it is about. An answer that nobody waits for any more is dropped: what became of the order is in
the cluster document and in the log.

Invariant: a caller is in the table exactly as long as it waits, whether it is answered, tired or
cancelled. Does not know what an order asks for, or who may give one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from metako.cluster.ready import Input
from metako.model.errors import OrderNotGivenError, OrderUnansweredError
from metako.model.orders import Order, OrderAnswer

ORDERS_MAX = 16
"""Callers that may wait at once. People give orders; more is a script gone wrong."""
ORDER_TIMEOUT_S = 10.0
"""For an answer. The engine itself gives up asking the leader after about 6 s, and says so."""


@dataclass(slots=True)
class _Caller:
    """Somebody who waits."""

    given: bool = False  # the engine has the order, or will have it with its next input
    answer: OrderAnswer | None = None  # None until it comes
    woken: trio.Event = field(default_factory=trio.Event)


class OrderTable:
    """The callers that wait, by the ids of their orders."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._callers)

    async def ask(self, order: Order, inbox: trio.MemorySendChannel[Input]) -> OrderAnswer:
        """Give `order` to the engine behind `inbox` and return its answer.

        If cancelled, nobody waits any more, and the order may have been given.

        Raises:
            OrderNotGivenError: the node is stopping or busy. The engine has not got the order.
            OrderUnansweredError: no answer came in time. The cluster may have taken the order.
        """
        if self._closed:
            raise OrderNotGivenError("this node is stopping: give the order to another node")
        if len(self._callers) >= ORDERS_MAX:
            raise OrderNotGivenError(
                f"{ORDERS_MAX} orders wait for an answer already: try again in a moment"
            )
        assert order.order_id not in self._callers, order
        caller = self._callers[order.order_id] = _Caller()
        try:
            with trio.move_on_after(ORDER_TIMEOUT_S):
                await inbox.send(order)
                caller.given = True
                await caller.woken.wait()
        finally:
            del self._callers[order.order_id]
        if caller.answer is not None:
            return caller.answer
        if not caller.given:
            raise OrderNotGivenError("the agent is too busy to take an order: see its log")
        why = "this node has stopped" if self._closed else f"no answer within {ORDER_TIMEOUT_S:g} s"
        raise OrderUnansweredError(
            f"{why}: the cluster may have taken the order or not; see `metako status`"
        )

    def answer(self, answer: OrderAnswer) -> None:
        """Wake the caller whose order this is about, if it still waits."""
        caller = self._callers.get(answer.order_id)
        if caller is not None:
            caller.answer = answer
            caller.woken.set()

    def close(self) -> None:
        """Refuse new orders; those that wait may still be answered."""
        self._closed = True

    def wake_all(self) -> None:
        """Tell everybody who waits that no answer will come."""
        for caller in self._callers.values():
            caller.woken.set()
