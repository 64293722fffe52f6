"""The one replicated document: who leads, who votes, who must acknowledge commits.

The document is replaced as a whole and ordered by `(term, version)`. A leader makes a version
durable on a majority of the voters before it acts on it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from metako.model.ids import Address, DataId, NodeId, RecordId, Term, TimelineId
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


class PairMode(enum.StrEnum):
    """What two voters without a witness do when one of them falls silent.

    No rule survives the silence of either one: a majority of two is both. So one of the two is the
    *decider*: the other one can do nothing without it.
    """

    MANUAL = "manual"  # the primary decides: it goes on alone; its loss waits for an operator
    TAKEOVER = "takeover"  # the synchronous standby decides: it takes over alone


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


class MemberRecord(NamedTuple):
    """The durable record by which a member counts; one that was made anew later does not.

    An answer of that node counts if the document that it holds is not older than `since`: then it
    has compared its own record with this one.
    """

    node: NodeId
    record_id: RecordId
    since: DocumentRef = NO_DOCUMENT  # the version that took this record in
    address: Address | None = None  # of its gossip then; None: of the first members, configured


@dataclass(frozen=True, slots=True)
class Switchover:
    """A planned change of the primary that an operator has asked for and that is under way."""

    order_id: str  # of the order that asked for it
    target: NodeId
    timeout_ms: int  # it is given up if the target cannot take over within so long


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A switchover that an operator has asked for by the clock, and that has not begun."""

    order_id: str  # of the order that asked for it
    target: NodeId | None  # None: whoever is fit then
    timeout_ms: int  # as of `Switchover`
    at_ms: int  # by the wall clock of the primary, in milliseconds since 1970, UTC


class Restart(NamedTuple):
    """A server that is to be restarted."""

    node: NodeId
    order_id: str  # of the order that asked for it
    timeout_ms: int  # all that are left are given up if it is not back by then


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
    paused: bool = False  # nobody but `primary` stands for election by itself
    switchover: Switchover | None = None  # dropped by whoever leads next
    records: tuple[MemberRecord, ...] = ()  # in order of names; who is not in it has ""
    joining: tuple[NodeId, ...] = ()  # members that are to vote, by a new record or once caught up
    leaving: tuple[NodeId, ...] = ()  # members that leave once commits do not wait for them
    scheduled: Scheduled | None = None  # dropped when another node leads
    restarts: tuple[Restart, ...] = ()  # whose servers are restarted, one by one, in this order
    pair: PairMode | None = None  # the rule of two voters; None: a majority decides

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

    @property
    def is_pair(self) -> bool:
        """Return whether there are two voters, both with data, whose majority would be both."""
        return len(self.voters) == 2 and not set(self.voters) & set(self.witnesses)

    @property
    def decider(self) -> NodeId | None:
        """Return who of a pair can be elected by itself (R68); None where a majority decides.

        With `takeover` the standby that has every commit decides, and while there is none, P.
        """
        if self.pair is None or not self.is_pair:
            return None
        if self.pair is PairMode.TAKEOVER:
            listed = self.sync.nodes()
            for voter in self.voters:
                if voter != self.primary and voter in listed:
                    return voter
        return self.primary

    def grants(self, nodes: Collection[NodeId]) -> bool:
        """Return whether answers of `nodes` renew a lease and make a document committed."""
        decider = self.decider
        if decider is None:
            return self.has_majority(nodes)
        return self.primary in nodes and decider in nodes

    def has_majority(self, nodes: Collection[NodeId]) -> bool:
        """Return whether `nodes` contains a majority of the voters."""
        # The first half of the answers to a round can be counted out without looking at them.
        majority = self.majority
        return len(nodes) >= majority and len(set(self.voters).intersection(nodes)) >= majority

    def members(self) -> tuple[NodeId, ...]:
        """Return voters and learners, each once, in the document's order."""
        return tuple(dict.fromkeys((*self.voters, *self.learners)))

    def record_of(self, node: NodeId) -> MemberRecord:
        """Return the record by which a node counts, if it is a member."""
        for record in self.records:
            if record.node == node:
                return record
        return MemberRecord(node, RecordId(""))

    def counts(self, node: NodeId, held: DocumentRef) -> bool:
        """Return whether an answer of a member counts that holds that document.

        Before the version that took its record in it may be the answer of another record.
        """
        return held >= self.record_of(node).since

    def admits(self, node: NodeId, record_id: RecordId) -> bool:
        """Return whether a node with that durable record is a member and counts as one."""
        member = node in self.voters or node in self.learners
        return member and self.record_of(node).record_id == record_id

    def without(self, nodes: Collection[NodeId]) -> ClusterDocument:
        """Return this very version as if those nodes were no members, and nobody had asked them."""
        sync = tuple(member for member in self.sync.members if member.node not in nodes)
        voters = tuple(node for node in self.voters if node not in nodes)
        return replace(
            self,
            pair=self.pair if voters == self.voters else None,
            voters=voters,
            learners=tuple(node for node in self.learners if node not in nodes),
            witnesses=tuple(node for node in self.witnesses if node not in nodes),
            records=tuple(record for record in self.records if record.node not in nodes),
            joining=tuple(node for node in self.joining if node not in nodes),
            leaving=tuple(node for node in self.leaving if node not in nodes),
            sync=SyncSet(sync, min(self.sync.k, len(sync))),
        )

    def going_on_without(self, nodes: Collection[NodeId]) -> ClusterDocument:
        """Return this very version for a winner that an operator's order has do without `nodes`.

        The other one of a pair stays a member: it is no hindrance, and comes back by itself.
        """
        rest = self.without(nodes)
        return rest if self.pair is None else replace(self, sync=rest.sync)

    def data_members(self) -> tuple[NodeId, ...]:
        """Return the members that hold data, in the document's order."""
        return tuple(node for node in self.members() if node not in self.witnesses)


def majority_of(count: int) -> int:
    """Return the least number that is more than half of `count`."""
    return count // 2 + 1
