"""The first bootstrap: only the configured node, and only if every configured voter is blank.

A majority of blank nodes is not enough: the others may hold the data. So the bootstrap node asks
all of them and waits for all answers; an answer with a document ends the bootstrap, because that
document is the cluster's.

Source: DESIGN §4.1.
"""

from __future__ import annotations

from metako.election.core import Core
from metako.election.leader import Leader
from metako.election.office import Mandate
from metako.model.document import ClusterDocument, MemberRecord, Phase, SyncSet
from metako.model.events import EventName, Severity
from metako.model.ids import DataId, NodeId, RecordId, Term
from metako.model.instant import Instant, milliseconds
from metako.model.postgres import DataState, ProcessState
from metako.wire.messages import Inquiry, InquiryReply

INQUIRY_INTERVAL_MS = 300


class Bootstrap:
    """Asks until all configured voters have answered that they are blank."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ask_at_ns = 0
        self._nonce = 0
        self._blank: dict[NodeId, RecordId] = {}  # who is, by which durable record
        self.refused: dict[NodeId, str] = {}  # who is not blank, and why; for people

    def wanted(self) -> bool:
        """Return whether this node should create the cluster."""
        core = self._core
        return (
            core.document is None
            and core.voting
            and core.node == core.cluster.bootstrap_node
            and core.node in core.cluster.voters
            and core.node not in core.cluster.witnesses
        )

    def waiting_for(self) -> tuple[NodeId, ...]:
        core = self._core
        return tuple(n for n in core.cluster.voters if n != core.node and n not in self._blank)

    def why_not(self) -> str:
        """Return in plain words what keeps this node from creating the cluster."""
        if self._core.unwatched:
            return f"not creating a cluster: {self._core.unwatched}"
        if self.refused:
            who, what = next(iter(sorted(self.refused.items())))
            return f"not creating a cluster: {who} already has {what}"
        waiting = ", ".join(self.waiting_for())
        return f"waiting for an answer of {waiting} before creating the cluster" if waiting else ""

    def wakeup(self) -> int | None:
        return self._ask_at_ns if self.wanted() and self._ready() else None

    def _ready(self) -> bool:
        """Return whether this node could lead, its server known and not running on its own."""
        observed = self._core.observed
        if self._core.unwatched:
            return False
        known = observed.data in (DataState.EMPTY, DataState.PRESENT)
        return known and observed.process is ProcessState.STOPPED

    def tick(self, now: Instant) -> bool:
        """Ask whoever has not answered; return whether the cluster may be created now."""
        core = self._core
        if not self.wanted() or not self._ready():
            return False
        if not self.waiting_for():
            return True
        if now.mono_ns >= self._ask_at_ns:
            self._ask_at_ns = now.mono_ns + milliseconds(INQUIRY_INTERVAL_MS)
            self._nonce = self._nonce or core.rng.getrandbits(63)
            core.broadcast(self.waiting_for(), Inquiry(self._nonce))
        return False

    def heard_reply(self, sender: NodeId, reply: InquiryReply) -> None:
        if reply.nonce != self._nonce or sender not in self._core.cluster.voters:
            return
        if reply.document_ref.version or reply.has_data:
            what = "a cluster document" if reply.document_ref.version else "a data directory"
            if self.refused.get(sender) != what:
                self._core.emit(
                    EventName.BOOTSTRAP_STARTED,
                    f"not creating a cluster: {sender} already has {what}",
                    Severity.WARNING,
                    node_with_data=sender,
                )
            self.refused[sender] = what
            self._blank.pop(sender, None)
            return
        self.refused.pop(sender, None)
        self._blank[sender] = reply.record_id

    def create(self, now: Instant, next_term: Term) -> Leader:
        """Create the cluster; return the leadership that makes its first database.

        Args:
            now: the time of this step.
            next_term: above all that this node has ever promised.
        """
        core = self._core
        term = Term(1) if core.hard.promised_term < 1 else next_term
        core.promise(term, voted_for=core.node)
        leader = Leader(core, now, term)
        leader.take_office(now, self._first_document(term), {}, Mandate("bootstrap"))
        return leader

    def _first_document(self, term: Term) -> ClusterDocument:
        """Return version 0, the base of the document that the first leader writes."""
        core, cluster = self._core, self._core.cluster
        core.emit(
            EventName.BOOTSTRAP_STARTED,
            f"creating the cluster {cluster.name!r}",
            voters=", ".join(cluster.voters),
        )
        return ClusterDocument(
            cluster_id=f"{core.rng.getrandbits(128):032x}",
            cluster_name=cluster.name,
            system_id=0,
            term=term,
            version=0,
            primary=core.node,
            primary_data_id=DataId(""),
            phase=Phase.INITIALIZING,
            voters=cluster.voters,
            learners=cluster.learners,
            witnesses=cluster.witnesses,
            sync=SyncSet(),
            durability=cluster.durability,
            timelines=(),
            hold_ms=core.settings.hold_ms,
            records=self._records(),
        )

    def _records(self) -> tuple[MemberRecord, ...]:
        """Return by which durable records the first members count; "" is what nobody has to say.

        A learner that was not heard of yet is taken in when it is.
        """
        core = self._core
        known = {**self._blank, core.node: core.hard.record_id}
        for node in core.cluster.learners:
            member = core.members.get(node)
            if member is not None and member.meta is not None:
                known[node] = member.meta.record_id
        return tuple(MemberRecord(node, known[node]) for node in sorted(known) if known[node])
