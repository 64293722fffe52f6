"""PostgreSQL and the simulator's model of it, told to do the same, are seen to do the same.

By default one sequence of each plot; with METAKO_TEST_FULL=1 hundreds of seeds. A failure shows the
seed, the commands, and the first observable that differs. To look closer:

    .venv/bin/python tests/integration/differential SEED [--minimise] [--logs]
    .venv/bin/python tests/integration/differential FIRST..END [--slots]
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from differential.begin import open_programs
from differential.compare import Report
from differential.generate import PLOTS, generate
from differential.model import Model
from differential.pool import compare_all
from differential.programs import Programs
from differential.scenarios import SCENARIOS
from differential.slot_plots import SLOT_PLOTS
from differential.tracker import applicable
from differential.vocabulary import Command, Commit, CreateSlot, Rewind, UseSlot, parse, render

pytestmark = pytest.mark.integration

FULL = os.environ.get("METAKO_TEST_FULL", "") not in ("", "0")
SEEDS_FULL = 240
SLOT_SEEDS_FULL = 120
INTERESTING = {
    "CancelCommit: ok",
    "Clone: ok",
    "Commit: acknowledged",
    "Commit: not acknowledged",
    "Promote: reserved",
    "Rewind: done",
    "Rewind: failed",
    "Rewind: not required",
    "Stop: blocked",
    "commit lost",
    "commit refused 25006",
    "commit waiting",
    "commit warned",
}
"""What the seeds together have to bring about on the real servers."""
SLOTS_INTERESTING = {
    "Clone: ok",
    "CreateSlot: ok",
    "CreateSlot: refused 42710",
    "DropSlot: ok",
    "DropSlot: refused 42704",
    "DropSlot: refused 55006",
    "Rewind: done",
    "slot lost",
    "slot null",
    "slot reserved",
    "slot unreserved",
}
"""The same for those about slots."""


@pytest.fixture(scope="module")
def programs(test_bindir: str | None) -> Iterator[Programs]:
    with open_programs(test_bindir) as opened:
        yield opened


def failures(reports: list[Report]) -> str:
    failed = [report for report in reports if report.moment is not None]
    return "\n\n".join(f"{report}\n{report.logs}" for report in failed)


def test_one_sequence_of_each_plot_shows_no_unexplained_difference(programs):
    sequences = [(number, generate(number, plot)) for number, plot in enumerate(PLOTS)]
    reports = compare_all(programs, sequences)
    assert not failures(reports), failures(reports)
    assert sum(report.done for report in reports) > 5 * len(PLOTS)


def test_one_sequence_of_each_plot_about_slots_shows_no_unexplained_difference(programs):
    plots = enumerate(SLOT_PLOTS)
    sequences = [(number, generate(number, plot, slots=True)) for number, plot in plots]
    reports = compare_all(programs, sequences)
    assert not failures(reports), failures(reports)
    assert sum(report.done for report in reports) > 5 * len(SLOT_PLOTS)


def test_scenarios_show_no_unexplained_difference(programs):
    reports = compare_all(programs, enumerate(SCENARIOS.values()))
    assert not failures(reports), failures(reports)
    assert all(report.done == len(report.commands) for report in reports if not report.explained)


@pytest.mark.skipif(not FULL, reason="METAKO_TEST_FULL is not set")
def test_many_seeds_show_no_unexplained_difference(programs):
    reports = compare_all(programs, ((seed, generate(seed)) for seed in range(SEEDS_FULL)))
    assert not failures(reports), failures(reports)
    reached = set().union(*(report.reached for report in reports))
    assert sorted(INTERESTING - reached) == []
    complete = sum(report.done == len(report.commands) for report in reports)
    assert complete > 0.8 * SEEDS_FULL


@pytest.mark.skipif(not FULL, reason="METAKO_TEST_FULL is not set")
def test_many_seeds_about_slots_show_no_unexplained_difference(programs):
    seeds = range(SLOT_SEEDS_FULL)
    reports = compare_all(programs, ((seed, generate(seed, slots=True)) for seed in seeds))
    assert not failures(reports), failures(reports)
    reached = set().union(*(report.reached for report in reports))
    assert sorted(SLOTS_INTERESTING - reached) == []


def test_sequences_are_the_same_for_the_same_seed_and_survive_their_text():
    for seed in range(200):
        for slots in (False, True):
            commands = generate(seed, slots=slots)
            assert commands == generate(seed, slots=slots)
            assert parse(render(commands)) == commands
            assert applicable(commands) == commands


def about_slots(commands: tuple[Command, ...]) -> bool:
    return any(isinstance(command, CreateSlot | UseSlot) for command in commands)


def test_scenarios_about_slots_make_sense_where_they_stand():
    found = {name: each for name, each in SCENARIOS.items() if about_slots(each)}
    assert len(found) == 7
    for name, commands in found.items():
        assert applicable(commands) == commands, name


def test_slots_occur_in_every_sequence_about_them_and_in_no_other():
    for seed in range(100):
        assert about_slots(generate(seed, slots=True))
        assert not about_slots(generate(seed))


def test_commands_that_no_longer_apply_are_left_out():
    commands = parse("Rewind('a', 'b')\nCommit('a', 'k1', 'v1')\nCommit('a', 'k1', 'v1')")
    assert applicable(commands) == (Commit("a", "k1", "v1"),)
    assert not any(isinstance(command, Rewind) for command in applicable(commands))


def test_a_changed_model_is_noticed(programs, monkeypatch):
    def forgetful(self: Model, value: str, _how: str) -> str:
        return "ok" if value in self._waiting else "nothing to cancel"

    monkeypatch.setattr(Model, "_cancel", forgetful)
    commands = parse("SetSync('a', ('b',), 2)\nCommit('a', 'k1', 'v1')\nCancelCommit('v1')")
    (report,) = compare_all(programs, [(0, commands)])
    assert report.moment is not None
    assert report.moment.name == "commit v1"
    assert (report.moment.real, report.moment.model) == ("warned", "waiting")
    assert "-> CancelCommit" in str(report)
