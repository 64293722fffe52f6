"""One voter by itself: what it promises, what it rejects, and what it remembers after a restart."""

from __future__ import annotations

import random
from dataclasses import replace

from metako.election.election import Election
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.model.document import (
    ClusterDocument,
    DocumentRef,
    Durability,
    MemberRecord,
    Phase,
    SyncMember,
    SyncSet,
)
from metako.model.durable import HardState
from metako.model.ids import DataId, NodeId, RecordId, Term, TimelineId
from metako.model.instant import NS_PER_MS, Instant
from metako.model.lsn import Lsn, RankedPosition, WalPosition
from metako.model.postgres import DataState, PostgresObserved, ProcessState, ReceiverState
from metako.model.timeline import HistoryStep, TimelineEntry
from metako.wire.messages import (
    AgreementMessage,
    DocumentAck,
    DocumentCopy,
    DocumentOffer,
    Heartbeat,
    HeartbeatAck,
    Inquiry,
    InquiryReply,
    PreVoteReply,
    PreVoteRequest,
    Refusal,
    Release,
    TermRejected,
    VoteReply,
    VoteRequest,
)

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
CLUSTER = ClusterSettings(name="test", bootstrap_node=A, voters=(A, B, C))
SETTINGS = ElectionSettings()
DOCUMENT = ClusterDocument(
    cluster_id="id",
    cluster_name="test",
    system_id=1,
    term=Term(3),
    version=7,
    primary=A,
    primary_data_id=DataId("data-a"),
    phase=Phase.ACTIVE,
    voters=(A, B, C),
    learners=(),
    witnesses=(),
    sync=SyncSet((SyncMember(B, DataId("data-b")), SyncMember(C, DataId("data-c"))), 1),
    durability=Durability.QUORUM,
    timelines=(TimelineEntry(Term(3), TimelineId(2), TimelineId(0), Lsn(0), A, "", True),),
    hold_ms=2000,
)
RECORD = HardState(C, 1, term=Term(2), promised_term=Term(3), document=DOCUMENT)
STREAMING = PostgresObserved(
    data=DataState.PRESENT,
    process=ProcessState.RUNNING,
    system_id=1,
    data_id=DataId("data-c"),
    in_recovery=True,
    timeline=TimelineId(2),
    history=(HistoryStep(TimelineId(2), Lsn(0)),),
    max_tli=TimelineId(2),
    lsn=Lsn(500),
    receiver=ReceiverState.STREAMING,
    upstream=A,
)


def at(ms: float) -> Instant:
    return Instant(round(ms * NS_PER_MS), round(ms * NS_PER_MS))


def detached(term: int, lsn: int = 500) -> PostgresObserved:
    return replace(
        STREAMING,
        receiver=ReceiverState.GONE,
        upstream=None,
        position=WalPosition(TimelineId(2), Lsn(lsn)),
        detached_for=Term(term),
    )


class Node:
    """An election core whose outputs are taken after every input."""

    def __init__(
        self,
        hard: HardState = RECORD,
        *,
        now: Instant = at(0),  # noqa: B008 - a frozen value
        observed: PostgresObserved = STREAMING,
    ) -> None:
        self.core = Election(
            settings=SETTINGS,
            cluster=CLUSTER,
            hard=hard,
            rng=random.Random(1),
            now=now,
        )
        self.hard = hard
        self.persisted: HardState | None = None  # by the last input
        self.observe(now, observed)

    def hear(self, ms: float, sender: NodeId, message: AgreementMessage) -> list[AgreementMessage]:
        """Return what the node sends back to the sender at once."""
        self.core.receive(at(ms), sender, message)
        return self._take(at(ms), sender)

    def observe(self, now: Instant, observed: PostgresObserved) -> dict[NodeId, AgreementMessage]:
        self.core.observe(now, observed)
        output = self.core.output(now)
        self._remember(output.persist)
        return dict(output.outbound)

    def _take(self, now: Instant, to: NodeId) -> list[AgreementMessage]:
        output = self.core.output(now)
        self._remember(output.persist)
        return [message for node, message in output.outbound if node == to]

    def _remember(self, persist: HardState | None) -> None:
        self.persisted = persist
        self.hard = persist or self.hard


def beat(term: int = 3, round_: int = 1, hold_ms: int = 2000) -> Heartbeat:
    return Heartbeat(Term(term), 1, round_, hold_ms, DOCUMENT.ref, attachable=True, active=True)


def vote(term: int = 4) -> VoteRequest:
    return VoteRequest(Term(term), DOCUMENT.ref)


def reply_to(answers: list[AgreementMessage]) -> VoteReply:
    replies = [answer for answer in answers if isinstance(answer, VoteReply)]
    assert len(replies) == 1, answers
    return replies[0]


