"""Terms, votes and documents: one leader a term, one vote a term, one content a version.

What a node has said is remembered across its restarts, by the identity of its record: one that is
made after a loss has a history of its own. A record that a fault has rolled back is left out from
then on, because nothing can be promised of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from metako.model.document import ClusterDocument, DocumentRef
from metako.model.durable import HardState
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, RecordId, Term
from metako.wire.messages import Outbound, VoteReply
from sim.network import Fate
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.processes import Processes
    from sim.world import World

NEVER_BACK = (
    *("boot_epoch", "term", "promised_term", "released_term", "max_hold_ms"),
    "asked",
)
"""Fields of a durable record that only grow; vote and document have an order of their own."""


class Agreement(Watcher):
    """See the module's docstring."""

    name = "agreement"
    sent_kinds: ClassVar[frozenset[type] | None] = frozenset({VoteReply})

    def __init__(self, world: World) -> None:
        self._world = world
        self.elections = 0
        self._won: dict[Term, NodeId] = {}
        self._votes: dict[tuple[RecordId, Term], NodeId] = {}
        self._documents: dict[DocumentRef, ClusterDocument] = {}
        self._committed = DocumentRef(Term(0), 0)

    # ------------------------------------------------------------ records

    def booted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        if before is not None and not node.forgetful:
            self._not_back(node, before, hard)
        self._learn(node, hard)

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        if before is not None:
            self._not_back(node, before, hard)
        self._learn(node, hard)

    def _not_back(self, node: Processes, old: HardState, new: HardState) -> None:
        wrong = [field for field in NEVER_BACK if getattr(new, field) < getattr(old, field)]
        if new.document_ref < old.document_ref:
            wrong.append("document")
        if new.term == old.term and old.voted_for not in (None, new.voted_for):
            wrong.append("voted_for")
        if wrong:
            raise ViolationError(
                "record_back", f"{node.name}: {', '.join(wrong)} went back", (node.name,)
            )

    def _learn(self, node: Processes, hard: HardState) -> None:
        document = hard.document
        if document is not None:
            known = self._documents.setdefault(document.ref, document)
            if known is not document and known != document:
                raise ViolationError(
                    "one_document",
                    f"document {document.ref} of {node.name} differs from an earlier one",
                    (node.name, known.primary),
                )
        if hard.voted_for is not None and not _spoilt(node, hard):
            self._vote(node.name, hard, hard.term, hard.voted_for)

    # ------------------------------------------------------------ votes

    def _vote(self, voter: NodeId, hard: HardState, term: Term, candidate: NodeId) -> None:
        other = self._votes.setdefault((hard.record_id, term), candidate)
        if other != candidate:
            raise ViolationError(
                "one_vote",
                f"{voter} voted for {other} and for {candidate} in term {term}",
                (voter, other, candidate),
            )

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        message = outbound.message
        hard = node.hard
        if type(message) is not VoteReply or not message.granted or hard is None:
            return
        if not _spoilt(node, hard):
            self._vote(node.name, hard, message.term, outbound.to)

    # ------------------------------------------------------------ leaders

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is EventName.ELECTION_WON:
                self._elected(node.name, _field(event, "term"))
            elif event.name is EventName.BOOTSTRAP_STARTED and "voters" in dict(event.fields):
                self._elected(node.name, Term(1))
            elif event.name is EventName.DOCUMENT_COMMITTED:
                self._commit(node, str(dict(event.fields)["document"]))

    def _elected(self, node: NodeId, term: Term) -> None:
        self.elections += 1
        other = self._won.setdefault(term, node)
        if other != node:
            raise ViolationError(
                "one_leader",
                f"{other} and {node} both won the election of term {term}",
                (other, node),
            )

    def _commit(self, node: Processes, shown: str) -> None:
        term, version = shown.split(".")
        ref = DocumentRef(Term(int(term)), int(version))
        if ref >= self._committed:
            self._committed = ref
        elif not self._builds_on(ref):
            raise ViolationError(
                "one_document",
                f"{node.name} committed document {ref} after {self._committed} was committed",
                (node.name,),
            )

    def _builds_on(self, late: DocumentRef) -> bool:
        """Return whether the newest committed document is made from one that is committed late.

        A leader that was suspended, or whose answers were, learns late that its document was on a
        majority. The next leader found it there, and with it the timeline that it had reserved.
        """
        newest, older = self._documents[self._committed], self._documents.get(late)
        if older is None or late.term >= newest.term or late.version >= newest.version:
            return False
        kept = {(entry.term, entry.tli) for entry in newest.timelines}
        first = min((entry.tli for entry in newest.timelines), default=0)
        reserved = [(entry.term, entry.tli) for entry in older.timelines if entry.tli >= first]
        return kept.issuperset(reserved)


def _spoilt(node: Processes, hard: HardState) -> bool:
    """Return whether a fault has rolled the record back, or may have."""
    return hard.record_id in node.void


def _field(event: Event, name: str) -> Term:
    value = dict(event.fields)[name]
    assert isinstance(value, int)
    return Term(value)
