"""What voter, candidate and leader share: the durable record, the local server, what to send.

`Core` is the only mutable state that more than one of them touches. Its changes of the durable
record assert what must never go back. Outputs are collected here and taken once per step, so a
record changed anywhere in a step is persisted before any message of that step leaves.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from metako.election.awaiting import Awaited
from metako.election.course import Course
from metako.election.pair import SoleRight
from metako.election.quorum import Promise
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.sharing import Sharing
from metako.model.document import ClusterDocument, DocumentRef
from metako.model.durable import HardState, assert_not_older
from metako.model.events import Event, EventName, Severity, event
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.lsn import RankedPosition, WalPosition
from metako.model.member import Member, MemberState
from metako.model.postgres import DataState, Following, PostgresObserved, ProcessState, Stopped
from metako.model.timeline import owner_of, rank
from metako.wire.messages import AgreementMessage


class Standing(enum.Enum):
    """What a node is by a document."""

    COUNTS = enum.auto()  # a member, by this very record; or there is no document yet
    LOST = enum.auto()  # a member by another record than it has
    STRANGER = enum.auto()  # no member


@dataclass(slots=True)
class Core:
    """State shared by the parts of one node's election."""

    settings: ElectionSettings
    cluster: ClusterSettings
    node: NodeId
    hard: HardState
    rng: random.Random
    observed: PostgresObserved = field(default_factory=PostgresObserved)
    members: Mapping[NodeId, Member] = field(default_factory=dict)  # gossip's view, advisory
    standing: object = None  # the same while no member changed in more than positions
    following: tuple[ClusterDocument, Following] | None = None  # newest one made, and from what
    heir: Awaited = field(default_factory=Awaited)  # whom our release has named
    course: Course = field(default_factory=Course)  # of the newest election, for people
    sole: SoleRight = field(init=False)  # whether its own vote is enough, in a pair
    _sharing: Sharing = field(init=False)  # what was told of the newest document, and to whom
    _judged: tuple[ClusterDocument | None, Standing] | None = None  # what the newest one makes us
    _dirty: bool = False
    _outbound: list[tuple[NodeId, AgreementMessage]] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sharing = Sharing(self.settings.timelines_sent)
        self.sole = SoleRight(self.node)

    # ------------------------------------------------------------ outputs

    def send(self, to: NodeId, message: AgreementMessage) -> None:
        if to != self.node:
            self._outbound.append((to, message))

    def broadcast(self, nodes: Iterable[NodeId], message: AgreementMessage) -> None:
        for node in nodes:
            self.send(node, message)

    def offer(self, nodes: Iterable[NodeId], document: ClusterDocument, term: Term) -> None:
        """Send a leader's document to members, to be made durable and acknowledged."""
        for node in nodes:
            self.send(node, self._sharing.offer(node, document, term))

    def copy(self, to: NodeId, document: ClusterDocument, held: DocumentRef) -> None:
        """Send a document to a node that holds an older one, or none."""
        self.send(to, self._sharing.copy(to, document, held))

    def emit(
        self, name: EventName, message: str, severity: Severity = Severity.INFO, **fields: object
    ) -> None:
        self._events.append(event(name, message, severity=severity, **fields))

    def take(
        self,
    ) -> tuple[HardState | None, tuple[tuple[NodeId, AgreementMessage], ...], tuple[Event, ...]]:
        """Return and clear what this step produced."""
        if not (self._dirty or self._outbound or self._events):
            return None, (), ()
        hard = self.hard if self._dirty else None
        result = (hard, tuple(self._outbound), tuple(self._events))
        self._dirty = False
        self._outbound, self._events = [], []
        return result

    # ------------------------------------------------------------ durable record

    def record(self, hard: HardState) -> None:
        """Replace the durable record; nothing in it may go back."""
        old = self.hard
        if hard is old:
            return
        assert hard.boot_epoch == old.boot_epoch
        assert_not_older(old, hard)
        if hard != old:
            self.hard = hard
            self._dirty = True

    def promise(self, term: Term, voted_for: NodeId | None = None) -> None:
        """Reject everything below `term` from now on, and vote if a name is given."""
        hard = self.hard
        if voted_for != self.node and (voted_for is not None or term > hard.promised_term):
            self.sole.withdraw()
        if term > hard.promised_term:
            hard = replace(hard, promised_term=term)
        if voted_for is not None:
            hard = replace(hard, term=term, voted_for=voted_for)
        self.record(hard)

    def remember_hold(self, hold_ms: int) -> None:
        """Make durable that a hold may be so long: it is held in full after each restart."""
        if hold_ms > self.hard.max_hold_ms:
            self.record(replace(self.hard, max_hold_ms=hold_ms))

    def adopt(self, document: ClusterDocument) -> bool:
        """Make a newer document durable; return whether it was newer."""
        if document.ref <= self.hard.document_ref:
            return False
        known = self.hard.document
        if known is not None and known.cluster_id != document.cluster_id:
            return False
        before = self.standing_as
        self.record(self.hard.with_document(document))
        self.sole.adopted(document)
        now = self.standing_as
        if now is before:
            return True
        if now is Standing.LOST:
            self.emit(
                EventName.VOTE_REFUSED,
                "this node is a member by another durable record than it has: it does not vote",
                Severity.ERROR,
            )
        elif now is Standing.STRANGER:
            self.emit(
                EventName.NOT_A_MEMBER,
                "this node is no member of the cluster: its PostgreSQL is kept stopped",
                Severity.WARNING,
            )
        return True

    # ------------------------------------------------------------ views

    def standing_in(self, document: ClusterDocument | None) -> Standing:
        """Return what this node, with the record that it has, is by a document.

        Who has a record of which the document knows nothing has lost the one that it does know, and
        with it the votes and promises that others count on: a second vote could elect two leaders.
        """
        if document is None or document.admits(self.node, self.hard.record_id):
            return Standing.COUNTS
        return Standing.LOST if self.node in document.members() else Standing.STRANGER

    @property
    def standing_as(self) -> Standing:
        """Return what this node is by the newest document that it has seen."""
        judged, document = self._judged, self.hard.document
        if judged is None or judged[0] is not document:
            judged = self._judged = (document, self.standing_in(document))
        return judged[1]

    @property
    def voting(self) -> bool:
        """Return whether nothing that is known speaks against this node's standing and voting."""
        return self.standing_as is Standing.COUNTS

    @property
    def may_vote(self) -> bool:
        """Return whether this node counts in any quorum.

        One that has seen no document cannot know yet whether it ever had another record, hence what
        it has promised, until the bootstrap node has asked it.
        """
        return self.voting and (self.document is not None or self.hard.asked)

    @property
    def removed(self) -> bool:
        """Return whether this node is no member by the newest document that it has seen."""
        return self.standing_as is Standing.STRANGER

    @property
    def document(self) -> ClusterDocument | None:
        return self.hard.document

    @property
    def document_ref(self) -> DocumentRef:
        return self.hard.document_ref

    @property
    def is_witness(self) -> bool:
        document = self.document
        witnesses = document.witnesses if document else self.cluster.witnesses
        return self.node in witnesses

    def others(self) -> tuple[NodeId, ...]:
        """Return every other member that the document, or before it the configuration, names."""
        if self.document is not None:
            nodes = self.document.members()
        else:
            nodes = tuple(dict.fromkeys((*self.cluster.voters, *self.cluster.learners)))
        return tuple(node for node in nodes if node != self.node)

    def is_alive(self, node: NodeId) -> bool:
        member = self.members.get(node)
        return member is not None and member.state in (MemberState.ALIVE, MemberState.SUSPECT)

    def zone_of(self, node: NodeId) -> str:
        """Return where a node is, as far as it has told; "" if it has not."""
        if node == self.node:
            return self.cluster.zone
        member = self.members.get(node)
        return member.meta.zone if member is not None and member.meta is not None else ""

    def is_elsewhere(self, node: NodeId, primary: NodeId) -> bool:
        """Return whether a node is in another zone than a primary, for whoever ranks equals."""
        return self.zone_of(node) != self.zone_of(primary)

    def server_gone(self) -> bool:
        """Return whether there is no server, and none is started while the target stays.

        One that was seen gone under another target may have been started again since.
        """
        observed = self.observed
        safe = observed.under is None or isinstance(observed.under, Stopped)
        return safe and observed.process is ProcessState.STOPPED

    def has_data(self) -> bool:
        return self.observed.data in (DataState.PRESENT, DataState.TAINTED)

    def diverged(self, position: WalPosition) -> bool:
        """Return whether the local data is off the document's history."""
        document = self.document
        if document is None or not document.timelines:
            return False
        return document.off_history(self.observed.history, position)

    def foreign(self) -> bool:
        """Return whether the local data belongs to another database system."""
        document = self.document
        return bool(
            document
            and document.system_id
            and self.observed.system_id
            and document.system_id != self.observed.system_id
        )

    def ranked(self, position: WalPosition | None) -> RankedPosition | None:
        """Return a position in comparable form; None if it must not count."""
        document = self.document
        if position is None or document is None or self.foreign():
            return None
        if self.observed.data is not DataState.PRESENT or self.diverged(position):
            return None
        return rank(document.timelines, position)

    def advisory_position(self) -> RankedPosition | None:
        """Return the newest WAL believed to be here, without the proof that a vote needs."""
        observed = self.observed
        if observed.position is not None:
            return self.ranked(observed.position)
        if observed.lsn == 0:
            return None
        owner = owner_of(observed.history, observed.lsn) or observed.timeline
        return self.ranked(WalPosition(owner, observed.lsn))

    def detached(self, term: Term) -> bool:
        """Return whether the replication promise of `term` is kept by the local server.

        Only a server that is verified gone, or one in recovery with its WAL receiver verified
        gone, can keep it; both are what `position` with `detached_for` stands for.
        """
        observed = self.observed
        if self.is_witness or observed.data is DataState.NONE:
            return True
        if observed.data in (DataState.EMPTY, DataState.TAINTED):
            # If it was to follow when it was seen, it may have been cloned and started since.
            stopped = observed.process is ProcessState.STOPPED
            return stopped and not isinstance(observed.under, Following)
        if observed.in_recovery is False:
            return False
        return observed.position is not None and observed.detached_for >= term

    @property
    def unwatched(self) -> str:
        """Return why this node must not lead: nothing would reset its machine. "" if it may.

        It is the guard that refuses to be armed then. To be elected all the same would keep the
        cluster waiting for a promotion that never comes.
        """
        watchdog = self.observed.watchdog
        if not self.cluster.watchdog_required or watchdog.usable:
            return ""
        why = watchdog.why or "its state is not known yet"
        return f"this node's watchdog is required and not armed: {why}"

    def can_lead(self, term: Term) -> bool:
        """Return whether this node could be promoted now under its promise of `term`."""
        observed, document = self.observed, self.document
        return (
            not self.is_witness
            and document is not None
            and self.node in document.voters
            and self.cluster.priority > 0
            and not self.unwatched
            and observed.process is ProcessState.RUNNING
            and observed.in_recovery is True
            and self.detached(term)
            and self.ranked(observed.position) is not None
        )

    def own_promise(self, term: Term) -> Promise:
        """Return what this node itself contributes to an election in `term`."""
        observed = self.observed
        detached = self.detached(term)
        position = self.ranked(observed.position) if detached else None
        return Promise(
            node=self.node,
            detached=detached,
            data_id=observed.data_id if observed.data is DataState.PRESENT else DataId(""),
            position=position,
            can_lead=self.can_lead(term),
            priority=self.cluster.priority,
            max_tli=max(observed.max_tli, observed.timeline, TimelineId(0)),
        )