def test_vote_is_durable_in_the_step_that_grants_it() -> None:
    node = Node()
    reply = reply_to(node.hear(10, B, vote()))
    assert reply.granted
    assert node.persisted is not None
    assert (node.persisted.term, node.persisted.voted_for) == (4, B)
    assert node.persisted.promised_term == 4


def test_second_candidate_of_a_term_is_refused_and_the_first_gets_its_answer_again() -> None:
    node = Node()
    assert reply_to(node.hear(10, B, vote())).granted
    second = reply_to(node.hear(11, A, vote()))
    assert (second.granted, second.refusal) == (False, Refusal.TERM)
    assert reply_to(node.hear(12, B, vote())).granted
    assert node.persisted is None  # asked again, nothing new


def test_vote_survives_a_restart() -> None:
    node = Node()
    node.hear(10, B, vote())
    again = Node(replace(node.hard, boot_epoch=2), now=at(60_000))
    assert reply_to(again.hear(120_000, A, vote())).refusal is Refusal.TERM


def test_granted_vote_carries_no_position_before_the_receiver_is_gone() -> None:
    """Reported positions of a standby that still streams would be too low."""
    node = Node()
    early = reply_to(node.hear(10, B, vote()))
    assert early.granted
    assert not early.detached
    assert early.position is None
    told = node.observe(at(80), detached(4, 640))[B]
    assert isinstance(told, VoteReply)
    assert told.detached
    assert told.position == RankedPosition(Term(3), Lsn(640))


def test_vote_is_told_again_when_a_newer_document_shows_that_our_wal_is_no_other() -> None:
    """By the record of before a failover, the timeline that came of it looks diverged."""
    older = replace(
        DOCUMENT,
        version=6,
        timelines=(replace(DOCUMENT.timelines[0], tli=TimelineId(1), term=Term(1)),),
    )
    node = Node(replace(RECORD, document=older), observed=detached(4))
    first = reply_to(node.hear(10, B, vote()))
    assert first.granted
    assert first.position is None
    assert first.document_ref == older.ref
    again = reply_to(node.hear(12, B, DocumentCopy(DOCUMENT)))
    assert again.granted
    assert again.detached
    assert again.position == RankedPosition(Term(3), Lsn(500))
    assert again.document_ref == DOCUMENT.ref
    assert node.hear(14, B, DocumentCopy(DOCUMENT)) == []


def test_newer_document_tells_no_vote_of_a_term_that_has_passed() -> None:
    older = replace(DOCUMENT, version=6)
    node = Node(replace(RECORD, document=older), observed=detached(4))
    node.hear(10, B, vote())
    node.hear(12, A, vote(5))
    told = node.hear(14, B, DocumentCopy(DOCUMENT))
    assert [m for m in told if isinstance(m, VoteReply)] == []


def test_position_found_under_an_older_promise_does_not_count() -> None:
    node = Node(observed=detached(3))
    reply = reply_to(node.hear(10, B, vote()))
    assert reply.granted
    assert not reply.detached


def test_server_that_may_write_keeps_its_agent_from_voting() -> None:
    primary = replace(STREAMING, in_recovery=False, receiver=ReceiverState.GONE, upstream=None)
    node = Node(observed=primary)
    assert not reply_to(node.hear(10, B, vote())).granted
    assert node.hard.promised_term == 3


def test_hold_refuses_everybody_but_the_one_it_is_for() -> None:
    node = Node()
    node.hear(0, A, beat())
    assert reply_to(node.hear(1999, B, vote())).refusal is Refusal.HOLD
    assert node.hard.promised_term == 3  # a refusal changes nothing
    assert reply_to(node.hear(1999, A, vote())).granted


def test_hold_ends_after_its_time() -> None:
    node = Node()
    node.hear(0, A, beat())
    assert reply_to(node.hear(2000, B, vote())).granted


def test_restarted_voter_holds_in_full_for_the_largest_hold_that_it_ever_acknowledged() -> None:
    node = Node()
    node.hear(0, A, beat(hold_ms=8000))
    node.hear(10, A, beat(round_=2, hold_ms=2000))
    assert node.hard.max_hold_ms == 8000
    again = Node(replace(node.hard, boot_epoch=2), now=at(9000))
    assert reply_to(again.hear(9000 + 7999, B, vote())).refusal is Refusal.HOLD
    assert reply_to(again.hear(9000 + 8000, B, vote())).granted


def test_hold_is_durable_before_the_heartbeat_is_acknowledged() -> None:
    node = Node()
    answers = node.hear(0, A, beat(hold_ms=8000))
    assert [type(answer) for answer in answers] == [HeartbeatAck]
    assert node.persisted is not None
    assert node.persisted.max_hold_ms == 8000


