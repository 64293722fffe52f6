"""A candidate that is behind whoever cannot lead gets what it lacks from there (R65)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from resuming_kit import OF_FIVE, VOTERS, A, B, C, D, E, standby_at

from metako.cluster.projection import server_state
from metako.election.catchup import CATCH_UP_MAX_S
from metako.election.election import Election
from metako.election.explain import blocked
from metako.election.output import Role
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.model.document import ClusterDocument
from metako.model.durable import HardState
from metako.model.events import EventName
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.instant import Instant, seconds
from metako.model.lsn import Lsn, RankedPosition
from metako.model.member import Member, MemberMeta, MemberState, ServerRole, ServerState
from metako.model.postgres import (
    CatchingUp,
    Detached,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
)
from metako.model.timeline import TimelineEntry
from metako.wire.messages import DocumentCopy, PreVoteReply, VoteReply, VoteRequest

TLI = TimelineId(2)
STEP_S = 0.05


def at(second: float) -> Instant:
    return Instant(seconds(second), seconds(second))


def attached(lsn: int) -> PostgresObserved:
    """Return the picture of `b`'s standby while it gets WAL from `c`."""
    gone = standby_at(B, lsn, 0)
    return replace(gone, receiver=ReceiverState.STREAMING, upstream=C, position=None)


def member(node: NodeId, **changes: object) -> Member:
    meta = MemberMeta(
        role=ServerRole.STANDBY,
        data_id=DataId(node),
        postgres_address=Address(f"{node}-host", 5432),
        priority=0 if node == C else 100,
    )
    meta = replace(meta, **changes)  # type: ignore[arg-type]  # names and types are the test's
    return Member(node, 1, 1, MemberState.ALIVE, Address(node, 7946), meta)


class Stage:
    """`b` stands in a cluster of five, in which `b` and `c` are the synchronous standbys of `a`."""

    def __init__(
        self, document: ClusterDocument = OF_FIVE, members: Sequence[Member] | None = None
    ) -> None:
        hard = HardState(B, 7, Term(4), A, Term(4), Term(0), 0, document)
        self.second = 100.0
        self.election = Election(
            settings=ElectionSettings(),
            cluster=ClusterSettings("t", A, VOTERS),
            hard=hard,
            rng=random.Random(1),
            now=self.now,
        )
        roster = members if members is not None else [member(node) for node in VOTERS]
        self.election.roster({m.node: m for m in roster}, None)
        self.target: PostgresTarget | None = None
        self.events: list[EventName] = []
        self.asked: list[VoteRequest] = []
        self.look(standby_at(B, 500, 4))
        while self.election.role is not Role.CANDIDATE:
            assert self.second < 110, "it does not stand"
            self.wait(STEP_S)
            for voter in (D, E):
                nonce, ref = self.election.candidate._nonce, self.election.core.document_ref
                term = self.election.candidate.term
                reply = PreVoteReply(term, nonce, True, None, Term(4), ref)
                self.election.receive(self.now, voter, reply)
        self.term = self.election.candidate.term
        self.take()
        self.look(standby_at(B, 500, self.term))

    @property
    def now(self) -> Instant:
        return at(self.second)

    def take(self) -> None:
        output = self.election.output(self.now)
        self.target = output.target
        self.events.extend(event.name for event in output.events)
        self.asked.extend(m for _, m in output.outbound if isinstance(m, VoteRequest))

    def wait(self, for_s: float) -> None:
        for _ in range(round(for_s / STEP_S)):
            self.second += STEP_S
            self.election.tick(self.now)
            self.take()

    def look(self, observed: PostgresObserved) -> None:
        self.election.observe(self.now, observed)
        self.take()

    def votes(self, voter: NodeId, lsn: int | None, **changes: object) -> None:
        reply = VoteReply(
            term=self.term,
            granted=True,
            refusal=None,
            promised=self.term,
            document_ref=self.election.core.document_ref,
            detached=lsn is not None,
            data_id=DataId(voter),
            position=None if lsn is None else RankedPosition(Term(4), Lsn(lsn)),
            can_lead=False,
            priority=100,
            max_tli=TLI,
        )
        reply = replace(reply, **changes)  # type: ignore[arg-type]  # as above
        self.election.receive(self.now, voter, reply)
        self.take()

    def catches_up(self) -> bool:
        return isinstance(self.target, CatchingUp)


