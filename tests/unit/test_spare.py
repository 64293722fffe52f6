"""Which answers to a heartbeat change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from resuming_kit import ALIVE, DOCUMENT, HARD, NOW, B, C, core_of

from metako.election.leader import Leader
from metako.election.resuming import resumed
from metako.election.spare import take_spare
from metako.model.ids import NodeId, Term
from metako.model.instant import seconds
from metako.wire.messages import HeartbeatAck


def leading() -> tuple[Leader, HeartbeatAck]:
    """Return a leader whose newest round both others have answered, and such an answer."""
    leader = resumed(core_of(HARD), NOW, ALIVE)
    assert leader is not None
    ack = HeartbeatAck(leader.term, HARD.boot_epoch, leader.lease.round, DOCUMENT.ref)
    for node in (B, C):
        leader.heard_ack(NOW, node, ack)
    return leader, ack


def test_second_answer_to_a_round_of_a_majority_is_spare_and_counted() -> None:
    leader, ack = leading()
    before = leader.lease.until_boot_ns
    assert take_spare(leader, HARD, NOW, B, ack)
    assert leader.lease.until_boot_ns == before
    assert B in leader.lease.answered_since(ack.round)


@pytest.mark.parametrize(
    "change",
    [
        {"term": Term(3)},
        {"boot_epoch": 6},
        {"document_ref": DOCUMENT.ref._replace(version=10)},  # it has a newer document than known
    ],
)
def test_answer_that_may_change_something_is_not_spare(change: dict[str, object]) -> None:
    leader, ack = leading()
    assert not take_spare(leader, HARD, NOW, B, replace(ack, **change))  # type: ignore[arg-type]


def test_answer_that_makes_a_majority_is_not_spare() -> None:
    leader, ack = leading()
    newest = replace(ack, round=leader.lease.begin_round(NOW))
    assert not take_spare(leader, HARD, NOW, B, newest)
    assert B not in leader.lease.answered_since(newest.round)


def test_answer_that_does_not_make_a_majority_yet_is_spare_and_counted() -> None:
    leader, ack = leading()
    others = (NodeId("d"), NodeId("e"))
    leader.committed = replace(DOCUMENT, voters=(*DOCUMENT.voters, *others))
    newest = replace(ack, round=leader.lease.begin_round(NOW))
    assert take_spare(leader, HARD, NOW, B, newest)
    assert B in leader.lease.answered_since(newest.round)
    assert not take_spare(leader, HARD, NOW, C, newest)


def test_answer_after_the_lease_has_ended_is_not_spare() -> None:
    leader, ack = leading()
    late = NOW.plus(seconds(60))
    assert leader.over(late) is not None
    assert not take_spare(leader, HARD, late, B, ack)
    assert not take_spare(None, HARD, NOW, B, ack)
