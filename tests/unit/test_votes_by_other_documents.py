"""What a vote is worth whose sender knows another document, or has data and no vote."""

from __future__ import annotations

import random
from dataclasses import replace

from resuming_kit import OF_FIVE, VOTERS, A, B, C, D, E, standby_at

from metako.election.candidate import Candidate
from metako.election.core import Core
from metako.election.election import Election
from metako.election.output import Role
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.model.document import ClusterDocument, Phase, SyncMember, SyncSet
from metako.model.durable import HardState
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.instant import Instant, seconds
from metako.model.lsn import Lsn, RankedPosition
from metako.model.timeline import TimelineEntry
from metako.wire.messages import (
    DocumentCopy,
    DocumentOffer,
    PreVoteReply,
    PreVoteRequest,
    VoteReply,
    VoteRequest,
)

LEARNER = NodeId("l")
LATER = replace(
    OF_FIVE,
    term=Term(9),
    version=20,
    primary=E,
    primary_data_id=DataId("e"),
    phase=Phase.PROMOTING,
    sync=SyncSet((SyncMember(A, DataId("a")), SyncMember(C, DataId("c"))), 1),
    timelines=(
        *OF_FIVE.timelines,
        TimelineEntry(Term(9), TimelineId(3), TimelineId(2), Lsn(500), E),
    ),
)


def at(second: float) -> Instant:
    return Instant(seconds(second), seconds(second))


def node(name: NodeId, document: ClusterDocument = OF_FIVE) -> Election:
    """Return a node that has followed `a` in term 4, a while after it was last heard."""
    hard = HardState(name, 7, Term(4), A, Term(4), Term(0), 0, document)
    settings = ClusterSettings("t", A, VOTERS, learners=(LEARNER,))
    election = Election(
        settings=ElectionSettings(),
        cluster=settings,
        hard=hard,
        rng=random.Random(1),
        now=at(100),
    )
    election.output(at(100))
    return election


def asks(election: Election) -> tuple[PreVoteRequest, float]:
    """Let a node come to its pre-vote; return what it asks, and when."""
    second = 100.5
    election.observe(at(second), standby_at(election.core.node, 500, 4))
    for _ in range(40):
        second += 0.05
        election.tick(at(second))
        for _, message in election.output(at(second)).outbound:
            if isinstance(message, PreVoteRequest):
                return message, second
    raise AssertionError("it does not stand")


def granted(election: Election, asked: PreVoteRequest, second: float) -> None:
    for voter in (D, E):
        reply = PreVoteReply(
            asked.term, asked.nonce, True, None, Term(4), election.core.document_ref
        )
        election.receive(at(second), voter, reply)


def stands(election: Election) -> tuple[Term, float]:
    """Let a node stand, detached itself; return the term, and when."""
    asked, second = asks(election)
    granted(election, asked, second)
    term = election.candidate.term
    assert election.role is Role.CANDIDATE
    election.observe(at(second), standby_at(election.core.node, 500, term))
    election.output(at(second))
    return term, second


def vote(election: Election, term: Term, sender: NodeId, lsn: int, **changes: object) -> VoteReply:
    reply = VoteReply(
        term=term,
        granted=True,
        refusal=None,
        promised=term,
        document_ref=election.core.document_ref,
        detached=True,
        data_id=DataId(sender),
        position=RankedPosition(Term(4), Lsn(lsn)),
        can_lead=True,
        priority=100,
        max_tli=TimelineId(2),
    )
    return replace(reply, **changes)  # type: ignore[arg-type]  # names and types are the test's


def test_a_promise_counts_only_by_the_document_of_the_candidate() -> None:
    """`c` has more WAL, and by its older document it seems to have less."""
    election = node(B)
    term, second = stands(election)
    election.receive(at(second), D, vote(election, term, D, 0, data_id=DataId("d")))
    behind = OF_FIVE.ref._replace(version=OF_FIVE.version - 1)
    seems = RankedPosition(Term(3), Lsn(600))
    election.receive(
        at(second), C, vote(election, term, C, 600, document_ref=behind, position=seems)
    )
    sent = election.output(at(second)).outbound
    assert election.leader is None
    assert any(to == C and isinstance(message, DocumentCopy) for to, message in sent)

    # It is asked again until it has judged itself anew, also if the copy was lost.
    election.tick(at(second + 0.1))
    sent = election.output(at(second + 0.1)).outbound
    assert any(to == C and isinstance(message, VoteRequest) for to, message in sent)
    election.receive(at(second + 0.1), C, vote(election, term, C, 400))
    assert election.leader is not None


def test_a_candidacy_ends_when_a_document_of_a_later_term_is_there() -> None:
    election = node(B)
    term, second = stands(election)
    later = replace(LATER, term=Term(term + 1))
    election.receive(at(second), D, DocumentCopy(later))
    for voter in (C, D, E):
        election.receive(at(second), voter, vote(election, term, voter, 400))
    election.output(at(second))
    assert election.leader is None
    assert election.role is Role.FOLLOWER


def test_nobody_stands_in_a_lower_term_than_it_has_promised_since_it_asked() -> None:
    election = node(B)
    asked, second = asks(election)
    assert asked.term < LATER.term
    election.receive(at(second), E, DocumentOffer(LATER.term, LATER))
    granted(election, asked, second)
    sent = election.output(at(second)).outbound
    assert not [message for _, message in sent if isinstance(message, VoteRequest)]
    assert election.core.hard.promised_term == LATER.term


def test_who_has_no_vote_is_not_said_to_be_able_to_lead() -> None:
    """A candidacy would be handed to it, because it has more WAL, again and again."""
    document = replace(OF_FIVE, learners=(LEARNER,))
    election = node(LEARNER, document)
    election.observe(at(101), standby_at(LEARNER, 600, 4))
    assert not election.core.own_promise(Term(4)).can_lead
    election = node(B, document)
    election.observe(at(101), standby_at(B, 600, 4))
    assert election.core.own_promise(Term(4)).can_lead


def test_a_vote_that_was_judged_by_a_document_of_an_older_term_does_not_count_yet() -> None:
    hard = HardState(B, 7, Term(9), None, Term(9), Term(0), 0, LATER)
    core = Core(
        settings=ElectionSettings(),
        cluster=ClusterSettings("t", A, VOTERS),
        node=B,
        hard=hard,
        rng=random.Random(1),
    )
    candidate = Candidate(core)
    candidate.begin_vote(at(100), Term(10))
    for held, counts in ((OF_FIVE.ref, False), (LATER.ref, True)):
        reply = VoteReply(
            Term(10), True, None, Term(10), held, False, DataId(""), None, False, 100, TimelineId(2)
        )
        candidate.heard_vote_reply(at(100), C, reply)
        assert (C in candidate.promises()) is counts
