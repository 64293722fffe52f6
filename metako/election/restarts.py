"""Restarts of PostgreSQL, one server at a time, the primary's last.

    order -> document: who is left -> the first of them restarts -> it streams again -> the next
                                                    ... -> the primary hands over and is restarted

A server that has been the primary is started anew to follow, so the last restart is a switchover.
Where there is only one node with data it is a shutdown in good order and an election, which that
node wins. The list is in the document: a leader's agent that restarts goes on with it, and so does
another leader. What does not come back in time ends the whole: the others are left as they are.

In: orders, gossip's roster, pictures of the standbys. Out: versions of the document, answers. It
does not know how a server is stopped or started, nor why somebody wants it to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from metako.election.core import Core
from metako.election.ends import RESTART
from metako.election.handover import Handover
from metako.model.document import ClusterDocument, Restart
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId
from metako.model.instant import Instant, milliseconds
from metako.model.member import ServerState
from metako.model.orders import NOT_ACTIVE, Order, OrderAnswer, OrderKind, refused

if TYPE_CHECKING:
    from metako.election.leader import Leader


class Restarts:
    """Of one leadership."""

    def __init__(self, core: Core, handover: Handover) -> None:
        self._core = core
        self._handover = handover
        self._head: Restart | None = None  # whose turn it is, as far as this leadership has seen
        self._since_ns = 0  # CLOCK_MONOTONIC; when that turn began
        self._listed = False  # commits counted on it then
        self._handing_over = False  # it is the primary's turn, and its switchover was begun

    # ------------------------------------------------------------ orders

    def judge(self, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
        """Take an order or refuse it; None while another change has to be on a majority first."""
        document = leader.committed
        if document is None or not leader.active or leader.ending:
            return refused(order, NOT_ACTIVE)
        left = (leader.proposal or document).restarts
        if order.kind is OrderKind.CANCEL_RESTART:
            return self._cancel(now, order, leader, document, left)
        if left and left[0].order_id == order.order_id:
            return OrderAnswer(order.order_id, True, _words(left))  # by the agent before a restart
        if left:
            names = ", ".join(restart.node for restart in left)
            return refused(order, f"a restart is under way, {names} are left; cancel it first")
        if document.switchover is not None:
            return refused(order, "a switchover is under way; try again when it is over")
        nodes = order.nodes or document.data_members()
        for node in nodes:
            if why := self._obstacle(document, node):
                return refused(order, f"{node} cannot be restarted: {why}")
        if leader.proposal is not None:
            return None
        restarts = tuple(Restart(n, order.order_id, order.timeout_ms) for n in self._sorted(nodes))
        self._core.emit(
            EventName.RESTART_ACCEPTED,
            f"{_words(restarts)}, as was asked for",
            nodes=", ".join(restart.node for restart in restarts),
            order=order.order_id,
            term=leader.term,
        )
        leader.propose(now, replace(document, version=document.version + 1, restarts=restarts))
        return OrderAnswer(order.order_id, True, _words(restarts))

    def _cancel(
        self,
        now: Instant,
        order: Order,
        leader: Leader,
        document: ClusterDocument,
        left: tuple[Restart, ...],
    ) -> OrderAnswer | None:
        if not left:
            return refused(order, "no restart is under way")
        if leader.proposal is not None:
            return None
        self._fail(now, leader, document, "it was cancelled")
        return OrderAnswer(order.order_id, True, "cancelled; one that has begun is finished")

    def _obstacle(self, document: ClusterDocument, node: NodeId) -> str:
        core, heirs = self._core, self._handover.heirs
        if node not in document.members():
            return "it is no member of the cluster"
        if node in document.witnesses:
            return "it is a witness and has no PostgreSQL"
        if node == core.node:
            alone = len(document.data_members()) == 1
            nobody = not alone and heirs.best(document, planned=True) is None
            return f"nobody can take over: {heirs.why_nobody(document)}" if nobody else ""
        if not core.is_alive(node):
            return "it is not alive; name the others to leave it out"
        return ""

    def _sorted(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        """Return the nodes in the order of their turns: the primary last."""
        return sorted(dict.fromkeys(nodes), key=lambda node: (node == self._core.node, node))

    # ------------------------------------------------------------ going on

    def advance(self, now: Instant, leader: Leader, document: ClusterDocument) -> None:
        """Do what is due, with everything committed and the server a primary that serves."""
        if not document.restarts:
            self._head = None
            return
        if document.switchover is not None:
            return
        head = document.restarts[0]
        if head != self._head:
            self._head, self._since_ns, self._handing_over = head, now.mono_ns, False
            self._listed = head.node in document.sync.nodes()
        if head.node not in document.data_members():
            self._next(now, leader, document)
        elif head.node == self._core.node:
            self._own_turn(now, leader, document, head)
        elif self._done(document, head):
            self._core.emit(
                EventName.RESTARTED,
                f"PostgreSQL of {head.node} was restarted",
                node=head.node,
                order=head.order_id,
            )
            self._next(now, leader, document)
        elif now.mono_ns >= self._since_ns + milliseconds(head.timeout_ms):
            why = f"{head.node} was not back within {head.timeout_ms / 1000:g} s"
            self._fail(now, leader, document, why)

    def wakeup(self, document: ClusterDocument | None) -> int | None:
        """Return when time alone has something done (CLOCK_MONOTONIC); None if never.

        Args:
            document: that `advance` would get; None while it is not to be called.
        """
        head = self._head
        if document is None or head is None or document.restarts[:1] != (head,):
            return None
        if document.switchover is not None or head.node == self._core.node:
            return None  # a switchover has its own limit, and what comes of it is seen
        return self._since_ns + milliseconds(head.timeout_ms)

    def _own_turn(
        self, now: Instant, leader: Leader, document: ClusterDocument, head: Restart
    ) -> None:
        if len(document.restarts) > 1:  # this node was not the primary when it was ordered
            rest = (*document.restarts[1:], head)
            leader.propose(now, replace(document, version=document.version + 1, restarts=rest))
        elif self._handing_over:
            self._fail(now, leader, document, "the switchover that it takes was given up")
        elif len(document.data_members()) == 1:
            leader.end_server(RESTART)
        else:
            # Its end is the end of this leadership; the next one finds that it is done.
            self._handing_over = True
            order_id, timeout_ms = head.order_id, head.timeout_ms
            why = self._handover.begin(now, order_id, None, timeout_ms, leader, document)
            if why:
                self._fail(now, leader, document, why)

    def _done(self, document: ClusterDocument, head: Restart) -> bool:
        member = self._core.members.get(head.node)
        if member is None or member.meta is None or member.meta.restarted != head.order_id:
            return False
        if member.meta.state is not ServerState.STREAMING:
            return False  # our picture of it may still be from before
        back = not self._handover.heirs.behind(head.node)
        return back and (not self._listed or head.node in document.sync.nodes())

    def _next(self, now: Instant, leader: Leader, document: ClusterDocument) -> None:
        rest = document.restarts[1:]
        leader.propose(now, replace(document, version=document.version + 1, restarts=rest))

    def _fail(self, now: Instant, leader: Leader, document: ClusterDocument, why: str) -> None:
        left = ", ".join(restart.node for restart in document.restarts)
        self._core.emit(
            EventName.RESTART_FAILED,
            f"the restart has ended before its time: {why}; {left} are left as they are",
            Severity.WARNING,
            nodes=left,
            order=document.restarts[0].order_id,
            reason=why,
        )
        leader.propose(now, replace(document, version=document.version + 1, restarts=()))


def left_after(base: ClusterDocument) -> tuple[Restart, ...]:
    """Return whose restart is left when another leadership begins.

    Whoever was the primary is started anew in any case, if only to follow.

    Args:
        base: the newest document found.
    """
    return tuple(restart for restart in base.restarts if restart.node != base.primary)


def _words(restarts: tuple[Restart, ...]) -> str:
    return "restarts " + ", then ".join(restart.node for restart in restarts)
