"""A vote that was given counts no more once its voter learns that its record does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from resuming_kit import OF_FIVE, B, C, standby_at
from test_votes_by_other_documents import at, node

from metako.model.document import ClusterDocument, DocumentRef, MemberRecord
from metako.model.ids import RecordId, Term
from metako.wire.messages import DocumentCopy, VoteReply, VoteRequest

ADMITTED = replace(OF_FIVE, records=(MemberRecord(C, RecordId(""), OF_FIVE.ref),))
LATER = replace(ADMITTED, version=OF_FIVE.version + 1)
SINCE = DocumentRef(LATER.term, LATER.version)
REPLACED = replace(LATER, records=(MemberRecord(C, RecordId("made anew"), SINCE),))
REMOVED = replace(LATER, voters=tuple(n for n in LATER.voters if n != C), records=())


def votes(voter, document: ClusterDocument | None, attached: bool) -> list[VoteReply]:
    """Return the votes that `c` says it has given after it has learned of a document."""
    voter.observe(at(100), standby_at(C, 400, 0 if attached else 9))
    voter.output(at(100))
    voter.receive(at(110), B, VoteRequest(Term(9), OF_FIVE.ref))
    voter.output(at(110))
    if document is not None:
        voter.receive(at(110.1), B, DocumentCopy(document))
    voter.observe(at(110.2), standby_at(C, 400, 9))
    sent = voter.output(at(110.2)).outbound
    return [m for _, m in sent if isinstance(m, VoteReply) and m.granted]


@pytest.mark.parametrize("attached", [False, True])
def test_a_vote_is_told_once_more_by_a_newer_document_and_by_a_kept_promise(attached: bool) -> None:
    sent = votes(node(C, ADMITTED), LATER, attached)
    assert sent
    assert sent[-1].document_ref == LATER.ref


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("document", [REPLACED, REMOVED])
def test_by_a_document_that_knows_its_record_no_more_nothing_is_told(
    document: ClusterDocument, attached: bool
) -> None:
    """The candidate would count it: by what it holds the voter has judged itself."""
    assert not votes(node(C, ADMITTED), document, attached)
