"""Changes of who is a member: an operator's order becomes versions of the document.

    add       a learner, with its durable record  ->  caught up  ->  a voter, if it is to be one
    re-admit  a member whose record was lost: a learner by its new one  ->  as above
    remove    out of the sync set  ->  no member

Invariants: a version changes the vote of one node at most; it is written only by a leader whose
last version is committed in its own term and whose lease was renewed by the voters of that one; no
member leaves, and none gets another record, while commits count on its acknowledgement.

In: orders, gossip's roster, pictures of the standbys. Out: the next version, answers. It does not
know how a version is made durable. Source: DESIGN §4.1; single-server changes as in Ongaro's
thesis, §4.1, with the correction of 2015 (a commit in the own term first).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from metako.election.core import Core
from metako.election.pair import describe, pair_due
from metako.model.document import (
    NO_DOCUMENT,
    ClusterDocument,
    DocumentRef,
    Durability,
    MemberRecord,
    PairMode,
    majority_of,
)
from metako.model.events import EventName
from metako.model.ids import NodeId
from metako.model.instant import Instant
from metako.model.member import Member, MemberMeta, MemberState, ServerState
from metako.model.orders import NOT_ACTIVE, Order, OrderAnswer, OrderKind, refused

if TYPE_CHECKING:
    from metako.election.leader import Leader

VOTERS_MAX = 9
"""More voters cost a round trip to more of them and survive no likely fault more."""
LEARNERS_MAX = 50


class _Decision(NamedTuple):
    """What comes of an order: the next version, nothing because it is so already, or a refusal."""

    accepted: bool
    words: str  # for people
    document: ClusterDocument | None = None


class MemberChanges:
    """Of one leadership."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # ------------------------------------------------------------ orders

    def judge(self, now: Instant, order: Order, leader: Leader) -> OrderAnswer | None:
        """Take an order or refuse it; None while another change has to be on a majority first."""
        document, node = leader.committed, order.target
        if leader.ending:
            return refused(order, f"{self._core.node} is being stopped; try again in a moment")
        if document is None or not leader.active:
            return refused(order, NOT_ACTIVE)
        if node is None:
            return refused(order, "no member was named")
        if leader.proposal is not None or not leader.lease.settled:
            return None
        adds = order.kind is OrderKind.ADD_MEMBER
        decision = (
            self._add(document, node, voter=order.voter) if adds else self._remove(document, node)
        )
        if not decision.accepted:
            return refused(order, f"{node}: {decision.words}")
        if decision.document is not None:
            self._core.emit(
                EventName.MEMBERS_CHANGING,
                f"{node}: {decision.words}",
                member=node,
                order=order.order_id,
                term=leader.term,
            )
            leader.propose(now, decision.document)
        return OrderAnswer(order.order_id, True, f"{node}: {decision.words}", node)

    def _add(self, document: ClusterDocument, node: NodeId, *, voter: bool) -> _Decision:
        member = self._core.members.get(node)
        if node == self._core.node:
            if voter:
                return _Decision(True, "it is the primary, and votes already")
            return _Decision(False, "it is the primary, which needs its vote")
        if node in document.leaving:
            kept = _next(document, leaving=_without(document.leaving, node))
            return _Decision(True, "it stays as it is and is not removed", kept)
        if member is None or member.meta is None or member.state is not MemberState.ALIVE:
            return _Decision(
                False,
                "no agent of that name is heard; start it first, with members of this cluster in "
                "its cluster.members",
            )
        if why := _unfit(document, member.meta, voter=voter):
            return _Decision(False, why)
        if document.admits(node, member.meta.record_id):
            return self._change_vote(document, node, voter=voter)
        return self._admit(document, member, member.meta, voter=voter)

    def _change_vote(self, document: ClusterDocument, node: NodeId, *, voter: bool) -> _Decision:
        """Give a member its vote, or take it away."""
        joining = node in document.joining
        if voter:
            if node in document.voters:
                return _Decision(True, "it is a voter already")
            if joining:
                return _Decision(True, "it becomes a voter as soon as it has caught up")
            if why := _too_many(document, voter=True):
                return _Decision(False, why)
            changed = _next(document, joining=(*document.joining, node))
            return _Decision(True, "it becomes a voter as soon as it has caught up", changed)
        if node in document.voters:
            if why := self._needed(document, node):
                return _Decision(False, why)
            rest = _without(document.voters, node)
            changed = _next(document, voters=rest, learners=(*document.learners, node))
            return _Decision(True, f"it becomes a learner; {_votes(rest)}", changed)
        if joining:
            changed = _next(document, joining=_without(document.joining, node))
            return _Decision(True, "it stays a learner", changed)
        return _Decision(True, "it is a learner already")

    def _admit(
        self, document: ClusterDocument, member: Member, meta: MemberMeta, *, voter: bool
    ) -> _Decision:
        """Take a node in by the record that it has; also one that was a member by another."""
        node = member.node
        again = node in document.members()
        if not again and (why := _too_many(document, voter=voter)):
            return _Decision(False, why)
        if node in document.sync.nodes():
            return _Decision(
                False,
                "its durable record was lost, and commits may still wait for it; try again in a "
                "moment" + _strict_hint(document, node),
            )
        if node in document.voters and (why := self._needed(document, node)):
            return _Decision(False, why)
        joining = _without(document.joining, node)
        witnesses = _without(document.witnesses, node)
        changed = _next(
            document,
            voters=_without(document.voters, node),
            learners=(*_without(document.learners, node), node),
            witnesses=(*witnesses, node) if meta.witness else witnesses,
            joining=(*joining, node) if voter else joining,
            records=_with_records(document, [member]),
        )
        what = "it lost its durable record and is taken in again" if again else "it is taken in"
        then = ", and becomes a voter as soon as it has caught up" if voter else " as a learner"
        return _Decision(True, what + then, changed)

    def _remove(self, document: ClusterDocument, node: NodeId) -> _Decision:
        switchover = document.switchover
        if node not in document.members():
            return _Decision(False, "it is no member of the cluster")
        if node == self._core.node:
            return _Decision(False, "it is the primary; run `metako switchover` first")
        if node in document.leaving:
            return _Decision(True, "it is being removed already")
        if switchover is not None and switchover.target == node:
            return _Decision(False, "a switchover to it is under way; cancel that first")
        if hint := _strict_hint(document, node):
            return _Decision(False, "commits wait for it" + hint)
        if node in document.voters and (why := self._needed(document, node)):
            return _Decision(False, why)
        changed = _next(
            document,
            joining=_without(document.joining, node),
            leaving=(*document.leaving, node),
        )
        votes = f"; {_votes(_without(document.voters, node))}" if node in document.voters else ""
        return _Decision(True, "it is being removed" + votes, changed)

    def _needed(self, document: ClusterDocument, node: NodeId) -> str:
        """Return why the others cannot do without the vote of a node now; "" if they can."""
        rest = _without(document.voters, node)
        alive = [n for n in rest if n == self._core.node or self._core.is_alive(n)]
        majority = majority_of(len(rest))
        if len(alive) >= majority:
            return ""
        silent = ", ".join(n for n in rest if n not in alive)
        return (
            f"without its vote there is no majority: {majority} of {len(rest)} voters would be "
            f"needed, and {silent} cannot be reached"
        )

    # ------------------------------------------------------------ going on

    def waiting(self, leader: Leader, document: ClusterDocument) -> tuple[tuple[NodeId, str], ...]:
        """Return what each change that is under way waits for, in words."""
        told = [
            (node, self._catching_up(leader, document, node) or self._held_up(document))
            for node in document.joining
        ]
        for node in document.leaving:
            listed = node in document.sync.nodes()
            why = "commits may still wait for it" if listed else self._needed(document, node)
            told.append((node, why))
        return tuple((node, why) for node, why in told if why)

    def advance(self, now: Instant, leader: Leader, document: ClusterDocument) -> None:
        """Propose the next version that is due by what was ordered before, if there is one.

        Args:
            now: the time of this step.
            leader: in office, with its server a primary that serves and nothing under way.
            document: committed.
        """
        changed = (
            self._let_go(leader, document)
            or self._record_learners(document)
            or self._give_vote(leader, document)
            or self._change_rule(leader, document)
        )
        if changed is not None:
            leader.propose(now, changed)

    def tell_strangers(self, document: ClusterDocument, answered: Collection[NodeId]) -> None:
        """Send the document to nodes that are heard, do not know it, and are not known to answer.

        A member that was removed learns so, though the offers of its leader go to members only; so
        does one that was taken in, though it answers nothing before it knows that it is a member;
        and so does one that has lost its record, though what was there before has answered.
        """
        for node, member in self._core.members.items():
            if member.state is not MemberState.ALIVE or member.meta is None:
                continue
            if node in answered and document.admits(node, member.meta.record_id):
                continue
            if member.meta.document_ref < document.ref:
                self._core.copy(node, document, member.meta.document_ref)

    def _let_go(self, leader: Leader, document: ClusterDocument) -> ClusterDocument | None:
        for node in document.leaving:
            if node == self._core.node:  # it took over meanwhile
                self._tell(node, "it is the primary now, and is not removed")
                return _next(document, leaving=_without(document.leaving, node))
            if node in document.sync.nodes():
                continue
            voter = node in document.voters
            if voter and (not leader.lease.settled or self._needed(document, node)):
                continue
            self._tell(node, "it is no member any more")
            gone = document.without((node,))
            return _next(gone, sync=document.sync)  # which never shrinks but by its own rules
        return None

    def _record_learners(self, document: ClusterDocument) -> ClusterDocument | None:
        """Take in the learners of the first configuration, by the first record of each.

        Nobody has asked them when the cluster was created, and no record of theirs has counted.
        """
        if not document.records:
            return None  # a cluster from before there were identities of records
        fresh = []
        for node in document.learners:
            member = self._core.members.get(node)
            known = document.record_of(node).record_id
            if not known and member is not None and member.meta and member.meta.record_id:
                fresh.append(member)
        if not fresh:
            return None
        return _next(document, records=_with_records(document, fresh))

    def _give_vote(self, leader: Leader, document: ClusterDocument) -> ClusterDocument | None:
        if not leader.lease.settled:
            return None
        for node in document.joining:
            if node not in document.learners or self._catching_up(leader, document, node):
                continue
            if document.decider is not None:
                # Elections without the one that decides are possible next, so it stops deciding
                # first: a version by which both are needed, committed by both.
                words = "a third voter has caught up"
                return self._with_rule(document, None, words) if self._both(document) else None
            voters = (*document.voters, node)
            self._tell(node, f"it is a voter now; {_votes(voters)}")
            return _next(
                document,
                voters=voters,
                learners=_without(document.learners, node),
                joining=_without(document.joining, node),
            )
        return None

    def _change_rule(self, leader: Leader, document: ClusterDocument) -> ClusterDocument | None:
        """Put the configured rule of a pair in force, and out of force what is no pair any more."""
        rule = pair_due(document, self._core.cluster.pair_mode)
        if rule is document.pair or not leader.lease.settled or not self._both(document):
            return None
        return self._with_rule(document, rule, "as configured")

    def _both(self, document: ClusterDocument) -> bool:
        """Return whether everybody is there whom a version without a decider has to reach."""
        others = _without(document.voters, self._core.node)
        return not document.is_pair or all(self._core.is_alive(node) for node in others)

    def _held_up(self, document: ClusterDocument) -> str:
        """Return why a third voter has to wait for the second one; "" if it has not."""
        if document.decider is None or self._both(document):
            return ""
        silent = ", ".join(_without(document.voters, self._core.node))
        return f"{silent} cannot be reached, and has to agree to a third voter, or to be removed"

    def _with_rule(
        self, document: ClusterDocument, rule: PairMode | None, words: str
    ) -> ClusterDocument:
        told = f"{describe(rule)} ({words})"
        self._core.emit(EventName.MEMBERS_CHANGED, told, pair=str(rule or ""))
        return _next(document, pair=rule)

    def _catching_up(self, leader: Leader, document: ClusterDocument, node: NodeId) -> str:
        """Return what a node lacks that is to get a vote; "" if it lacks nothing."""
        member = self._core.members.get(node)
        if member is None or member.meta is None or member.state is not MemberState.ALIVE:
            return "it is not alive"
        if not document.admits(node, member.meta.record_id):
            return "it has lost its durable record"
        if leader.refs.get(node, NO_DOCUMENT) < document.ref:
            return "its agent does not answer"
        if node in document.witnesses:
            return ""
        if member.meta.state is not ServerState.STREAMING:
            # A host that is back, blank, is seen to stream until its old session times out.
            return "its server does not stream, or it has not said so yet"
        return leader.handover.heirs.behind(node)

    def _tell(self, node: NodeId, words: str) -> None:
        self._core.emit(EventName.MEMBERS_CHANGED, f"{node}: {words}", member=node)


