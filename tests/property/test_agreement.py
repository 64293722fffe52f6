"""Agreement under random faults, and proof that the checkers notice when a rule is missing."""

from __future__ import annotations

import pytest
from planted import BUGS, Bug

from sim.first.checks import ViolationError
from sim.first.swarm import run

PLANTED_SEEDS_MAX = 2
"""A planted bug has to be caught within so many seeds; without it all of them pass."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_three_nodes_survive_random_faults(seed: int) -> None:
    assert run(seed).world.acked


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 102))
def test_five_nodes_with_two_acknowledgements_survive_random_faults(seed: int) -> None:
    assert run(seed, names="abcde", acks=2).world.acked


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 203))
def test_two_data_nodes_and_a_witness_survive_random_faults(seed: int) -> None:
    assert run(seed, names="abw", witnesses="w").world.acked


@pytest.mark.slow
def test_same_seed_is_the_same_run() -> None:
    first, second = (run(7, steps=8).world for _ in range(2))
    assert first.log() == second.log()
    assert first.acked == second.acked
    assert run(8, steps=8).world.log() != first.log()


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_scenario_of_a_planted_bug_passes_without_it(bug: Bug) -> None:
    for seed in range(PLANTED_SEEDS_MAX):
        world = bug.prepare(seed)
        bug.play(world)
        assert world.acked


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(caught(bug, seed, monkeypatch) for seed in range(PLANTED_SEEDS_MAX))


def caught(bug: Bug, seed: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    world = bug.prepare(seed)
    with monkeypatch.context() as patch:
        bug.plant(patch)
        try:
            bug.play(world)
        except ViolationError:
            return True
    return False
