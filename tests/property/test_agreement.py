"""Agreement under random faults, and proof that the checkers notice when a rule is missing."""

from __future__ import annotations

import pytest
from directed import DIRECTED

from metako.model.ids import NodeId
from sim.heap import NS_PER_S
from sim.mutations import planted
from sim.play import play
from sim.result import Result
from sim.scenario import Liveness, Scenario
from sim.scenario.model import Cluster, Conditions
from sim.watch import ViolationError

SEEDS_MAX = 2
"""A planted bug has to be caught within so many seeds; without it all of them pass."""


def random_faults(names: str, *, witnesses: str = "", acks: int = 1) -> Scenario:
    """Return a scenario that has no faults of its own: all of them are drawn."""
    cluster = Cluster(tuple(map(NodeId, names)), tuple(map(NodeId, witnesses)), acks)
    return Scenario(
        name=f"random-{names}",
        summary="Random faults.",
        cluster=cluster,
        random=Conditions(drift_ppm=500),
        liveness=Liveness(converge_within_ns=60 * NS_PER_S),
        duration_ns=20 * NS_PER_S,
    )


THREE = random_faults("abc")


def survives(scenario: Scenario, seed: int) -> Result:
    result = play(scenario, seed, extra_faults=True)
    assert result.violation is None, result
    assert result.faults
    return result


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_three_nodes_survive_random_faults(seed: int) -> None:
    assert survives(THREE, seed).acknowledged


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 103))
def test_five_nodes_with_two_acknowledgements_survive_random_faults(seed: int) -> None:
    assert survives(random_faults("abcde", acks=2), seed).acknowledged


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 203))
def test_two_data_nodes_and_a_witness_survive_random_faults(seed: int) -> None:
    assert survives(random_faults("abw", witnesses="w"), seed).acknowledged


@pytest.mark.slow
def test_same_seed_is_the_same_run() -> None:
    traces: list[list[str]] = [[], [], []]
    results = [
        play(THREE, seed, trace=trace.append, extra_faults=True)
        for seed, trace in zip((7, 7, 8), traces, strict=True)
    ]
    assert results[0] == results[1]
    assert traces[0] == traces[1]
    assert results[2].digest != results[0].digest
    assert traces[2] != traces[0]


@pytest.mark.slow
def test_a_run_is_the_same_whether_it_is_traced_or_not() -> None:
    assert play(THREE, 7, trace=lambda _: None, extra_faults=True) == survives(THREE, 7)


@pytest.mark.parametrize("bug", DIRECTED)
@pytest.mark.parametrize("seed", range(SEEDS_MAX))
def test_directed_scenario_passes_without_its_bug(bug: str, seed: int) -> None:
    scenario = DIRECTED[bug]
    world = scenario.prepare(seed)
    scenario.play(world)
    assert world.acked


@pytest.mark.parametrize("bug", DIRECTED)
def test_planted_bug_is_caught_as_what_it_is(bug: str) -> None:
    caught = [check for seed in range(SEEDS_MAX) if (check := caught_as(bug, seed))]
    assert caught
    assert set(caught) <= set(DIRECTED[bug].checks)


def caught_as(bug: str, seed: int) -> str:
    """Return the check that a planted bug fails, "" if none does."""
    scenario = DIRECTED[bug]
    world = scenario.prepare(seed)
    with planted(bug):
        try:
            scenario.play(world)
        except ViolationError as error:
            return error.check
    return ""
