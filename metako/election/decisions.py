"""A leadership's answers to operators' orders: each is judged once, and answered when it comes.

In: orders. Out: answers, from whoever knows the kind of order. Invariant: an order that comes
again, because its answer was lost, is not done again. It does not know what an order means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from metako.election.core import Core
from metako.election.handover import Handover
from metako.election.members import MemberChanges
from metako.election.pausing import judge_pause
from metako.election.restarts import Restarts
from metako.election.schedule import Schedule, succeeded
from metako.model.document import ClusterDocument
from metako.model.instant import Instant
from metako.model.orders import Order, OrderAnswer, OrderKind, refused

if TYPE_CHECKING:
    from metako.election.leader import Leader

ANSWERS_REMEMBERED_MAX = 32


class Decisions:
    """Of one leadership."""

    def __init__(self, core: Core, handover: Handover) -> None:
        self.members = MemberChanges(core)
        self.schedule = Schedule(core, handover)
        self.restarts = Restarts(core, handover)
        self._core = core
        self._handover = handover
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
            case OrderKind.SWITCHOVER if order.at_ms:
                return self.schedule.judge(now, order, leader)
            case OrderKind.CANCEL_SWITCHOVER if self._only_scheduled(leader):
                return self.schedule.cancel(now, order, leader)
            case OrderKind.SWITCHOVER | OrderKind.CANCEL_SWITCHOVER:
                return self._handover.judge(now, order, leader)
            case OrderKind.ADD_MEMBER | OrderKind.REMOVE_MEMBER:
                return self.members.judge(now, order, leader)
            case OrderKind.PAUSE | OrderKind.RESUME:
                return judge_pause(self._core, now, order, leader)
            case OrderKind.RESTART | OrderKind.CANCEL_RESTART:
                return self.restarts.judge(now, order, leader)
            case OrderKind.FAILOVER:
                return refused(order, "it is for the node that is to lead, and is not carried")
            case _:
                assert_never(order.kind)

    def _only_scheduled(self, leader: Leader) -> bool:
        newest = leader.proposal or leader.committed
        return newest is not None and newest.switchover is None and newest.scheduled is not None

    def succeeded(self, base: ClusterDocument) -> None:
        """Note what became of what was ordered of the leader before.

        Args:
            base: the newest document found.
        """
        self._handover.succeeded(base)
        succeeded(self._core, base)

    def advance(self, now: Instant, leader: Leader, document: ClusterDocument) -> None:
        """Do one thing that is due of what was ordered, if nothing else is under way.

        Args:
            now: the time of this step.
            leader: whose server is a primary that serves.
            document: of its own term, committed.
        """
        for part in (self.schedule, self.restarts, self.members):
            part.advance(now, leader, document)
            # Who decides alone has committed what was proposed already, and gone on from there.
            if leader.proposal is not None or leader.ending or leader.committed is not document:
                return