def _next(document: ClusterDocument, **changes: object) -> ClusterDocument:
    """Return the next version. By one that takes or gives a vote a majority decides at first."""
    if changes.get("voters", document.voters) != document.voters:
        changes["pair"] = None
    return replace(document, version=document.version + 1, **changes)  # type: ignore[arg-type]


def _without(nodes: tuple[NodeId, ...], node: NodeId) -> tuple[NodeId, ...]:
    return tuple(n for n in nodes if n != node)


def _with_records(document: ClusterDocument, members: list[Member]) -> tuple[MemberRecord, ...]:
    """Return the records with those that the members have now, from the next version on."""
    since = DocumentRef(document.term, document.version + 1)
    records = {record.node: record for record in document.records}
    for member in members:
        assert member.meta is not None
        record = MemberRecord(member.node, member.meta.record_id, since, member.address)
        records[member.node] = record
    return tuple(records[node] for node in sorted(records))


def _unfit(document: ClusterDocument, meta: MemberMeta, *, voter: bool) -> str:
    """Return why a node cannot be what it is asked to be, by what it says of itself."""
    if not meta.record_id and document.records:
        return "its agent says nothing of its durable record; upgrade it first"
    if meta.witness and not voter:
        return "it is a witness, which has nothing but its vote"
    if meta.system_id and document.system_id and meta.system_id != document.system_id:
        return "its data directory belongs to another database system; move that away first"
    return ""


def _too_many(document: ClusterDocument, *, voter: bool) -> str:
    if voter and len(document.voters) + len(document.joining) >= VOTERS_MAX:
        return f"there are {VOTERS_MAX} voters already; add it as a learner"
    if len(document.learners) >= LEARNERS_MAX:
        return f"there are {LEARNERS_MAX} learners already"
    return ""


def _strict_hint(document: ClusterDocument, node: NodeId) -> str:
    """Return what to do where `strict` lets nobody leave before another has come; "" elsewhere."""
    strict = document.durability is Durability.STRICT
    if strict and node in document.sync.nodes() and len(document.sync.members) <= document.sync.k:
        return ": durability is strict, so another standby has to be added first"
    return ""


def _votes(voters: tuple[NodeId, ...]) -> str:
    count = len(voters)
    noun = "voter" if count == 1 else "voters"
    return f"{count} {noun}, of which {majority_of(count)} are needed"
