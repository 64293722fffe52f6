"""Which answers to a heartbeat change nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from metako.election.core import Core
from metako.election.leader import Leader
from metako.election.resuming import resumed
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.spare import take_spare
from metako.election.wants import GuardDeadline
from metako.model.document import ClusterDocument, Durability, Phase, SyncSet
from metako.model.durable import HardState
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.instant import Instant, seconds
from metako.model.lsn import Lsn
from metako.model.timeline import TimelineEntry
from metako.wire.messages import HeartbeatAck

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
NOW = Instant(seconds(100), seconds(500))
DOCUMENT = ClusterDocument(
    cluster_id="c",
    cluster_name="test",
    system_id=1,
    term=Term(4),
    version=9,
    primary=A,
    primary_data_id=DataId("d"),
    phase=Phase.ACTIVE,
    voters=(A, B, C),
    learners=(),
    witnesses=(),
    sync=SyncSet(),
    durability=Durability.QUORUM,
    timelines=(TimelineEntry(Term(4), TimelineId(2), TimelineId(1), Lsn(0), A, "", True),),
    hold_ms=2000,
)
HARD = HardState(A, 7, Term(4), A, Term(4), Term(0), 2000, DOCUMENT)


def leading() -> tuple[Leader, HeartbeatAck]:
    """Return a leader whose newest round both others have answered, and such an answer."""
    core = Core(
        ElectionSettings(), ClusterSettings("test", A, (A, B, C)), A, HARD, random.Random(1)
    )
    leader = resumed(core, NOW, GuardDeadline(Term(4), seconds(501)))
    assert leader is not None
    ack = HeartbeatAck(leader.term, HARD.boot_epoch, leader.lease.round, DOCUMENT.ref)
    for node in (B, C):
        leader.heard_ack(NOW, node, ack)
    return leader, ack


def test_second_answer_to_a_round_of_a_majority_is_spare_and_counted() -> None:
    leader, ack = leading()
    before = leader.lease.until_boot_ns
    assert take_spare(leader, HARD.boot_epoch, NOW, B, ack)
    assert leader.lease.until_boot_ns == before
    assert B in leader.lease.answered_since(ack.round)


@pytest.mark.parametrize(
    "change",
    [
        {"term": Term(3)},
        {"boot_epoch": 6},
        {"round": 99},  # not answered by a majority yet
        {"document_ref": DOCUMENT.ref._replace(version=10)},  # it has a newer document than known
    ],
)
def test_answer_that_may_change_something_is_not_spare(change: dict[str, object]) -> None:
    leader, ack = leading()
    assert not take_spare(leader, HARD.boot_epoch, NOW, B, replace(ack, **change))  # type: ignore[arg-type]


def test_answer_after_the_lease_has_ended_is_not_spare() -> None:
    leader, ack = leading()
    late = NOW.plus(seconds(60))
    assert leader.over(late) is not None
    assert not take_spare(leader, HARD.boot_epoch, late, B, ack)
    assert not take_spare(None, HARD.boot_epoch, NOW, B, ack)
