"""What a node must never forget: its votes, its promises and the newest document it has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from metako.model.document import NO_DOCUMENT, ClusterDocument, DocumentRef
from metako.model.ids import NodeId, RecordId, Term


@dataclass(frozen=True, slots=True)
class HardState:
    """The durable record of one node. No field ever goes back; `voted_for` stays within a term."""

    node_id: NodeId
    boot_epoch: int  # starts of this agent, 1 for the first; identity is (node_id, boot_epoch)
    term: Term = Term(0)  # highest term in which this node voted or stood
    voted_for: NodeId | None = None  # the vote in `term`; None if it gave none
    promised_term: Term = Term(0)  # everything of a lower term is rejected
    released_term: Term = Term(0)  # this node never leads again in this or a lower term
    max_hold_ms: int = 0  # largest hold ever acknowledged; held in full after a restart
    document: ClusterDocument | None = None
    asked: bool = False  # the bootstrap node was told that this node is blank
    record_id: RecordId = RecordId("")  # random, made with the record: a lost one's is lost with it

    @property
    def document_ref(self) -> DocumentRef:
        return self.document.ref if self.document else NO_DOCUMENT

    def with_document(self, document: ClusterDocument) -> HardState:
        return replace(self, document=document)


def assert_not_older(old: HardState, new: HardState) -> None:
    """Check that nothing which was promised is taken back.

    Raises:
        AssertionError: some field of `new` is behind that of `old`.
    """
    assert new.node_id == old.node_id, (old.node_id, new.node_id)
    assert new.boot_epoch >= old.boot_epoch, (old.boot_epoch, new.boot_epoch)
    assert new.term >= old.term, (old.term, new.term)
    assert new.promised_term >= old.promised_term, (old.promised_term, new.promised_term)
    assert new.released_term >= old.released_term, (old.released_term, new.released_term)
    assert new.max_hold_ms >= old.max_hold_ms, (old.max_hold_ms, new.max_hold_ms)
    assert new.asked >= old.asked, "being asked is not forgotten"
    assert new.record_id == old.record_id, "a record keeps its identity"
    assert new.document_ref >= old.document_ref, (old.document_ref, new.document_ref)
    if new.term == old.term and old.voted_for is not None:
        assert new.voted_for == old.voted_for, (old.voted_for, new.voted_for)
