"""What the demo concludes from rows, times and events."""

import json

import pytest

from metako.demo.client import ServerError
from metako.demo.logs import LogEvent
from metako.demo.report import NO_PHASES, failure_report, final_report, outage, phases
from metako.demo.writer import Comparison, Outcome, Record, compare, longest_gap, outcome_of_error


def test_acknowledged_row_that_is_missing_is_lost():
    assert compare([1, 3], [1, 2, 3], []) == Comparison((2,), (), ())


def test_row_found_twice_is_duplicated():
    assert compare([1, 2, 2], [1, 2], []) == Comparison((), (2,), ())


def test_row_in_doubt_may_be_there_or_not():
    assert compare([1, 2], [1], [2]).right
    assert compare([1], [1], [2]).right


def test_row_whose_every_attempt_failed_must_not_be_there():
    assert compare([1, 9], [1], []).surplus == (9,)


@pytest.mark.parametrize(
    ("severity", "sqlstate", "outcome"),
    [
        ("ERROR", "25006", Outcome.FAILED),  # read-only transaction
        ("ERROR", "53300", Outcome.FAILED),
        ("ERROR", "08007", Outcome.UNKNOWN),  # commit in doubt
        ("ERROR", "40003", Outcome.UNKNOWN),
        ("FATAL", "57P01", Outcome.UNKNOWN),  # the proxy cut the session
        ("FATAL", "53300", Outcome.UNKNOWN),
        ("PANIC", "58030", Outcome.UNKNOWN),
    ],
)
def test_only_a_plain_error_is_a_certain_failure(severity, sqlstate, outcome):
    error = ServerError({"V": severity, "C": sqlstate, "M": "x"})
    assert outcome_of_error(error) is outcome


def test_gap_before_the_fault_is_not_the_outage():
    assert longest_gap([0.0, 5.0, 5.1, 6.0, 6.1], fault_s=5.05) == (5.1, 6.0)


def test_gap_that_contains_the_fault_counts_from_its_beginning():
    assert longest_gap([1.0, 1.5, 2.75, 3.0], fault_s=1.6) == (1.5, 2.75)


def test_without_a_write_after_the_fault_there_is_no_outage_to_tell():
    assert longest_gap([1.0, 1.5], fault_s=2.0) is None
    assert longest_gap([], fault_s=2.0) is None


def test_outage_ignores_the_start_of_the_run():
    record = Record(acknowledged={1: 10.0, 2: 13.0, 3: 13.1, 4: 14.0})
    assert outage(record, fault_s=13.05) == (13.1, 14.0)


def event(node: str, at: float, name: str) -> LogEvent:
    return LogEvent(node, at, name, "INFO", "")


EVENTS = [
    event("n2", 90.0, "election_won"),  # before the fault
    event("n3", 102.0, "hold_expired"),
    event("n2", 102.1, "hold_expired"),
    event("n3", 102.2, "candidacy_started"),
    event("n2", 102.5, "election_won"),
    event("n2", 102.75, "promoted"),
    event("n2", 102.9, "primary_active"),
    event("n1", 103.0, "route_changed"),
    event("n2", 200.0, "election_won"),  # a later one
]


def test_phases_follow_each_other_without_a_hole():
    result = phases(EVENTS, fault_s=100.0, new_primary="n2", first_write_s=103.25)
    assert result.detect_s == 2.0
    assert result.vote_s == 0.5
    assert result.promote_s == 0.25
    assert result.reroute_s == 0.5


def test_detection_without_hold_or_release_is_the_first_candidacy():
    events = [e for e in EVENTS if e.name != "hold_expired"]
    result = phases(events, fault_s=100.0, new_primary="n2", first_write_s=None)
    assert result.detect_s == pytest.approx(2.2)
    assert result.reroute_s is None


def test_phase_without_events_is_none_and_not_zero():
    assert phases([], fault_s=100.0, new_primary="n2", first_write_s=101.0) == NO_PHASES


def result_of(comparison: Comparison | None, *, recovered: bool = True):
    return final_report(
        fault="kill-host",
        record=Record(acknowledged={1: 0.0}, unknown={2: 0.0}, errors=3),
        comparison=comparison,
        old_primary="n1",
        new_primary="n2" if recovered else None,
        timeline=2,
        outage_s=1.23456 if recovered else None,
        rejoined=True,
        total_s=20.0,
        measured=NO_PHASES,
    )


def test_run_is_ok_only_if_recovered_and_nothing_lost_or_duplicated():
    assert result_of(Comparison((), (), ())).ok
    assert not result_of(Comparison((1,), (), ())).ok
    assert not result_of(Comparison((), (1,), ())).ok
    assert not result_of(Comparison((), (), ()), recovered=False).ok


def test_table_that_cannot_be_read_is_not_called_lost_rows():
    report = result_of(None)
    assert not report.ok
    assert report.lost == 0
    assert report.error


def test_json_has_the_promised_keys():
    text = json.dumps(result_of(Comparison((), (), ())).as_json())
    raw = json.loads(text)
    assert set(raw) >= {
        "fault",
        *["outage_s", "acknowledged", "lost", "duplicated", "errors", "unknown"],
        *["new_primary", "old_primary", "timeline", "phases", "ok"],
    }
    assert set(raw["phases"]) == {"detect_s", "vote_s", "promote_s", "reroute_s"}
    assert raw["outage_s"] == 1.235
    assert "\n" not in text


def test_broken_run_has_the_same_keys_as_a_good_one():
    broken = failure_report("kill-host", "no primary", total_s=1.0)
    assert set(broken.as_json()) == set(result_of(Comparison((), (), ())).as_json())
    assert broken.ok is False
