"""An operator's order finds the leader, is done once, and has one answer in any case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from resuming_kit import DOCUMENT, HARD, A, B, C, core_of

from metako.election.core import Core
from metako.election.lease import Hold
from metako.election.orderdesk import ORDER_TIMEOUT_MS, WAITING_MAX, OrderDesk
from metako.election.settings import ElectionSettings
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.wire.messages import OrderReply, OrderRequest

RETRY_MS = ElectionSettings().retry_ms
ORDER = Order("o1", OrderKind.SWITCHOVER, B)
TAKEN = OrderAnswer("o1", True, "switching over to b", B)


def at(ms: float) -> Instant:
    return Instant(milliseconds(ms), milliseconds(ms))


def held_for(leader: NodeId, term: int = 4, boot_epoch: int = 9) -> Hold:
    return Hold(milliseconds(10**6), leader, Term(term), boot_epoch)


def request(term: int = 4, boot_epoch: int = 9) -> OrderRequest:
    return OrderRequest(ORDER, Term(term), boot_epoch)


FOR_B = held_for(B)
HERE = HARD.boot_epoch
NOBODY = Hold()


class Leads:
    """This node's own leadership."""

    def __init__(self, answer: OrderAnswer | None, term: int = 4) -> None:
        self.says = answer
        self.term = Term(term)
        self.asked: list[Order] = []

    def answer(self, now: Instant, order: Order) -> OrderAnswer | None:
        self.asked.append(order)
        return self.says


class Desk(OrderDesk):
    """One that remembers what it has sent."""

    def __init__(self) -> None:
        self.core: Core = core_of(HARD)
        super().__init__(self.core)

    def sent(self) -> list[tuple[NodeId, object]]:
        return list(self.core.take()[1])


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_order_goes_to_whom_this_node_holds_for(desk: Desk) -> None:
    desk.give(at(0), ORDER)
    desk.advance(at(0), None, FOR_B)
    assert desk.sent() == [(B, request())]
    assert desk.take() == ()
    desk.hear(at(2), B, OrderReply(TAKEN), None)
    assert desk.take() == (TAKEN,)
    assert desk.take() == ()
    assert desk.wakeup() is None


def test_a_node_that_leads_is_asked_itself(desk: Desk) -> None:
    leads = Leads(TAKEN)
    desk.give(at(0), ORDER)
    desk.advance(at(0), leads, NOBODY)
    assert desk.take() == (TAKEN,)
    assert desk.sent() == []
    assert leads.asked == [ORDER]
    assert desk.wakeup() is None


def test_an_order_is_repeated_until_it_is_answered(desk: Desk) -> None:
    desk.give(at(0), ORDER)
    for ms in (0, 1, RETRY_MS - 1, RETRY_MS, 2 * RETRY_MS):
        desk.advance(at(ms), None, FOR_B)
    assert desk.sent() == [(B, request())] * 3
    assert desk.wakeup() == milliseconds(3 * RETRY_MS)


def test_the_own_leadership_that_lets_it_wait_is_asked_again(desk: Desk) -> None:
    leads = Leads(None)
    desk.give(at(0), ORDER)
    desk.advance(at(0), leads, NOBODY)
    assert desk.wakeup() == milliseconds(RETRY_MS)
    leads.says = TAKEN
    desk.advance(at(RETRY_MS), leads, NOBODY)
    assert desk.take() == (TAKEN,)
    assert len(leads.asked) == 2


def test_a_reply_that_comes_twice_or_for_nobody_answers_nothing(desk: Desk) -> None:
    desk.hear(at(0), B, OrderReply(TAKEN), None)
    assert desk.take() == ()
    desk.give(at(0), ORDER)
    desk.advance(at(0), None, FOR_B)
    for _ in range(2):
        desk.hear(at(1), B, OrderReply(TAKEN), None)
    assert desk.take() == (TAKEN,)
    desk.advance(at(RETRY_MS), None, FOR_B)
    assert desk.sent() == [(B, request())]


def test_an_order_that_is_given_twice_waits_once(desk: Desk) -> None:
    for _ in range(2):
        desk.give(at(0), ORDER)
    desk.advance(at(0), Leads(TAKEN), NOBODY)
    assert desk.take() == (TAKEN,)