def test_nothing_of_a_lower_term_than_the_promise_has_any_effect() -> None:
    node = Node()
    node.hear(0, B, vote(9))
    hard = node.hard
    newer = replace(DOCUMENT, version=99)
    for message in (beat(), DocumentOffer(Term(3), newer), vote(8)):
        answers = node.hear(10, A, message)
        assert TermRejected(message.term, Term(9)) in answers
        assert not any(isinstance(a, HeartbeatAck | DocumentAck) for a in answers)
    assert node.hard == hard
    assert not node.core.voter.hold.active(at(10))


def test_offer_is_acknowledged_only_once_it_is_held() -> None:
    node = Node()
    newer = replace(DOCUMENT, version=8)
    assert node.hear(0, A, DocumentOffer(Term(3), newer)) == [DocumentAck(Term(3), newer.ref)]
    assert node.persisted is not None
    assert node.persisted.document == newer
    foreign = replace(DOCUMENT, version=9, cluster_id="other")
    assert node.hear(1, A, DocumentOffer(Term(3), foreign)) == []
    assert node.hard.document == newer


def test_pre_vote_changes_nothing_whatever_the_answer() -> None:
    node = Node()
    behind = RankedPosition(Term(3), Lsn(400))
    level = RankedPosition(Term(3), Lsn(500))
    cases = [
        (PreVoteRequest(Term(4), 1, DOCUMENT.ref, level), None),
        (PreVoteRequest(Term(4), 2, DOCUMENT.ref, behind), Refusal.WAL),
        (PreVoteRequest(Term(4), 3, DOCUMENT.ref, None), Refusal.WAL),
        (PreVoteRequest(Term(4), 4, DocumentRef(Term(3), 6), level), Refusal.DOCUMENT),
        (PreVoteRequest(Term(3), 5, DOCUMENT.ref, level), Refusal.TERM),
    ]
    for request, refusal in cases:
        answers = Node().hear(10, B, request)
        (reply,) = [answer for answer in answers if isinstance(answer, PreVoteReply)]
        assert (reply.granted, reply.refusal) == (refusal is None, refusal)
    node.hear(0, A, beat())
    (held,) = node.hear(10, B, cases[0][0])
    assert isinstance(held, PreVoteReply)
    assert (held.refusal, held.hold_remaining_ms) == (Refusal.HOLD, 1990)
    assert node.hard.promised_term == 3


def test_release_ends_the_hold_unless_a_later_round_was_heard() -> None:
    node = Node()
    node.hear(0, A, beat(round_=5))
    node.hear(1, A, Release(Term(3), 1, 4))
    assert node.core.voter.hold.active(at(1))
    node.hear(2, B, Release(Term(3), 1, 9))
    assert node.core.voter.hold.active(at(2))
    node.hear(3, A, Release(Term(3), 1, 5))
    assert not node.core.voter.hold.active(at(3))
    assert reply_to(node.hear(4, B, vote())).granted


def test_node_without_its_record_neither_votes_nor_acknowledges() -> None:
    node = Node(HardState(C, 1, record_id=RecordId("made anew")))
    node.hear(0, A, DocumentOffer(Term(3), DOCUMENT))
    assert reply_to(node.hear(60_000, B, vote())).refusal is Refusal.NOT_VOTING
    assert node.hear(60_001, A, beat()) == []


def test_new_node_that_was_asked_at_the_bootstrap_does_vote() -> None:
    hard = HardState(C, 1, record_id=RecordId("first"))
    node = Node(hard, observed=PostgresObserved(data=DataState.EMPTY))
    (answer,) = node.hear(0, A, Inquiry(5))
    assert answer == InquiryReply(5, False, DocumentRef(Term(0), 0), RecordId("first"))
    records = (MemberRecord(C, RecordId("first")),)
    node.hear(1, A, DocumentOffer(Term(3), replace(DOCUMENT, records=records)))
    assert reply_to(node.hear(60_000, B, vote())).granted


def test_node_without_a_record_counts_nowhere_before_it_knows_that_it_is_new() -> None:
    """Its record may be lost: then it has forgotten what it voted and promised."""
    node = Node(HardState(C, 1, record_id=RecordId("made anew")))
    assert reply_to(node.hear(0, B, vote())).refusal is Refusal.NOT_VOTING
    assert not any(isinstance(a, HeartbeatAck) for a in node.hear(1, A, beat()))
    # The document that tells it so is kept, and does not count as acknowledged.
    answers = node.hear(2, A, DocumentOffer(Term(3), DOCUMENT))
    assert not any(isinstance(a, DocumentAck) for a in answers)
    assert reply_to(node.hear(3, B, vote(5))).refusal is Refusal.NOT_VOTING
