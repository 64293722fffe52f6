"""Whose commits do not return steps down for whoever proves that it could lead (R66)."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace

import pytest
from handover_kit import END, OF_THREE, Office, member, serving, standby
from resuming_kit import A, B, C, standby_at

from metako.election.election import Election
from metako.election.explain import blocked
from metako.election.proof import (
    ASK_AGAIN_S,
    BLOCKED_S,
    OFFICE_S,
    PROVED_S,
    ROUNDS_MAX,
    TURN_S,
)
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.model.document import ClusterDocument, Durability, Switchover
from metako.model.durable import HardState
from metako.model.events import EventName
from metako.model.ids import DataId, NodeId, RecordId, Term
from metako.model.instant import Instant, seconds
from metako.model.lsn import Lsn, RankedPosition
from metako.model.member import Member, ServerRole, ServerState
from metako.model.postgres import (
    Leading,
    Stopped,
)
from metako.wire.messages import Heartbeat, HeartbeatAck, PreVoteReply, PreVoteRequest, Refusal

STRICT = replace(OF_THREE, durability=Durability.STRICT)
AWAY = (standby(B, streaming=False), standby(C, streaming=False))
BLOCKED = replace(serving(AWAY), commit_blocked=True)
LONG_MS = 1000 * max(BLOCKED_S, OFFICE_S)

# ------------------------------------------------------------ the leader


def detached(node: NodeId, **changes: object) -> Member:
    known = member(node)
    assert known.meta is not None
    meta = replace(known.meta, role=ServerRole.STANDBY, state=ServerState.RUNNING, lsn=END)
    return replace(known, meta=replace(meta, **changes))  # type: ignore[arg-type]


def office(document: ClusterDocument = STRICT, *, others: Collection[Member] = ()) -> Office:
    """Return `a` in office for long, whose commits have just stopped to return."""
    office = Office(document, roster=detached)
    office.know(*others)
    office.run(1000 * OFFICE_S, step_ms=100)
    office.look(BLOCKED)
    return office


def long_blocked(**changes: object) -> Office:
    """Return such a one after so long that it asks."""
    found = office(**changes)  # type: ignore[arg-type]
    found.run(1000 * BLOCKED_S + 300, step_ms=100)
    return found


def heir(office: Office) -> NodeId | None:
    return office.leader.handover.blocked.heir


def proves(office: Office, node: NodeId, *, round_: int | None = None) -> None:
    newest = office.leader.lease.round if round_ is None else round_
    ref = office.document.ref
    office.receive(node, HeartbeatAck(Term(4), 7, newest, ref, proven=True))


def test_it_names_the_one_with_most_wal_and_steps_down_when_that_has_proved_it() -> None:
    found = long_blocked(others=[detached(C, lsn=Lsn(END + 1))])
    assert heir(found) == C
    found.run(250)
    assert {beat.heir for beat in found.beats()} <= {C}
    for _ in range(round(PROVED_S / 0.25) - 1):
        assert isinstance(found.target, Leading)
        proves(found, C)
        found.run(250)
    proves(found, C)
    found.run(500)
    assert found.target == Stopped(fast=False)
    found.gone()
    assert [release.successor for release in found.released] == [C]


def test_nobody_is_asked_before_commits_have_been_blocked_for_long() -> None:
    found = office()
    found.run(1000 * BLOCKED_S - 1000, step_ms=100)
    assert heir(found) is None
    found.look(serving(AWAY))
    found.run(1000, step_ms=100)
    found.look(BLOCKED)
    found.run(1000 * BLOCKED_S - 1000, step_ms=100)
    assert heir(found) is None
    found.run(2000, step_ms=100)
    assert heir(found) is not None


def test_nobody_is_asked_by_a_leader_that_is_new_in_office() -> None:
    found = Office(STRICT, roster=detached)
    found.look(BLOCKED)
    found.run(1000 * OFFICE_S - 1000, step_ms=100)
    assert heir(found) is None
    found.run(2000, step_ms=100)
    assert heir(found) is not None


def test_without_a_proof_it_leads_on_and_asks_one_after_the_other() -> None:
    found = long_blocked()
    named = set()
    for _ in range(4):
        named.add(heir(found))
        found.run(1000 * TURN_S, step_ms=100)
    assert named == {B, C}
    assert isinstance(found.target, Leading)


def proved_for(office: Office, seconds_: float, node: NodeId | None, *, behind: int = 0) -> None:
    """Have a node prove it at every round for a while; None for whoever is named."""
    for _ in range(round(seconds_ / 0.25)):
        named = node or heir(office)
        if named is None or office.election.leader is None:
            return
        proves(office, named, round_=office.leader.lease.round - behind)
        office.run(250)


def test_a_proof_counts_for_who_was_named() -> None:
    found = long_blocked(others=[detached(C, lsn=Lsn(END + 1))])
    found.know(detached(B, priority=0))
    proved_for(found, 2 * PROVED_S, B)
    assert isinstance(found.target, Leading)
    proved_for(found, 2 * PROVED_S, C)
    assert found.target == Stopped(fast=False)


def test_a_proof_for_an_earlier_agent_does_not_count() -> None:
    found = long_blocked()
    for _ in range(round(2 * PROVED_S / 0.25)):
        named = heir(found)
        assert named is not None
        far = found.leader.lease.round + 100
        found.receive(named, HeartbeatAck(Term(4), 6, far, found.document.ref, proven=True))
        found.run(250)
    assert isinstance(found.target, Leading)


def test_a_proof_of_former_rounds_does_not_count() -> None:
    found = long_blocked()
    proved_for(found, 3 * PROVED_S, None, behind=ROUNDS_MAX + 1)
    assert isinstance(found.target, Leading)


def test_a_proof_has_to_hold_for_a_while() -> None:
    """Standbys that come back answer before they stream."""
    found = long_blocked()
    proved_for(found, PROVED_S - 1, None)
    assert isinstance(found.target, Leading)
    found.run(2000)
    proved_for(found, PROVED_S - 1, None)
    assert isinstance(found.target, Leading)
    found.look(serving())
    proved_for(found, PROVED_S, None)
    assert isinstance(found.target, Leading)


def test_a_standby_that_streams_and_is_slow_deposes_nobody() -> None:
    slow = replace(standby(B), behind=True)
    found = office()
    found.look(replace(BLOCKED, standbys=(slow, AWAY[1])))
    found.run(LONG_MS, step_ms=100)
    assert heir(found) is None
    assert "too slow are the standbys b" in blocked(found.election, found.now)
    told = found.told(EventName.COMMITS_BLOCKED)
    assert told
    assert told[-1]["heir"] is None


def test_nor_does_one_that_thinks_that_it_streams() -> None:
    found = long_blocked(others=[detached(B, state=ServerState.STREAMING)])
    assert heir(found) is None
    assert "too slow are the standbys b" in blocked(found.election, found.now)


def test_if_standbys_have_all_that_is_on_its_disk_the_disk_is_what_hangs() -> None:
    streams = [detached(node, state=ServerState.STREAMING) for node in (B, C)]
    found = office(others=streams)
    found.look(replace(BLOCKED, standbys=(standby(B), standby(C))))
    found.run(LONG_MS, step_ms=100)
    assert heir(found) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"priority": 0},
        {"role": ServerRole.UNKNOWN},
        {"data_id": DataId("other")},
    ],
)
def test_it_asks_nobody_who_could_not_lead(changes: dict[str, object]) -> None:
    found = long_blocked(others=[detached(node, **changes) for node in (B, C)])
    assert heir(found) is None
    assert blocked(found.election, found.now) == "no other node could lead"


@pytest.mark.parametrize(
    "document",
    [
        replace(STRICT, paused=True),
        replace(STRICT, switchover=Switchover("o", B, 10**9)),
    ],
)
def test_it_asks_nobody_while_an_operator_decides(document: ClusterDocument) -> None:
    found = long_blocked(document=document)
    assert heir(found) is None


# ------------------------------------------------------------ the heir, and the voters

POSITION = RankedPosition(Term(4), Lsn(500))


class Heir:
    """`b`, which holds for `a` in a cluster of three, or `c`, which does as well."""

    def __init__(self, node: NodeId = B, document: ClusterDocument = STRICT) -> None:
        self.second = 100.0
        hard = HardState(node, 7, Term(4), A, Term(4), Term(0), 0, document, False, RecordId(""))
        self.election = Election(
            settings=ElectionSettings(),
            cluster=ClusterSettings("t", A, (A, B, C)),
            hard=hard,
            rng=random.Random(1),
            now=self.now,
        )
        self.election.observe(self.now, standby_at(node, 500, 4))
        self.round = 0

    @property
    def now(self) -> Instant:
        return Instant(seconds(self.second), seconds(self.second))

    def beat(self, heir: NodeId | None = B) -> list[object]:
        self.round += 1
        ref = self.election.core.document_ref
        beat = Heartbeat(Term(4), 7, self.round, 2000, ref, True, True, heir)
        return self.receive(A, beat)

    def receive(self, sender: NodeId, message: object) -> list[object]:
        self.election.receive(self.now, sender, message)  # type: ignore[arg-type]
        return [m for _, m in self.election.output(self.now).outbound]

    def asked(self) -> PreVoteRequest:
        (found,) = [m for m in self.beat() if isinstance(m, PreVoteRequest)]
        return found

    def answer(self, asked: PreVoteRequest, **changes: object) -> bool:
        """Have `c` answer; return whether `b` then tells that it has proved it."""
        reply = PreVoteReply(
            *(asked.term, asked.nonce, True, None, Term(4), self.election.core.document_ref),
            data_id=DataId("c"),
            position=POSITION,
        )
        reply = replace(reply, **changes)  # type: ignore[arg-type]
        sent = self.receive(C, reply)
        return any(isinstance(m, HeartbeatAck) and m.proven for m in sent)


def test_who_is_named_asks_once_a_second_and_tells_what_it_has_proved_at_each_round() -> None:
    heir = Heir()
    asked = heir.asked()
    assert asked.sounding
    assert heir.answer(asked)
    heir.second += 0.25
    acks = [m for m in heir.beat() if isinstance(m, HeartbeatAck) and m.proven]
    assert [ack.round for ack in acks] == [heir.round]
    heir.second += ASK_AGAIN_S
    again = heir.asked()
    assert again.nonce != asked.nonce
    assert not heir.answer(asked)
    assert heir.answer(again)


def test_who_is_not_named_any_more_proves_nothing() -> None:
    heir = Heir()
    asked = heir.asked()
    heir.beat(heir=C)
    assert not heir.answer(asked)
    assert not [m for m in heir.beat(heir=None) if isinstance(m, PreVoteRequest)]


@pytest.mark.parametrize(
    "changes",
    [
        {"granted": False, "refusal": Refusal.HOLD},
        {"position": None},
        {"position": RankedPosition(Term(4), Lsn(501))},  # it has a commit that we lack
        {"data_id": DataId("other")},
        {"document_ref": STRICT.ref._replace(version=STRICT.version - 1)},
        {"nonce": 1},
    ],
)
def test_both_quorums_have_to_be_there(changes: dict[str, object]) -> None:
    heir = Heir()
    assert not heir.answer(heir.asked(), **changes)


def test_in_strict_others_have_to_be_there_to_acknowledge() -> None:
    alone = replace(STRICT.sync, members=STRICT.sync.members[:1])
    for document, enough in (
        (STRICT, False),
        (replace(STRICT, durability=Durability.QUORUM), True),
    ):
        heir = Heir(document=replace(document, sync=alone))
        assert heir.answer(heir.asked(), position=None, data_id=DataId("")) is enough


def test_a_paused_cluster_proves_nothing() -> None:
    heir = Heir(document=replace(STRICT, paused=True))
    assert not [m for m in heir.beat() if isinstance(m, PreVoteRequest)]


@pytest.mark.parametrize(
    ("named", "sounding", "granted"),
    [(B, True, True), (B, False, False), (C, True, False), (None, True, False)],
)
def test_a_hold_opposes_all_but_the_sounding_of_whom_its_leader_has_named(
    named: NodeId | None, sounding: bool, granted: bool
) -> None:
    voter = Heir(C)
    voter.beat(heir=named)
    request = PreVoteRequest(
        Term(5), 1, voter.election.core.document_ref, POSITION, sounding=sounding
    )
    hard = voter.election.core.hard
    (reply,) = [m for m in voter.receive(B, request) if isinstance(m, PreVoteReply)]
    assert reply.granted is granted
    assert (reply.position == POSITION) is sounding
    assert voter.election.core.hard is hard
