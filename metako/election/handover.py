"""A planned change of the primary: from an operator's order until the server is told to stop.

The intent is in the document, so every node shows it and an agent that restarts goes on with it:
order → document → target caught up and synchronous → checkpoint → fast shutdown → release, which
names the target as successor. Until the shutdown everything can be given up, and then nothing has
happened; from then on somebody else leads, the target if it can. A node that is told to stop does
the same without a document, for whoever is fit.

In: orders, time, pictures of the server by way of `Heirs`. Out: documents to propose, the end of
the server, answers. It does not know how an order got here. Source: DESIGN §4.7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metako.election.core import Core
from metako.election.ends import HANDOVER, PLANNED, STOP
from metako.election.heirs import Heirs
from metako.election.proof import Blocked
from metako.model.document import NO_DOCUMENT, ClusterDocument, Switchover
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.instant import Instant, milliseconds
from metako.model.lsn import Lsn
from metako.model.orders import NOT_ACTIVE, Order, OrderAnswer, OrderKind, refused

if TYPE_CHECKING:
    from metako.election.leader import Leader

SHUTDOWN_MS = 3000
"""After its checkpoint a shutdown takes a moment; later than this the target is not waited for."""
STOP_CHECKPOINT_PART = 2
"""A node that stops gives the checkpoint one part in so many of its `stop_timeout`: applications
are served meanwhile, and the rest is for the shutdown."""


@dataclass(frozen=True, slots=True)
class _Beginning:
    order_id: str
    since_ns: int  # CLOCK_MONOTONIC
    round: int = 0  # of heartbeats, sent when the checkpoint was seen; 0: it was not yet
    lsn: Lsn = Lsn(0)  # end of the WAL then


class Handover:
    """Of one leadership."""

    def __init__(self, core: Core) -> None:
        self.heirs = Heirs(core)
        self.blocked = Blocked(core)
        self._core = core
        self._began: _Beginning | None = None  # of the switchover under way
        self._stop_at_ns: int | None = None  # the node is to stop: the server ends by then
        self._switched_over = False  # this leadership is what came of a switchover

    def succeeded(self, base: ClusterDocument) -> None:
        """Note what became of the switchover that was under way when this node was elected.

        Args:
            base: the newest document found.
        """
        wish = base.switchover
        if wish is None:
            return
        self._switched_over = wish.target == self._core.node
        if not self._switched_over:
            how = f"became a failover to {self._core.node}"
            self._tell_failed(wish, how, "another node was elected")

    def completed(self, term: Term, timeline: TimelineId) -> None:
        """Take note that this node serves applications."""
        if self._switched_over:
            self._core.emit(
                EventName.SWITCHOVER_COMPLETED,
                f"switched over to {self._core.node}",
                target=self._core.node,
                term=term,
                timeline=timeline,
            )

    def adopt(self, other: Handover) -> None:
        """Go on with what an earlier leadership of the same server was at."""
        self.heirs.adopt(other.heirs)
        self.blocked.adopt(other.blocked)
        self._stop_at_ns = other._stop_at_ns
        if other._began is not None:  # rounds are counted anew
            self._began = replace(other._began, round=0)
        self._switched_over = other._switched_over

    # ------------------------------------------------------------ orders

    def judge(self, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
        """Take an order or refuse it; None while another change has to be on a majority first."""
        document = leader.committed
        newest = leader.proposal or document
        wanted = newest.switchover if newest is not None else None
        switches = order.kind is OrderKind.SWITCHOVER
        if switches and wanted is not None and wanted.order_id == order.order_id:
            return _accepted(order, wanted.target)  # by the agent before a restart
        if leader.ending or self._stop_at_ns is not None:
            return refused(order, f"{self._core.node} is being stopped and hands over already")
        if document is None or not leader.active:
            return refused(order, NOT_ACTIVE)
        if order.kind is OrderKind.CANCEL_SWITCHOVER:
            if wanted is None:
                return refused(order, "no switchover is under way")
            if leader.proposal is not None:
                return None
            self._give_up(now, leader, document, wanted, "it was cancelled")
            return OrderAnswer(order.order_id, accepted=True, reason="cancelled", target=None)
        if wanted is not None:
            return refused(order, f"a switchover to {wanted.target} is under way; cancel it first")
        return self._begin(now, order, leader, document)

    def _begin(
        self, now: Instant, order: Order, leader: Leader, document: ClusterDocument
    ) -> OrderAnswer | None:
        target = order.target or self.heirs.best(document, planned=True)
        if why := self._why_not(document, target):
            return refused(order, why)
        if leader.proposal is not None:
            return None
        assert target is not None
        self.begin(now, order.order_id, target, order.timeout_ms, leader, document)
        return _accepted(order, target)

    def begin(
        self,
        now: Instant,
        order_id: str,
        target: NodeId | None,
        timeout_ms: int,
        leader: Leader,
        document: ClusterDocument,
    ) -> str:
        """Put a switchover into the next version of the document; return why not, "" if it is.

        Args:
            now: the time of this step.
            order_id: of the order that asked for it.
            target: None for whoever is best.
            timeout_ms: as of `Switchover`.
            leader: whose last version is committed.
            document: that version, but for what the next one changes besides.
        """
        target = target or self.heirs.best(document, planned=True)
        if why := self._why_not(document, target):
            return why
        assert target is not None
        self._core.emit(
            EventName.SWITCHOVER_ACCEPTED,
            f"switchover to {target} was asked for",
            target=target,
            order=order_id,
            term=leader.term,
        )
        wish = Switchover(order_id, target, timeout_ms)
        leader.propose(now, replace(document, version=document.version + 1, switchover=wish))
        return ""

    def _why_not(self, document: ClusterDocument, target: NodeId | None) -> str:
        if target is None:
            return f"nobody can take over: {self.heirs.why_nobody(document)}"
        why = self.heirs.obstacle(document, target)
        return f"{target} cannot take over: {why}" if why else ""

    # ------------------------------------------------------------ going on

    def checkpoint(self, document: ClusterDocument) -> str:
        """Return for which handover the server is to write a checkpoint now; "" for none."""
        if self._stop_at_ns is not None:
            return STOP
        return document.switchover.order_id if document.switchover is not None else ""

    def stop(self, now: Instant, leader: Leader) -> None:
        """Hand over because this node stops: at once if there is nobody to hand over to."""
        serving = leader.committed if leader.active else None
        # In a paused cluster nobody else leads because this node is to stop for a while.
        if serving is None or serving.paused or self.heirs.best(serving, planned=True) is None:
            leader.end_server(STOP)
            return
        limit_ms = self._core.settings.stop_timeout_ms // STOP_CHECKPOINT_PART
        self._stop_at_ns = now.mono_ns + milliseconds(limit_ms)

    def advance(self, now: Instant, leader: Leader, document: ClusterDocument) -> None:
        """Do what is due, with everything committed and the server a primary that serves."""
        done = self.heirs.checkpointed
        if self._stop_at_ns is not None:
            if done == STOP or self._core.observed.silent or now.mono_ns >= self._stop_at_ns:
                leader.end_server(STOP)
            return
        self.blocked.advance(now, leader, document)
        wish = document.switchover
        if wish is None:
            self._began = None
            return
        began = self._began
        if began is None or began.order_id != wish.order_id:
            began = _Beginning(wish.order_id, now.mono_ns)
        if done == wish.order_id and not began.round:
            began = replace(began, round=leader.beat(now), lsn=self.heirs.lsn)
        self._began = began
        missing = self._missing(leader, document, wish, began)
        if not missing:
            self._core.emit(
                EventName.SWITCHOVER_BEGUN,
                f"stops PostgreSQL to hand over to {wish.target}",
                target=wish.target,
                order=wish.order_id,
                term=leader.term,
            )
            leader.end_server(HANDOVER)
        elif now.mono_ns >= self._give_up_ns(wish):
            self._give_up(now, leader, document, wish, missing)

    def wakeup(self, document: ClusterDocument | None) -> int | None:
        """Return when time alone has something done (CLOCK_MONOTONIC); None if never.

        Args:
            document: that `advance` would get; None while it is not to be called.
        """
        if document is None:
            return None
        if self._stop_at_ns is not None:
            return self._stop_at_ns
        if self._began is None or document.switchover is None:
            return None
        return self._give_up_ns(document.switchover)

    def successor(self, leader: Leader) -> NodeId | None:
        """Return who should stand once the server is gone; None if nobody is known to be fit."""
        document = leader.committed
        if document is None:
            return None
        if self.blocked.proven is not None:
            return self.blocked.proven
        wish = document.switchover
        # Where the server was never seen, the agent before a restart has stopped it for that.
        if wish is not None and (leader.ending == HANDOVER or not self.heirs.lsn):
            return wish.target
        planned = leader.ending in PLANNED
        if wish is not None and planned and not self.heirs.obstacle(document, wish.target):
            return wish.target
        return None if document.paused else self.heirs.best(document, planned=planned)

    def waits_for(self, node: NodeId) -> bool:
        """Return whether an answer of that node to a round may be what is missing."""
        document, began = self._core.document, self._began
        wish = document.switchover if document is not None else None
        return wish is not None and wish.target == node and began is not None and began.round > 0

    def _missing(
        self, leader: Leader, document: ClusterDocument, wish: Switchover, began: _Beginning
    ) -> str:
        """Return why the target cannot take over this very moment; "" if it can.

        What gossip and a connection say may be some seconds old, and a checkpoint takes its time.
        That the agent has answered a round which began after it, and the server has flushed what
        it wrote, is from now.
        """
        if why := self.heirs.obstacle(document, wish.target):
            return why
        if not began.round:
            return "the checkpoint takes too long"
        answered = wish.target in leader.lease.answered_since(began.round)
        if not answered or leader.refs.get(wish.target, NO_DOCUMENT) < document.ref:
            return "its agent does not answer"
        if self.heirs.flushed(wish.target) < began.lsn:
            return "its PostgreSQL confirms nothing"
        return ""

    def _give_up_ns(self, wish: Switchover) -> int:
        assert self._began is not None
        return self._began.since_ns + milliseconds(wish.timeout_ms)

    def _give_up(
        self, now: Instant, leader: Leader, document: ClusterDocument, wish: Switchover, why: str
    ) -> None:
        self._tell_failed(wish, f"was given up, nothing has changed: {why}", why)
        leader.propose(now, replace(document, version=document.version + 1, switchover=None))

    def _tell_failed(self, wish: Switchover, how: str, why: str) -> None:
        self._core.emit(
            EventName.SWITCHOVER_FAILED,
            f"the switchover to {wish.target} {how}",
            Severity.WARNING,
            target=wish.target,
            order=wish.order_id,
            reason=why,
        )


def _accepted(order: Order, target: NodeId) -> OrderAnswer:
    return OrderAnswer(order.order_id, True, f"switching over to {target}", target)
