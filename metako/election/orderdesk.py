"""Operators' orders on their way: from the node where they are given to the leader, and back.

In: orders given here, requests and replies of other nodes, time. Out: messages, and one answer to
each order that was given here, at the latest after `ORDER_TIMEOUT_MS`. An order is repeated until
it is answered; a leader does it once, and what one leader may have done no other is asked for. It
does not know what an order means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from metako.election.core import Core
from metako.election.lease import Hold
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.model.orders import Order, OrderAnswer
from metako.wire.messages import OrderReply, OrderRequest

ORDER_TIMEOUT_MS = 5000
WAITING_MAX = 16
"""Orders of this node that wait for the leader; one more is refused."""
NO_MEMBER = "this node does not count in the cluster now; give the order to one that does"
MAY_HAVE = ": the order may have been taken, see `metako status`"


_Led = tuple[NodeId, Term, int]
"""A leadership: who leads, in which term, and in which boot of its agent."""


class Leading(Protocol):
    """Who decides about orders: the leadership of this node."""

    term: Term

    def answer(self, now: Instant, order: Order) -> OrderAnswer | None:
        """Return the answer; None while it has to wait."""


@dataclass(slots=True)
class _Waiting:
    order: Order
    until_ns: int  # CLOCK_MONOTONIC, as the next
    retry_at_ns: int
    asked: _Led | None = None  # that may have taken it; None: nobody was asked so far


class OrderDesk:
    """The orders that were given to this node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: dict[str, _Waiting] = {}
        self._answers: list[OrderAnswer] = []

    def give(self, now: Instant, order: Order) -> None:
        """Take an order of an operator of this node."""
        why = "too many orders are waiting" if len(self._waiting) >= WAITING_MAX else ""
        if not self._core.voting:
            why = NO_MEMBER
        if why:
            self._answers.append(OrderAnswer(order.order_id, False, why))
            return
        until = now.mono_ns + milliseconds(ORDER_TIMEOUT_MS)
        self._waiting.setdefault(order.order_id, _Waiting(order, until, now.mono_ns))

    def settle(self, answer: OrderAnswer) -> None:
        """Answer an order that this node itself decides about."""
        self._answers.append(answer)

    def hear(
        self,
        now: Instant,
        sender: NodeId,
        message: OrderRequest | OrderReply,
        leader: Leading | None,
    ) -> None:
        """Take another node's order, or the leader's answer to one that was given here.

        Args:
            now: the time of this step.
            sender: of the message.
            message: a reply that comes twice, or too late, is nobody's.
            leader: this node's own leadership. A request for any other one is left unanswered:
                its sender asks whom it holds for, and that one may have taken it.
        """
        if isinstance(message, OrderReply):
            if self._waiting.pop(message.answer.order_id, None) is not None:
                self._answers.append(message.answer)
        elif leader is not None and self._is_for(leader, message):
            answer = leader.answer(now, message.order)
            if answer is not None:
                self._core.send(sender, OrderReply(answer))

    def _is_for(self, leader: Leading, request: OrderRequest) -> bool:
        here = (leader.term, self._core.hard.boot_epoch)
        return here == (request.term, request.boot_epoch)

    def advance(self, now: Instant, leader: Leading | None, hold: Hold) -> None:
        """Ask the leader again, and give up what waits too long.

        Args:
            now: the time of this step.
            leader: this node's own leadership; None if it does not lead.
            hold: for whom this node holds.
        """
        led_by: _Led | None = None
        if hold.leader is not None and hold.active(now):
            led_by = (hold.leader, hold.term, hold.boot_epoch)
        for waiting in tuple(self._waiting.values()):
            if now.mono_ns < waiting.retry_at_ns and now.mono_ns < waiting.until_ns:
                continue
            answer = self._ask(now, waiting, leader, led_by)
            if answer is not None:
                del self._waiting[answer.order_id]
                self._answers.append(answer)
            waiting.retry_at_ns = now.mono_ns + milliseconds(self._core.settings.retry_ms)

    def _ask(
        self,
        now: Instant,
        waiting: _Waiting,
        leader: Leading | None,
        led_by: _Led | None,
    ) -> OrderAnswer | None:
        """Ask whoever leads; return the answer if there is one already."""
        order, asked = waiting.order, waiting.asked
        if now.mono_ns >= waiting.until_ns:
            why = f"no primary has answered within {ORDER_TIMEOUT_MS / 1000:g} s"
            return OrderAnswer(order.order_id, False, why + (MAY_HAVE if asked else ""))
        if asked is not None and (leader is not None or led_by not in (None, asked)):
            why = f"the leadership of {asked[0]} has ended without an answer"
            return OrderAnswer(order.order_id, False, why + MAY_HAVE)
        if leader is not None:
            return leader.answer(now, order)
        if led_by is not None:
            waiting.asked = led_by
            to, term, boot_epoch = led_by
            self._core.send(to, OrderRequest(order, term, boot_epoch))
        return None

    def wakeup(self) -> int | None:
        """Return when the next order is to be asked for again (CLOCK_MONOTONIC); None for never."""
        due = [min(waiting.retry_at_ns, waiting.until_ns) for waiting in self._waiting.values()]
        return min(due, default=None)

    def take(self) -> tuple[OrderAnswer, ...]:
        """Return and forget the answers of this step."""
        if not self._answers:
            return ()
        answers, self._answers = tuple(self._answers), []
        return answers
