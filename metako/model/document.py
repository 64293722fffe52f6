"""The one replicated document: who leads, who votes, who must acknowledge commits.

The document is replaced as a whole and ordered by `(term, version)`. A leader makes a version
durable on a majority of the voters before it acts on it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.lsn import WalPosition
from metako.model.timeline import HistoryStep, TimelineEntry, is_diverged, tip_of


class Phase(enum.StrEnum):
    """How far the leader named by the document has come."""

    INITIALIZING = "initializing"  # the bootstrap node may create the first database
    PROMOTING = "promoting"  # the leader may promote; clients are not admitted yet
    ACTIVE = "active"  # the leader's server is the primary
    STOPPED = "stopped"  # the whole cluster was shut down on purpose


class Durability(enum.StrEnum):
    """What a commit waits for."""

    ASYNC = "async"  # nothing: the newest commits can be lost in a failover
    QUORUM = "quorum"  # k of the listed standbys, fewer when they are lost
    STRICT = "strict"  # k of the listed standbys, always


class DocumentRef(NamedTuple):
    """Version of a document; the order is the order of replacement."""

    term: Term
    version: int

    def __str__(self) -> str:
        return f"{self.term}.{self.version}"


NO_DOCUMENT = DocumentRef(Term(0), 0)


class SyncMember(NamedTuple):
    """A standby whose acknowledgement counts, together with the data that it acknowledged on."""

    node: NodeId
    data_id: DataId


@dataclass(frozen=True, slots=True)
class SyncSet:
    """The listed synchronous standbys S and the acknowledgements k that a commit waits for.

    Invariant: k ≤ |S|, and k = 0 exactly when S is empty.
    """

    members: tuple[SyncMember, ...] = ()
    k: int = 0

    def __post_init__(self) -> None:
        assert 0 <= self.k <= len(self.members), self
        assert (self.k == 0) == (not self.members), self
        assert len({m.node for m in self.members}) == len(self.members), self

    @property
    def read_quorum(self) -> int:
        """Return R = |S| − k + 1: any R members of S include one that has every commit."""
        return len(self.members) - self.k + 1

    def nodes(self) -> frozenset[NodeId]:
        return frozenset(member.node for member in self.members)

    def data_id_of(self, node: NodeId) -> DataId | None:
        for member in self.members:
            if member.node == node:
                return member.data_id
        return None


@dataclass(frozen=True, slots=True)
class Switchover:
    """A planned change of the primary that an operator has asked for and that is under way."""

    order_id: str  # of the order that asked for it
    target: NodeId
    timeout_ms: int  # it is given up if the target cannot take over within so long


@dataclass(frozen=True, slots=True)
class ClusterDocument:
    """Everything that the voters agree on. See the module's docstring for how it changes."""

    cluster_id: str  # random, made at bootstrap; a second cluster of the same name differs
    cluster_name: str
    system_id: int  # PostgreSQL's system identifier; 0 until initdb has run
    term: Term
    version: int
    primary: NodeId
    primary_data_id: DataId  # "" until initdb has run
    phase: Phase
    voters: tuple[NodeId, ...]
    learners: tuple[NodeId, ...]  # replicas without a vote
    witnesses: tuple[NodeId, ...]  # those of the voters that hold no data
    sync: SyncSet
    durability: Durability
    timelines: tuple[TimelineEntry, ...]
    hold_ms: int  # Lv: how long a voter holds after a heartbeat
    paused: bool = False
    switchover: Switchover | None = None  # dropped by whoever leads next

    @property
    def ref(self) -> DocumentRef:
        return DocumentRef(self.term, self.version)

    def off_history(self, history: Sequence[HistoryStep], position: WalPosition) -> bool:
        """Return whether a server is on no known history; `timelines` must not be empty.

        A timeline that is reserved but not confirmed may or may not exist: both a server on it
        and one that went on with its parent are on known history.
        """
        tips = {self.tip, self.timelines[-1].tli} - {TimelineId(0)}
        return all(is_diverged(self.timelines, tip, history, position) for tip in tips)

    @property
    def tip(self) -> TimelineId:
        """Return the timeline that the newest confirmed primary writes; 0 before the first."""
        return tip_of(self.timelines)

    @property
    def reserved(self) -> TimelineEntry | None:
        """Return the newest timeline on record, whether or not its promotion happened."""
        return self.timelines[-1] if self.timelines else None

    @property
    def majority(self) -> int:
        return majority_of(len(self.voters))

    def has_majority(self, nodes: Collection[NodeId]) -> bool:
        """Return whether `nodes` contains a majority of the voters."""
        # The first half of the answers to a round can be counted out without looking at them.
        majority = self.majority
        return len(nodes) >= majority and len(set(self.voters).intersection(nodes)) >= majority

    def members(self) -> tuple[NodeId, ...]:
        """Return voters and learners, each once, in the document's order."""
        return tuple(dict.fromkeys((*self.voters, *self.learners)))

    def data_members(self) -> tuple[NodeId, ...]:
        """Return the members that hold data, in the document's order."""
        return tuple(node for node in self.members() if node not in self.witnesses)


def majority_of(count: int) -> int:
    """Return the least number that is more than half of `count`."""
    return count // 2 + 1
