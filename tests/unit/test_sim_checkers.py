"""Every check of the simulator can fail, and none does while nothing is wrong."""

from __future__ import annotations

import pytest
from sim_forgeries import Forgery, commit_late
from sim_member_forgeries import FORGERIES

from metako.model.events import EventName
from metako.model.ids import TimelineId
from sim.checkers import CHECKS
from sim.play import play
from sim.scenario import load_scenario
from sim.settled import finish, happened, primary, settled
from sim.watch import ViolationError


@pytest.mark.parametrize(
    ("check", "forgery"), FORGERIES, ids=[forgery.__name__ for _, forgery in FORGERIES]
)
def test_untruth_is_noticed(check: str, forgery: Forgery) -> None:
    with pytest.raises(ViolationError) as caught:
        forgery()
    assert caught.value.check == check
    assert check in str(caught.value)


def test_every_check_was_seen_to_fail() -> None:
    assert {check for check, _ in FORGERIES} == set(CHECKS)


@pytest.mark.parametrize(
    ("names", "witnesses", "acks"),
    [
        ("abc", "", 1),
        pytest.param("abcde", "", 2, marks=pytest.mark.slow),
        ("abw", "w", 1),
        ("a", "", 1),
    ],
)
def test_calm_cluster_breaks_nothing(names: str, witnesses: str, acks: int) -> None:
    world = settled(names, witnesses=witnesses, acks=acks)
    old = primary(world)
    world.watch.phase("liveness")
    world.write_everywhere(25, per_second=4)
    assert finish(world) == old
    assert not happened(world, EventName.ELECTION_WON)


def test_a_document_may_be_committed_after_the_one_that_was_made_from_it() -> None:
    commit_late(settled(), reserved=TimelineId(5))


@pytest.mark.slow
def test_calm_scenario_breaks_nothing() -> None:
    result = play(load_scenario("calm"), 1)
    assert result.violation is None
    assert result.acknowledged > 0
    assert result.failovers == 0
