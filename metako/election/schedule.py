"""A switchover by the clock: kept in the document until its time, then one like any other.

In: orders, the wall clock of the leader's host, the document. Out: versions of the document,
answers. It is begun by whoever led when it was asked for: another leader's first document drops it,
as it may be just what was to be avoided. A clock that jumps begins it early or late, and nothing
else; one that is found long overdue is given up, because its time was chosen for a reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from metako.election.core import Core
from metako.election.handover import Handover
from metako.model.document import ClusterDocument, Scheduled
from metako.model.events import EventName, Severity
from metako.model.instant import Instant
from metako.model.orders import NOT_ACTIVE, Order, OrderAnswer, refused

if TYPE_CHECKING:
    from metako.election.leader import Leader

LATE_MS = 60_000
"""Nobody expects a switchover any more that could not begin within so long of its time."""


class Schedule:
    """Of one leadership."""

    def __init__(self, core: Core, handover: Handover) -> None:
        self._core = core
        self._handover = handover

    def judge(self, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
        """Take an order for later or refuse it; None while another change is under way."""
        document = leader.committed
        if document is None or not leader.active or leader.ending:
            return refused(order, NOT_ACTIVE)
        newest = leader.proposal or document
        pending = newest.scheduled
        if pending is not None and pending.order_id == order.order_id:
            return _accepted(now, pending)  # by the agent before a restart
        if order.at_ms <= now.wall_ms:
            return refused(order, f"its time has passed on {self._core.node}")
        if pending is not None:
            return refused(order, "one is scheduled already; cancel it first")
        heirs, target = self._handover.heirs, order.target
        if target is not None and (why := heirs.bar(document, target)):
            return refused(order, f"{target} cannot take over: {why}")
        if leader.proposal is not None:
            return None
        wish = Scheduled(order.order_id, order.target, order.timeout_ms, order.at_ms)
        self._core.emit(
            EventName.SWITCHOVER_SCHEDULED,
            f"a switchover to {order.target or 'whoever is fit then'} was asked for by the clock",
            target=order.target,
            order=order.order_id,
            at_ms=order.at_ms,
            term=leader.term,
        )
        leader.propose(now, replace(document, version=document.version + 1, scheduled=wish))
        return _accepted(now, wish)

    def cancel(self, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
        """Drop what is scheduled; None while another change is under way."""
        document = leader.committed
        if leader.proposal is not None or document is None:
            return None
        assert document.scheduled is not None
        self._drop(now, leader, document, document.scheduled, "it was cancelled")
        return OrderAnswer(order.order_id, True, "cancelled, it had not begun")

    def advance(self, now: Instant, leader: Leader, document: ClusterDocument) -> None:
        """Begin what is due, with everything committed and the server a primary that serves."""
        wish = document.scheduled
        if wish is None or now.wall_ms < wish.at_ms or document.switchover is not None:
            return
        late_ms = now.wall_ms - wish.at_ms
        if late_ms > LATE_MS:
            why = f"it could not begin in time: it is {late_ms / 1000:.0f} s late"
            self._drop(now, leader, document, wish, why)
            return
        order_id, timeout_ms = wish.order_id, wish.timeout_ms
        due = replace(document, scheduled=None)
        why = self._handover.begin(now, order_id, wish.target, timeout_ms, leader, due)
        if why:
            self._drop(now, leader, document, wish, why)

    def _drop(
        self,
        now: Instant,
        leader: Leader,
        document: ClusterDocument,
        wish: Scheduled,
        why: str,
    ) -> None:
        _tell_dropped(self._core, wish, why)
        leader.propose(now, replace(document, version=document.version + 1, scheduled=None))


def succeeded(core: Core, base: ClusterDocument) -> None:
    """Report that what was scheduled will not be, if another node led when it was.

    Args:
        core: of the winner of an election.
        base: the newest document found.
    """
    if base.scheduled is not None and base.primary != core.node:
        why = f"{base.primary} led when it was asked for, and {core.node} leads now"
        _tell_dropped(core, base.scheduled, why)


def _tell_dropped(core: Core, wish: Scheduled, why: str) -> None:
    """Report that a switchover by the clock will not be."""
    core.emit(
        EventName.SWITCHOVER_FAILED,
        f"the scheduled switchover was given up, nothing has changed: {why}",
        Severity.WARNING,
        target=wish.target,
        order=wish.order_id,
        reason=why,
    )


def _accepted(now: Instant, wish: Scheduled) -> OrderAnswer:
    left_s = max(0, wish.at_ms - now.wall_ms) // 1000
    words = f"switching over to {wish.target or 'whoever is fit then'} in {left_s} s"
    return OrderAnswer(wish.order_id, True, words, wish.target)
