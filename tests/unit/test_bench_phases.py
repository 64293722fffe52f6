"""Where an outage went, from forged logs."""

import random

import pytest
from bench_kit import FAULT_S, crash_events, event

from benchmarks.phases import Course, Phase, durations, read_course


def read(events, until_s: float = 1.0) -> Course | None:
    return read_course(events, fault_s=FAULT_S, until_s=FAULT_S + until_s)


def in_ms(value: float | None) -> int | None:
    return None if value is None else round(value * 1000)


def phases_of(events, outage_s: float = 0.350) -> dict[str, int | None]:
    found = read(events)
    assert found is not None
    return {p.value: in_ms(v) for p, v in durations(found, outage_s=outage_s).phases.items()}


WHOLE = {
    "detect": 10,
    "pre-vote": 40,
    "vote": 100,
    "document": 10,
    "promote": 80,
    "activate": 60,
    "route": 1,
    "write": 49,
}


def test_phases_follow_each_other_and_add_up_to_the_outage():
    assert phases_of(crash_events()) == WHOLE
    found = read(crash_events())
    assert found is not None
    parts = durations(found, outage_s=0.350)
    assert sum(v for v in parts.phases.values() if v is not None) == pytest.approx(0.350)
    assert parts.remainder_s == pytest.approx(0.0)
    assert (found.successor, found.term, found.candidacies) == ("n3", 2, 1)


def test_order_in_which_the_logs_were_read_does_not_matter():
    events = crash_events()
    random.Random(7).shuffle(events)
    assert phases_of(events) == WHOLE


def test_phase_whose_end_is_not_in_the_logs_is_in_the_remainder_and_not_in_its_neighbour():
    events = [e for e in crash_events() if e.name != "document_committed"]
    found = read(events)
    assert found is not None
    parts = durations(found, outage_s=0.350)
    assert parts.phases[Phase.DOCUMENT] is None
    assert parts.phases[Phase.PROMOTE] is None
    assert in_ms(parts.phases[Phase.ACTIVATE]) == 60
    assert in_ms(parts.remainder_s) == 90


def test_milestone_that_was_logged_late_counts_from_the_one_that_followed_from_it():
    events = [e for e in crash_events() if e.name != "primary_active"]
    events.append(event("n3", 0.309, "primary_active", term=2, timeline=3))
    assert phases_of(events) == {**WHOLE, "activate": 61, "route": 0}
    parts = phases_of(events, outage_s=0.299)
    assert (parts["activate"], parts["route"], parts["write"]) == (59, 0, 0)


def test_milestone_that_was_logged_far_too_late_is_none_and_its_time_is_the_remainder():
    events = [e for e in crash_events() if e.name != "election_won"]
    events.append(event("n3", 0.230, "election_won", term=2, votes="n1, n3"))
    found = read(events)
    assert found is not None
    parts = durations(found, outage_s=0.350)
    assert parts.phases[Phase.VOTE] is None
    assert parts.phases[Phase.DOCUMENT] is None
    assert in_ms(parts.phases[Phase.PROMOTE]) == 80
    assert in_ms(parts.remainder_s) == 110


def test_event_that_looks_a_little_older_than_the_fault_is_at_the_fault():
    events = [e for e in crash_events() if e.name != "postgres_crashed"]
    events.append(event("n1", -0.0005, "postgres_crashed", role="primary"))
    assert (phases_of(events)["detect"], phases_of(events)["pre-vote"]) == (0, 50)


def test_client_served_long_before_the_cluster_says_so_leaves_a_remainder():
    found = read(crash_events())
    assert found is not None
    parts = durations(found, outage_s=0.180)
    assert in_ms(parts.phases[Phase.DOCUMENT]) == 10
    assert parts.phases[Phase.PROMOTE] is None
    assert parts.phases[Phase.WRITE] is None
    assert in_ms(parts.remainder_s) == 20


def test_hold_that_expires_is_a_detection_and_a_crashed_standby_is_none():
    events = [e for e in crash_events() if e.name not in ("postgres_crashed", "release_heard")]
    events.append(event("n2", 0.005, "postgres_crashed", role="standby"))
    events.append(event("n2", 0.030, "hold_expired", leader="n1"))
    assert phases_of(events)["detect"] == 30


def test_election_that_had_to_be_repeated_is_in_the_pre_vote():
    events = crash_events()
    again = [
        event("n2", 0.020, "candidacy_started", term=2),
        event("n2", 0.040, "candidacy_lost", term=2),
    ]
    found = read(events + again)
    assert found is not None
    assert found.candidacies == 2
    assert phases_of(events + again) == WHOLE


def test_details_tell_the_last_promise_that_was_needed_and_the_steps_to_the_admission():
    found = read(crash_events())
    assert found is not None
    assert {name: in_ms(value) for name, value in found.details.items()} == {
        "vote: until the last promise kept before it was won": 60,
        "promote: until the settings are in place": 30,
        "activate: until the marker is acknowledged": 30,
        "activate: second document": 20,
        "activate: admission of clients": 10,
    }


def test_without_a_new_primary_there_is_no_course():
    assert read([e for e in crash_events() if e.name != "primary_active"]) is None
    assert read(crash_events(), until_s=0.2) is None