@pytest.fixture
def stage() -> Stage:
    """Return `b` with the votes of a majority, behind `c`, which has priority 0."""
    stage = Stage()
    stage.votes(D, None)
    stage.votes(C, 600, priority=0)
    return stage


def test_it_streams_from_the_one_ahead_and_leads_once_it_has_what_that_has(stage: Stage) -> None:
    target = stage.target
    assert isinstance(target, CatchingUp)
    assert target.promise == stage.term
    source = target.source
    assert (source.node, source.address, source.tip) == (C, Address("c-host", 5432), TLI)
    stage.look(attached(500))
    stage.wait(0.2)
    stage.look(attached(600))
    assert isinstance(stage.target, Detached)
    assert stage.target.promise == stage.term
    assert stage.election.leader is None
    stage.look(standby_at(B, 600, stage.term))
    assert stage.election.leader is not None
    assert stage.events.count(EventName.CATCH_UP_STARTED) == 1
    assert stage.events.count(EventName.CAUGHT_UP) == 1


def test_who_catches_up_is_no_replica_to_read_from(stage: Stage) -> None:
    assert server_state(attached(500)) is ServerState.STREAMING
    assert server_state(replace(attached(500), under=stage.target)) is ServerState.RUNNING


def test_nothing_is_won_by_what_was_known_before_or_is_only_received(stage: Stage) -> None:
    # All that it lacks has come, and where its WAL ends on disk was not found again.
    stage.look(attached(600))
    stage.wait(0.3)
    assert stage.election.leader is None
    # It was found, and for an earlier promise: it may be from before.
    stage.look(standby_at(B, 600, stage.term - 1))
    stage.wait(0.1)
    assert stage.election.leader is None


def test_a_picture_from_before_it_was_attached_ends_nothing(stage: Stage) -> None:
    stage.look(standby_at(B, 700, stage.term))
    assert stage.catches_up()
    assert stage.election.leader is None


def test_what_is_on_disk_decides_and_not_what_was_received(stage: Stage) -> None:
    stage.look(attached(600))
    stage.look(standby_at(B, 550, stage.term))
    assert stage.catches_up()
    assert stage.election.leader is None
    assert stage.events.count(EventName.CATCH_UP_STARTED) == 2


@pytest.mark.parametrize(
    "promise",
    [
        {"can_lead": True},  # the candidacy goes to it
        {"detached": False, "position": None},
        {"data_id": DataId("other")},
        {"position": None},
        {"position": RankedPosition(Term(3), Lsn(600))},  # an older line: it is not ahead
    ],
)
def test_it_streams_from_nobody_that_has_not_kept_its_promise_with_the_listed_data(
    promise: dict[str, object],
) -> None:
    stage = Stage()
    stage.votes(D, None)
    stage.votes(C, 600, **promise)
    stage.wait(0.5)
    assert not stage.catches_up()
    assert EventName.CATCH_UP_STARTED not in stage.events


def test_without_the_votes_there_is_nothing_to_catch_up_for() -> None:
    stage = Stage()
    stage.votes(C, 600)
    assert not stage.catches_up()
    stage.votes(D, None)
    assert stage.catches_up()


def test_with_both_quorums_it_leads_although_somebody_is_ahead() -> None:
    document = replace(OF_FIVE, sync=replace(OF_FIVE.sync, members=OF_FIVE.sync.members[:1]))
    stage = Stage(document)
    stage.votes(D, None)
    stage.votes(C, 600)
    assert stage.election.leader is not None


