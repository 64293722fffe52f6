"""Whoever a release names goes first: the others stand later, and the old server stays down."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from handover_kit import OF_THREE, Office, member, switchover
from resuming_kit import A, B, C

from metako.election.awaiting import HEIR_STAGGERS, INVITED_MS, Awaited, head_start_ms
from metako.election.candidate import Stage
from metako.election.election import Election
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.model.document import ClusterDocument, SyncMember, SyncSet
from metako.model.durable import HardState
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.instant import Instant, milliseconds
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import (
    DataState,
    Detached,
    Following,
    PostgresObserved,
    ProcessState,
    ReceiverState,
)
from metako.model.timeline import HistoryStep
from metako.wire.messages import (
    DocumentOffer,
    Heartbeat,
    PreVoteRequest,
    Release,
    VoteReply,
    VoteRequest,
)

SETTINGS = ElectionSettings()
HEAD_MS = HEIR_STAGGERS * SETTINGS.stagger_ms
LATEST_MS = HEAD_MS + SETTINGS.candidacy_timeout_ms


def at(ms: float) -> Instant:
    return Instant(milliseconds(ms), milliseconds(ms))


# ---------------------------------------------------------------- how long


def test_a_release_without_a_name_gives_nobody_a_start() -> None:
    assert head_start_ms(SETTINGS, None) == 0
    assert head_start_ms(SETTINGS, B) == HEAD_MS


def test_nobody_is_awaited_to_begin_with() -> None:
    awaited = Awaited()
    assert not awaited.active(at(0))
    awaited.stands(at(0))
    assert not awaited.active(at(0))
    assert awaited.wakeup() is None


def test_an_heir_that_is_not_heard_of_is_awaited_for_its_start() -> None:
    awaited = Awaited()
    awaited.begin(at(1000), SETTINGS, B)
    assert awaited.active(at(1000 + HEAD_MS - 1))
    assert awaited.wakeup() == milliseconds(1000 + HEAD_MS)
    assert not awaited.active(at(1000 + HEAD_MS))
    awaited.stands(at(1000 + HEAD_MS))  # too late: the server has been started
    assert not awaited.active(at(1000 + HEAD_MS))
    awaited.tick(at(1000 + HEAD_MS))
    assert awaited.wakeup() is None


def test_one_that_stands_is_awaited_for_a_candidacy_and_no_longer() -> None:
    awaited = Awaited()
    awaited.begin(at(1000), SETTINGS, B)
    for ms in (1010, 1500, 2500):
        awaited.stands(at(ms))
    assert awaited.active(at(1000 + LATEST_MS - 1))
    awaited.tick(at(1000 + LATEST_MS - 1))
    assert awaited.wakeup() == milliseconds(1000 + LATEST_MS)
    assert not awaited.active(at(1000 + LATEST_MS))


# ---------------------------------------------------------------- the old primary


def released() -> Office:
    """Return an office that has just released its lease to `b`."""
    office = Office()
    office.give(switchover())
    office.checkpoint("o1", B)
    office.gone()
    assert office.election.leader is None
    return office


def test_its_own_hold_ends_with_its_lease() -> None:
    """Its agent was restarted a moment ago, and holds in full for what may run: its own lease.

    In a cluster of two the heir needs this vote.
    """
    office = released()
    assert not office.election.voter.hold.active(office.now)
    office.receive(B, vote(5))
    assert any(isinstance(m, VoteReply) and m.granted for _, m in office.sent)


def wants(office: Office) -> Detached:
    assert isinstance(office.target, Detached)
    return office.target


def test_its_server_stays_down_for_the_start_of_the_heir() -> None:
    office = released()
    assert not wants(office).run
    office.run(HEAD_MS - 1, step_ms=1)
    assert not wants(office).run
    assert office.election.wakeup() <= milliseconds(office.ms + 1)
    office.run(1)
    assert wants(office).run


def vote(term: int) -> VoteRequest:
    return VoteRequest(Term(term), OF_THREE.ref)


def test_and_for_a_candidacy_that_it_votes_in() -> None:
    office = released()
    office.receive(B, vote(5))
    assert wants(office) == Detached(Term(5), run=False)
    office.run(LATEST_MS - 10)
    assert not wants(office).run
    office.run(10, step_ms=1)
    assert wants(office).run


def test_but_not_for_one_candidacy_after_the_other() -> None:
    """One that cannot win without this very server would keep it down for ever."""
    office = released()
    for term in range(5, 12):
        office.receive(B, vote(term))
        office.run(LATEST_MS / 6)
    assert wants(office).run


def of_term_five() -> ClusterDocument:
    entry = replace(OF_THREE.timelines[-1], term=Term(5), tli=TimelineId(3), confirmed=False)
    return replace(
        OF_THREE,
        term=Term(5),
        version=20,
        primary=B,
        timelines=(*OF_THREE.timelines, entry),
    )


def promoting() -> DocumentOffer:
    return DocumentOffer(Term(5), of_term_five())


def beat(*, attachable: bool, active: bool | None = None) -> Heartbeat:
    active = attachable if active is None else active
    return Heartbeat(Term(5), 3, 1, 2000, of_term_five().ref, attachable, active=active)


@pytest.mark.parametrize("document_first", [True, False])
def test_while_the_heir_is_promoted_it_stays_down_whatever_comes_first(
    document_first: bool,
) -> None:
    office = released()
    office.receive(B, vote(5))
    news = [promoting(), beat(attachable=False)]
    for message in news if document_first else reversed(news):
        office.receive(B, message)
        assert wants(office) == Detached(Term(5), run=False)


def test_once_it_can_be_attached_to_the_server_follows() -> None:
    office = released()
    office.receive(B, vote(5))
    office.receive(B, promoting())
    office.receive(B, beat(attachable=True))
    assert isinstance(office.target, Following)


def test_the_server_follows_when_applications_are_let_in_if_others_acknowledge_meanwhile() -> None:
    office = released()
    office.receive(B, vote(5))
    office.receive(B, promoting())
    office.receive(B, beat(attachable=True, active=False))
    assert wants(office) == Detached(Term(5), run=False)
    office.receive(B, beat(attachable=True))
    assert isinstance(office.target, Following)


def test_the_server_follows_before_if_the_others_are_not_enough() -> None:
    office = released()
    office.receive(B, vote(5))
    alone = SyncSet((SyncMember(A, DataId("a")),), 1)
    office.receive(B, DocumentOffer(Term(5), replace(of_term_five(), sync=alone)))
    office.receive(B, beat(attachable=True, active=False))
    assert isinstance(office.target, Following)


def test_the_server_does_not_wait_long_for_those_who_should_acknowledge() -> None:
    office = released()
    office.receive(B, vote(5))
    office.receive(B, promoting())
    office.receive(B, beat(attachable=True, active=False))
    office.run(INVITED_MS - 10)
    assert wants(office) == Detached(Term(5), run=False)
    office.run(20)
    assert isinstance(office.target, Following)


def test_a_server_that_runs_again_is_no_longer_kept_down() -> None:
    office = released()
    office.receive(B, vote(5))
    position = WalPosition(TimelineId(2), Lsn(1 << 24))
    office.look(
        PostgresObserved(
            data=DataState.PRESENT,
            process=ProcessState.RUNNING,
            in_recovery=True,
            position=position,
            detached_for=Term(5),
        )
    )
    assert wants(office).run


def test_without_an_heir_it_is_started_at_once() -> None:
    office = Office()
    office.look(standbys=())
    office.gone()
    office.gone()
    assert [release.successor for release in office.released] == [None]
    assert wants(office).run


# ---------------------------------------------------------------- the others


class Voter:
    """`b` or `c`, which holds for `a` and has a standby that could be promoted."""

    def __init__(self, name: NodeId = B, *, recovering: bool = True) -> None:
        self.ms = 1000.0
        self.election = Election(
            settings=SETTINGS,
            cluster=ClusterSettings("t", A, OF_THREE.voters),
            hard=HardState(name, 3, Term(4), A, Term(4), Term(0), 0, OF_THREE),
            rng=random.Random(1),
            now=at(self.ms),
        )
        self.election.roster({node: member(node) for node in OF_THREE.voters}, object())
        beat = Heartbeat(Term(4), 7, 9, 2000, OF_THREE.ref, attachable=True, active=True)
        self.election.receive(at(self.ms), A, beat)
        if recovering:
            self.election.observe(at(self.ms), streaming())
        self.sent()

    def sent(self) -> list[object]:
        return [message for _, message in self.election.output(at(self.ms)).outbound]

    def hear(self, successor: NodeId | None) -> list[object]:
        self.election.receive(at(self.ms), A, Release(Term(4), 7, 9, successor))
        return self.sent()

    def stands_after_ms(self) -> float:
        assert self.election.candidate.stage is Stage.WAITING
        return self.election.candidate.stand_at_ns / 1e6 - self.ms


def streaming() -> PostgresObserved:
    return PostgresObserved(
        data=DataState.PRESENT,
        process=ProcessState.RUNNING,
        system_id=1,
        data_id=DataId("b"),
        in_recovery=True,
        timeline=TimelineId(2),
        history=(HistoryStep(TimelineId(2), Lsn(0)),),
        max_tli=TimelineId(2),
        lsn=Lsn(1 << 24),
        receiver=ReceiverState.STREAMING,
        upstream=A,
    )


def test_who_is_named_stands_at_once_and_asks_for_votes() -> None:
    sent = Voter(B).hear(B)
    assert [type(message) for message in sent] == [VoteRequest, VoteRequest]


def test_everybody_else_gives_it_a_start() -> None:
    usual, late = Voter(C), Voter(C)
    assert usual.hear(None) == late.hear(B) == []
    assert late.stands_after_ms() == pytest.approx(usual.stands_after_ms() + HEAD_MS)


def test_without_a_name_the_best_ranked_asks_for_pre_votes_as_ever() -> None:
    voter = Voter(B)
    assert voter.hear(None) == []
    voter.ms += voter.stands_after_ms() + 0.001
    voter.election.tick(at(voter.ms))
    assert {type(message) for message in voter.sent()} == {PreVoteRequest}


def test_who_is_named_and_cannot_stand_leaves_it_to_the_others() -> None:
    voter = Voter(B, recovering=False)
    assert voter.hear(B) == []
    assert voter.stands_after_ms() >= HEAD_MS


def test_who_is_named_and_stops_does_not_stand() -> None:
    voter = Voter(B)
    voter.election.stop(at(voter.ms))
    voter.sent()
    assert voter.hear(B) == []
    assert voter.election.candidate.stage is Stage.IDLE


def test_a_release_of_a_lease_that_is_not_held_for_names_nobody() -> None:
    voter = Voter(B)
    voter.ms += 3000
    voter.election.tick(at(voter.ms))
    voter.sent()
    voter.election.receive(at(voter.ms), A, Release(Term(4), 7, 9, B))
    assert not any(isinstance(message, VoteRequest) for message in voter.sent())


def test_a_vote_for_the_heir_is_told_with_the_position_of_a_server_that_stays_down() -> None:
    """Its promise counts, and it cannot be sent ahead: it does not run."""
    office = released()
    office.receive(B, vote(5))
    replies = [message for _, message in office.sent if isinstance(message, VoteReply)]
    assert [reply.detached for reply in replies] == [False]
    office.look(
        PostgresObserved(
            data=DataState.PRESENT,
            process=ProcessState.STOPPED,
            system_id=1,
            data_id=DataId("a"),
            timeline=TimelineId(2),
            history=(HistoryStep(TimelineId(2), Lsn(0)),),
            position=WalPosition(TimelineId(2), Lsn((1 << 24) + 100)),
            detached_for=Term(5),
        )
    )
    (reply,) = [message for _, message in office.sent if isinstance(message, VoteReply)]
    assert (reply.detached, reply.can_lead) == (True, False)
    assert reply.position is not None
