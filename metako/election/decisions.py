"""A leadership's answers to operators' orders: each is judged once, and answered when it comes.

In: orders. Out: answers, from whoever knows the kind of order. Invariant: an order that comes
again, because its answer was lost, is not done again. It does not know what an order means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from metako.election.handover import Handover
from metako.election.members import MemberChanges
from metako.model.instant import Instant
from metako.model.orders import Order, OrderAnswer, OrderKind, refused

if TYPE_CHECKING:
    from metako.election.leader import Leader

ANSWERS_REMEMBERED_MAX = 32


class Decisions:
    """Of one leadership."""

    def __init__(self, handover: Handover, members: MemberChanges) -> None:
        self._handover = handover
        self._members = members
        self._answers: dict[str, OrderAnswer] = {}

    def adopt(self, other: Decisions) -> None:
        """Remember what an earlier leadership of the same server has answered."""
        self._answers = other._answers

    def answer(self, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
        """Take an order or refuse it; None while another change has to be on a majority first."""
        known = self._answers.get(order.order_id)
        if known is not None:
            return known
        answer = self._judge(now, order, leader)
        if answer is not None:
            self._answers[order.order_id] = answer
            while len(self._answers) > ANSWERS_REMEMBERED_MAX:
                del self._answers[next(iter(self._answers))]
        return answer

    def _judge(self, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
        match order.kind:
            case OrderKind.SWITCHOVER | OrderKind.CANCEL_SWITCHOVER:
                return self._handover.judge(now, order, leader)
            case OrderKind.ADD_MEMBER | OrderKind.REMOVE_MEMBER:
                return self._members.judge(now, order, leader)
            case OrderKind.FAILOVER:
                return refused(order, "it is for the node that is to lead, and is not carried")
            case _:
                assert_never(order.kind)
