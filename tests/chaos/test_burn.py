"""The burn without a cluster: what is played, and when nobody was deposed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.burn import ELECTIONS, BurnOutcome, Lateness, _scenario, _while_busy
from chaos.matrix.look import Gap
from chaos.round import RoundResult
from chaos.verdict import Verdict
from metako.demo.view import read_view
from metako.model.events import EventName
from sim.heap import NS_PER_S

BEFORE = replace(read_view({"node": "n1", "term": 3}), timeline=2)
ROUND = RoundResult("cores-saturated", 1, ("burn",), 0.0)
VERDICT = Verdict(Path("/x"), (ROUND,), "", {"ok": True})


def outcome(**changes):
    lateness = Lateness(2000, 1200, {"n2": 1400, "n3": 900}, 50)
    given = BurnOutcome(VERDICT, BEFORE, BEFORE, 600.0, 4, lateness, Gap(1.0, 1.5, 0.0), {})
    return replace(given, **changes)


def test_events_of_an_election_are_events_that_there_are():
    assert set(ELECTIONS) <= set(map(str, EventName))


def test_it_burns_for_as_long_as_it_was_told_to():
    found = _scenario(minutes=10, per_core=3)
    (step,) = found.timeline
    assert dict(step.args)["for"] == 600 * NS_PER_S
    assert dict(step.args)["per_core"] == 3
    assert found.duration_ns > step.when.high_ns + 600 * NS_PER_S


def test_a_primary_that_stays_is_what_is_wanted():
    assert outcome().ok
    assert outcome(events={"member_suspect": 2}).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"after": None},
        {"after": replace(BEFORE, node="n2")},
        {"after": replace(BEFORE, term=4)},
        {"after": replace(BEFORE, timeline=3)},
        {"events": {"hold_expired": 1}},
        {"verdict": replace(VERDICT, judged={"ok": False})},
    ],
)
def test_an_election_is_one_too_many(changes):
    assert not outcome(**changes).ok


def test_a_heartbeat_is_as_late_as_its_hold_has_run_down():
    found = json.loads(json.dumps(outcome().as_json()))
    assert found["heartbeat_ms"] == 1100
    assert found["outage_ms"] == 500
    assert any("1100 ms, of a hold of 2000" in line for line in outcome().lines())


def test_only_what_happens_while_the_cores_are_busy_counts(tmp_path):
    records = [
        {"t": 1.0, "e": "log", "n": "n1", "name": "election_won"},
        {"t": 2.0, "e": "phase", "name": "faults"},
        {"t": 3.0, "e": "log", "n": "n2", "name": "member_suspect"},
        {"t": 4.0, "e": "log", "n": "n2", "name": "hold_expired"},
        {"t": 4.5, "e": "log", "n": "n2", "name": "status"},
        {"t": 5.0, "e": "phase", "name": "peace"},
        {"t": 6.0, "e": "log", "n": "n2", "name": "hold_expired"},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "history.jsonl").write_text(text)
    assert _while_busy(tmp_path) == (3.0, {"member_suspect": 1, "hold_expired": 1})
