"""A paused cluster: nobody but the present primary leads, until an operator says so.

In: orders, the document. Out: the next version, answers, and who may stand by itself. A pause only
ever keeps a node from standing, so no promise rests on it and none is weakened by it: lease, hold
and guard are as ever, and a primary without a majority is fenced. What it means is that nobody
takes over: the same node leads again once it can. An operator's switchover or failover goes on
working, and the pause outlives it. Where nobody leads who could write that it has ended, a node is
elected for that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from metako.election.core import Core
from metako.election.errand import STAND_S, Errand
from metako.model.document import ClusterDocument
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId
from metako.model.instant import Instant, seconds
from metako.model.orders import NOT_ACTIVE, Order, OrderAnswer, OrderKind, refused

if TYPE_CHECKING:
    from metako.election.election import Election
    from metako.election.leader import Leader


def barred(document: ClusterDocument | None, node: NodeId) -> bool:
    """Return whether a node does not stand by itself, because the cluster is paused.

    The primary may, and so may the target of a switchover that is under way.
    """
    if document is None or not document.paused or document.primary == node:
        return False
    return document.switchover is None or document.switchover.target != node


def nobody_resumes(election: Election, now: Instant) -> bool:
    """Return whether a pause is to be ended by an election, because nobody leads."""
    document = election.core.document
    led = election.leader is not None or election.voter.hold.active(now)
    return document is not None and document.paused and not led


def resume_alone(election: Election, now: Instant, order: Order) -> OrderAnswer:
    """Have this node stand, by both quorums as ever, to end a pause in which nobody leads."""
    core, candidate = election.core, election.candidate
    if election.stopping or not core.voting:
        return refused(order, "this node is being stopped, or does not count in the cluster now")
    if not candidate.may_stand():
        why = "it takes a vote, priority above 0 and a running standby"
        return refused(order, f"nobody leads, and this node cannot: {why}; ask another one")
    candidate.errand = Errand(now.mono_ns + seconds(STAND_S), resumes=True)
    candidate.stand_at_once(now)
    return OrderAnswer(order.order_id, True, "nobody leads: stands for election, and resumes by it")


def judge_pause(core: Core, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
    """Pause or resume; None while another change has to be on a majority first."""
    document = leader.committed
    if document is None or not leader.attachable or leader.ending:
        return refused(order, NOT_ACTIVE)
    pauses = order.kind is OrderKind.PAUSE
    newest = leader.proposal or document
    if newest.paused is pauses:
        how = "paused already" if pauses else "not paused"
        return OrderAnswer(order.order_id, True, f"the cluster is {how}")
    if leader.proposal is not None:
        return None
    name, what, severity = (
        (EventName.PAUSED, "paused: nobody takes over from the primary", Severity.WARNING)
        if pauses
        else (EventName.RESUMED, "resumed: another node takes over if need be", Severity.INFO)
    )
    core.emit(name, f"the cluster is {what}", severity, order=order.order_id, term=leader.term)
    leader.propose(now, replace(document, version=document.version + 1, paused=pauses))
    return OrderAnswer(order.order_id, True, what)
