"""The two quorums that a leader needs, and which candidate may use them.

*Control*: a majority of the voters. *Data*: replication promises from R = |S| − k + 1 members of
the sync set S, or from the old primary P alone once its server is detached. Every acknowledged
commit is on P and on k members of S, so any R members of S include one that has it.

A promise counts only with a position: the promising server's WAL receiver is verified gone, so
nothing can be acknowledged to the old primary any more, and the end of its WAL is known. A member
that is ahead of the candidate but cannot lead is no veto, as long as some qualifying data quorum
is at or behind the candidate.

Source: DESIGN §4.2. The same rule as R + W > N of quorum replication.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metako.model.document import ClusterDocument, DocumentRef, PairMode, SyncMember, SyncSet
from metako.model.ids import DataId, NodeId, TimelineId
from metako.model.lsn import RankedPosition


@dataclass(frozen=True, slots=True)
class Promise:
    """What one node answered to a vote request, its own answer included."""

    node: NodeId
    detached: bool  # nothing more can be acknowledged upstream, and the position is final
    data_id: DataId  # "" for a witness
    position: RankedPosition | None  # None: no data, or diverged: then it does not count
    can_lead: bool
    priority: int
    max_tli: TimelineId


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate may lead with the promises it has."""

    control: bool
    data: bool
    better: NodeId | None  # a replier that is ahead and able to lead: it should stand instead
    missing: str  # for people: what is still missing; "" when both quorums are there
    source: NodeId | None = None  # a replier that cannot lead and has all that is missing

    @property
    def won(self) -> bool:
        return self.control and self.data and self.better is None


def voices(
    document: ClusterDocument | None, held: Mapping[NodeId, DocumentRef], voted: Iterable[NodeId]
) -> list[NodeId]:
    """Return whose votes count, by the documents that they hold.

    By one of an older term none does: the candidate's need not be made from it, and it may list
    the voter by another record than that does, which may have voted as well.

    Args:
        document: that the candidate goes by.
        held: by each voter, when it answered.
        voted: who gave their votes.
    """
    if document is None:
        return list(voted)
    fresh = (node for node in voted if held[node].term >= document.term)
    return [node for node in fresh if document.counts(node, held[node])]


def judge(
    document: ClusterDocument,
    candidate: NodeId,
    promises: Mapping[NodeId, Promise],
    *,
    min_votes: int = 0,
    alone: bool = False,
) -> Verdict:
    """Return whether `candidate` may lead under `document` with these promises.

    Args:
        document: the newest one found.
        candidate: whose promise is among them.
        promises: those that count.
        min_votes: that the configuration asks for.
        alone: the candidate may be elected by its own vote (`election.pair`).
    """
    granted = [node for node in document.voters if node in promises]
    control = (alone or document.has_majority(granted)) and len(granted) >= min_votes
    own = promises.get(candidate)
    if own is None or own.position is None or not own.detached:
        return Verdict(control, data=False, better=None, missing="own position unknown")
    better = _better(own, promises.values())
    data = data_quorum(document, own.position, promises)
    source = source_ahead(document, own.position, promises) if control and not data else None
    missing = []
    if not control:
        missing.append(f"votes: {len(granted)} of {max(document.majority, min_votes)}")
    if not data:
        missing.append(f"data: {_missing_data(document, promises)}")
    return Verdict(control, data, better, "; ".join(missing), source)


def data_quorum(
    document: ClusterDocument, position: RankedPosition, promises: Mapping[NodeId, Promise]
) -> bool:
    """Return whether `position` is at or past every member of some qualifying data quorum."""
    if _primary_behind(document, position, promises):
        return True
    if not document.sync.members:
        return False
    return len(_listed_behind(document, position, promises)) >= document.sync.read_quorum


