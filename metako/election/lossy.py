"""Elections that may lose commits: with durability `async`, and by an operator's order.

Nobody is then known to have every acknowledged commit, and somebody leads all the same. The votes
are those of any election, each with its promise, so that no other server acknowledges anything
beside the new primary. What is given up is the data quorum; how much WAL that may cost is told, as
far as the old primary was heard.

In: the verdict of an election, gossip's roster, an order. Out: a milder verdict, or an answer. It
never makes anybody win who lacks votes or whose own position is unknown. Source: DESIGN §4.2, §4.6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from metako.election.core import Core
from metako.election.errand import STAND_S, Errand
from metako.election.quorum import Promise, Verdict
from metako.model.document import ClusterDocument, Durability, PairMode
from metako.model.ids import NodeId
from metako.model.instant import Instant, seconds
from metako.model.lsn import Lsn
from metako.model.orders import Order, OrderAnswer, refused

if TYPE_CHECKING:
    from metako.election.election import Election


def lag_bytes(core: Core, document: ClusterDocument, own: Lsn) -> int | None:
    """Return how much WAL the primary was last heard to have beyond `own`; None if never heard.

    What it wrote since then is not in it: nobody knows.
    """
    member = core.members.get(document.primary)
    if member is None or member.meta is None or not member.meta.lsn:
        return None
    return max(0, member.meta.lsn - own)


def excused(
    core: Core,
    document: ClusterDocument,
    verdict: Verdict,
    promises: Mapping[NodeId, Promise],
    *,
    forced: bool,
) -> Verdict:
    """Return the verdict with the data quorum waived, where it may be.

    Args:
        core: of the candidate.
        document: that the verdict is by.
        verdict: with both quorums judged as ever.
        promises: those that it was judged by. A majority has to have kept them: so many are
            compared before anybody leads who may be behind.
        forced: an operator has ordered it.
    """
    position = core.observed.position
    waived = forced or document.durability is Durability.ASYNC
    if not waived or verdict.data or position is None or core.ranked(position) is None:
        return verdict
    kept = [node for node, promise in promises.items() if promise.detached]
    if not document.has_majority(kept):
        return replace(verdict, control=False, missing="a majority that has kept its promise")
    if forced:
        if verdict.better is not None:
            ahead = f"{verdict.better} has more WAL and could lead: fail over to it"
            return replace(verdict, better=None, missing=ahead)
        return replace(verdict, data=True, missing=verdict.missing if not verdict.control else "")
    lag, limit = lag_bytes(core, document, position.lsn), core.cluster.max_lag_bytes
    if lag is None:
        return replace(verdict, missing=f"{verdict.missing}; nobody knows how far it had come")
    if lag > limit:
        return replace(
            verdict, missing=f"{verdict.missing}; {lag} bytes behind it, and {limit} are allowed"
        )
    return replace(verdict, data=True, missing=verdict.missing if not verdict.control else "")


def grounds(core: Core, document: ClusterDocument, *, forced: bool) -> str:
    """Return in words by what right a candidate leads that no data quorum vouches for."""
    position = core.observed.position
    lag = lag_bytes(core, document, position.lsn if position is not None else Lsn(0))
    behind = "nobody knows how many" if lag is None else f"{lag}"
    why = "an operator's order" if forced else "durability is async"
    told = f"{why}; bytes of WAL that {document.primary} was last heard to have beyond it: {behind}"
    if document.pair is PairMode.MANUAL and document.primary != core.node:
        told += "; it may have gone on alone after that"
    return told


def by_order(lost: Collection[NodeId]) -> str:
    """Return the reason of a promotion that an operator has ordered, for people."""
    return f"failover by order, without {', '.join(lost)}" if lost else "failover by order"


def _not_lost(election: Election, order: Order) -> str:
    """Return why some of those that an order calls lost are not; "" if they may be."""
    core, document = election.core, election.core.document
    members = document.members() if document is not None else ()
    for node in order.lost:
        if node not in members:
            return f"{node} is no member of the cluster"
        if node == core.node:
            return f"{node} is this very node"
        if core.is_alive(node) and not _forgot(core, document, node):
            return f"{node} is alive: a member that is not lost is removed by its leader"
    return ""


def _forgot(core: Core, document: ClusterDocument | None, node: NodeId) -> bool:
    """Return whether a member, by what it says, has lost its durable record, and votes no more."""
    meta = core.members[node].meta
    return document is not None and meta is not None and not document.admits(node, meta.record_id)


def ordered(election: Election, now: Instant, order: Order) -> OrderAnswer:
    """Take the order that this node lead whatever it lacks, or refuse it."""
    core, candidate, hold = election.core, election.candidate, election.voter.hold
    if election.stopping:
        return refused(order, "this node is being stopped")
    if election.leader is not None:
        return refused(order, f"{core.node} leads already")
    if not core.voting:
        return refused(order, "this node does not count in the cluster now, so it cannot lead")
    if hold.active(now):
        who = f"{hold.leader} leads" if hold.leader else "somebody may lead"
        return refused(order, f"{who}: use `metako switchover`, or wait until it is lost")
    if why := _not_lost(election, order):
        return refused(order, why)
    if not candidate.may_stand():
        return refused(
            order,
            "this node cannot lead: it takes a vote, priority above 0, a running standby and the "
            "watchdog if that is required",
        )
    until_ns = now.mono_ns + seconds(STAND_S)
    candidate.errand = Errand(until_ns, forced=True, lost=order.lost)
    candidate.stand_at_once(now)
    return OrderAnswer(order.order_id, True, "stands for election", core.node)