def test_without_a_leader_it_is_given_up_in_the_end(desk: Desk) -> None:
    desk.give(at(0), ORDER)
    for ms in range(0, ORDER_TIMEOUT_MS, RETRY_MS):
        desk.advance(at(ms), None, NOBODY)
        due = desk.wakeup()
        assert due is not None
        assert due > milliseconds(ms)
        assert desk.take() == ()
    desk.advance(at(ORDER_TIMEOUT_MS), None, NOBODY)
    (answer,) = desk.take()
    assert not answer.accepted
    assert answer.order_id == "o1"
    assert "no primary has answered within 5 s" in answer.reason
    assert desk.wakeup() is None
    assert desk.sent() == []
    desk.hear(at(ORDER_TIMEOUT_MS + 1), B, OrderReply(TAKEN), None)
    assert desk.take() == ()


def test_a_limit_on_orders_that_wait(desk: Desk) -> None:
    for number in range(WAITING_MAX + 1):
        desk.give(at(0), Order(f"o{number}", OrderKind.SWITCHOVER))
    (answer,) = desk.take()
    assert answer.order_id == f"o{WAITING_MAX}"
    assert not answer.accepted
    assert answer.reason == "too many orders are waiting"
    desk.advance(at(0), None, FOR_B)
    assert len(desk.sent()) == WAITING_MAX


def test_the_leader_answers_another_nodes_order(desk: Desk) -> None:
    desk.hear(at(0), C, request(boot_epoch=HERE), Leads(TAKEN))
    assert desk.sent() == [(C, OrderReply(TAKEN))]
    assert desk.take() == ()


def test_who_does_not_lead_or_has_no_answer_yet_is_silent(desk: Desk) -> None:
    desk.hear(at(0), C, request(boot_epoch=HERE), None)
    desk.hear(at(0), C, request(boot_epoch=HERE), Leads(None))
    assert desk.sent() == []


@pytest.mark.parametrize("hold", [held_for(C), held_for(B, term=5), held_for(B, boot_epoch=10)])
def test_an_order_that_one_leader_may_have_taken_is_given_to_no_other(
    desk: Desk, hold: Hold
) -> None:
    """Its reply may be lost and the order done: the next leader would do it again."""
    desk.give(at(0), ORDER)
    desk.advance(at(0), None, FOR_B)
    desk.sent()
    desk.advance(at(RETRY_MS), None, hold)
    assert desk.sent() == []
    (answer,) = desk.take()
    assert not answer.accepted
    assert "may have been taken" in answer.reason
    assert desk.wakeup() is None


def test_nor_to_this_node_when_it_leads_then(desk: Desk) -> None:
    desk.give(at(0), ORDER)
    desk.advance(at(0), None, FOR_B)
    leads = Leads(OrderAnswer("o1", True, "once more"))
    desk.advance(at(RETRY_MS), leads, NOBODY)
    assert leads.asked == []
    (answer,) = desk.take()
    assert not answer.accepted


def test_while_nobody_leads_it_waits_for_the_one_that_was_asked(desk: Desk) -> None:
    desk.give(at(0), ORDER)
    desk.advance(at(0), None, FOR_B)
    desk.advance(at(RETRY_MS), None, NOBODY)
    assert desk.take() == ()
    desk.advance(at(2 * RETRY_MS), None, FOR_B)
    assert desk.sent() == [(B, request())] * 2


def test_an_order_that_nobody_was_asked_for_yet_goes_to_whoever_leads(desk: Desk) -> None:
    desk.give(at(0), ORDER)
    desk.advance(at(0), None, NOBODY)
    desk.advance(at(RETRY_MS), None, held_for(C))
    assert desk.sent() == [(C, request())]
    waiting = Leads(None)
    desk.give(at(RETRY_MS), Order("o2", OrderKind.SWITCHOVER))
    desk.advance(at(RETRY_MS), waiting, NOBODY)
    assert A not in [to for to, _ in desk.sent()]


@pytest.mark.parametrize("late", [request(boot_epoch=HERE - 1), request(3, HERE)])
def test_an_order_for_a_leadership_of_before_is_left_unanswered(
    desk: Desk, late: OrderRequest
) -> None:
    """It may have been under way for long, and have been done and forgotten meanwhile."""
    leads = Leads(TAKEN)
    desk.hear(at(0), C, late, leads)
    assert leads.asked == []
    assert desk.sent() == []


def test_a_node_that_does_not_count_gives_no_orders(desk: Desk) -> None:
    """It holds for nobody, so it would wait for an answer until it gives up."""
    desk.core.record(replace(HARD, document=replace(DOCUMENT, version=10, voters=(B, C))))
    desk.give(at(0), ORDER)
    (answer,) = desk.take()
    assert not answer.accepted
    assert "give the order to one that does" in answer.reason