def source_ahead(
    document: ClusterDocument, position: RankedPosition, promises: Mapping[NodeId, Promise]
) -> NodeId | None:
    """Return who is ahead of `position`, cannot lead, and would have a data quorum if it could.

    Whoever gets the WAL up to there from it has the same quorum. It is the one furthest ahead: what
    else it has may be all that is left of a commit whose client never heard of it.
    """
    ahead = [
        p
        for p in promises.values()
        if p.detached and not p.can_lead and p.position is not None and p.position > position
    ]
    if not ahead:
        return None
    best = min(ahead, key=lambda p: (_descending(p), p.node))
    assert best.position is not None
    return best.node if data_quorum(document, best.position, promises) else None


def data_grounds(
    document: ClusterDocument, candidate: NodeId, promises: Mapping[NodeId, Promise]
) -> str:
    """Return in words whose promises show that the candidate has every acknowledged commit."""
    own = promises.get(candidate)
    if own is not None and own.position is not None:
        if _primary_behind(document, own.position, promises):
            return f"the promise of {document.primary}, the primary before"
        behind = sorted(_listed_behind(document, own.position, promises))
        if document.sync.members and len(behind) >= document.sync.read_quorum:
            listed = ", ".join(sorted(document.sync.nodes()))
            any_of = f"any {document.sync.read_quorum} of {listed} have every commit"
            return f"the promises of {', '.join(behind)}; {any_of}"
    return f"nothing; missing is {_missing_data(document, promises)}"


def _primary_behind(
    document: ClusterDocument, position: RankedPosition, promises: Mapping[NodeId, Promise]
) -> bool:
    primary = promises.get(document.primary)
    return (
        primary is not None
        and primary.detached
        and primary.position is not None
        and primary.data_id == document.primary_data_id
        and position >= primary.position
    )


def _listed_behind(
    document: ClusterDocument, position: RankedPosition, promises: Mapping[NodeId, Promise]
) -> list[NodeId]:
    return [
        promise.node
        for promise in promises.values()
        if promise.detached
        and promise.position is not None
        and promise.data_id != ""
        and document.sync.data_id_of(promise.node) == promise.data_id
        and position >= promise.position
    ]


def _better(own: Promise, promises: Iterable[Promise]) -> NodeId | None:
    assert own.position is not None
    ahead = [
        p
        for p in promises
        if p.can_lead and p.detached and p.position is not None and p.position > own.position
    ]
    if not ahead:
        return None
    return min(ahead, key=lambda p: (_descending(p), p.node)).node


def _descending(promise: Promise) -> tuple[int, int, int]:
    assert promise.position is not None
    return (-promise.position.wal_term, -promise.position.lsn, -promise.priority)


def _missing_data(document: ClusterDocument, promises: Mapping[NodeId, Promise]) -> str:
    if not document.sync.members:
        return f"the promise of {document.primary}, whose acknowledgements stood alone"
    counted = [
        p.node
        for p in promises.values()
        if p.detached and p.position is not None and document.sync.data_id_of(p.node) == p.data_id
    ]
    return (
        f"{len(counted)} of the {document.sync.read_quorum} promises needed of "
        f"{', '.join(sorted(document.sync.nodes()))}, or that of {document.primary}"
    )


def successor_sync_set(
    document: ClusterDocument, winner: NodeId, *, primary_data_id: DataId
) -> SyncSet:
    """Return S_new = (S ∪ {P}) ∖ {winner} with the same k.

    Anything else at this moment would shrink the data quorum of the *next* election below what
    the commits of the last primary are covered by. In a pair in which the standby decides S_new is
    empty: the winner, which has every commit, would else need the one that may be lost. Then the
    next election takes the winner's own promise, and nothing less covers anything.
    """
    if document.sync.k == 0 or document.pair is PairMode.TAKEOVER:
        return SyncSet()
    members = dict.fromkeys(document.sync.members)
    if document.primary != winner:
        members[SyncMember(document.primary, primary_data_id)] = None
    kept = tuple(sorted(m for m in members if m.node != winner))
    return SyncSet(kept, document.sync.k)