def test_the_promise_of_the_old_primary_is_as_good() -> None:
    stage = Stage()
    stage.votes(D, None)
    stage.votes(E, None)
    stage.votes(A, 600)
    target = stage.target
    assert isinstance(target, CatchingUp)
    assert target.source.node == A


def test_it_streams_from_nobody_whose_history_is_not_its_own() -> None:
    """The other one is on a timeline that began before the end of the WAL here."""
    fork = TimelineEntry(Term(4), TimelineId(3), TLI, Lsn(450), C, confirmed=False)
    document = replace(OF_FIVE, timelines=(*OF_FIVE.timelines, replace(fork, term=Term(5))))
    stage = Stage(replace(document, term=Term(5)))
    stage.votes(D, None)
    stage.votes(C, 470, position=RankedPosition(Term(5), Lsn(470)))
    assert not stage.catches_up()
    stage.votes(C, 600, position=RankedPosition(Term(4), Lsn(600)))
    assert stage.catches_up()


@pytest.mark.parametrize(
    "changes",
    [
        {"role": ServerRole.UNKNOWN},  # its server is down
        {"role": ServerRole.PRIMARY},
        {"data_id": DataId("other")},
        {"postgres_address": None},
    ],
)
def test_it_waits_for_a_server_that_runs_as_a_standby(changes: dict[str, object]) -> None:
    stage = Stage(members=[member(n, **(changes if n == C else {})) for n in VOTERS])
    stage.votes(D, None)
    stage.votes(C, 600)
    assert isinstance(stage.target, Detached)
    assert stage.target.promise == stage.term
    stage.election.roster({n: member(n) for n in VOTERS}, None)
    stage.wait(0.1)
    assert stage.catches_up()


def test_it_gives_up_when_no_wal_comes(stage: Stage) -> None:
    timeout_s = ElectionSettings().candidacy_timeout_ms / 1000
    stage.look(attached(500))
    stage.wait(timeout_s - 0.3)
    assert stage.catches_up()
    assert "WAL that c has" in blocked(stage.election, stage.now)
    stage.wait(0.5)
    assert EventName.CANDIDACY_LOST in stage.events
    assert not stage.catches_up()


def test_it_goes_on_as_long_as_wal_comes_and_not_for_ever() -> None:
    stage = Stage()
    stage.votes(D, None)
    stage.votes(C, 10_000)
    lsn, begun = 500, stage.second
    while EventName.CANDIDACY_LOST not in stage.events:
        assert stage.second - begun < CATCH_UP_MAX_S + 1
        stage.wait(1.0)
        lsn += 1
        stage.look(attached(lsn))
    assert stage.second - begun > CATCH_UP_MAX_S - 1


@pytest.mark.parametrize(
    "observed",
    [
        replace(standby_at(B, 500, 4), process=ProcessState.STOPPED, in_recovery=None),
        replace(
            standby_at(B, 500, 4), process=ProcessState.STARTING, in_recovery=None, position=None
        ),
    ],
)
def test_it_ends_with_its_own_server(stage: Stage, observed: PostgresObserved) -> None:
    stage.look(observed)
    assert EventName.CANDIDACY_LOST in stage.events
    assert isinstance(stage.target, Detached)


def test_another_document_ends_it_because_others_may_be_needed(stage: Stage) -> None:
    newer = replace(OF_FIVE, version=OF_FIVE.version + 1)
    stage.election.receive(stage.now, E, DocumentCopy(newer))
    stage.take()
    assert EventName.CANDIDACY_LOST in stage.events
    assert isinstance(stage.target, Detached)


def test_a_vote_for_somebody_else_ends_it(stage: Stage) -> None:
    term = Term(stage.term + 3)
    stage.election.receive(stage.now, E, VoteRequest(term, stage.election.core.document_ref))
    stage.take()
    assert isinstance(stage.target, Detached)
    assert stage.target.promise == term
