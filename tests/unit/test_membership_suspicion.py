"""Suspicion, health score and pause: the three clocks that protect the healthy."""

from __future__ import annotations

import math

import pytest

from metako.membership import MembershipConfig
from metako.membership.awareness import Awareness
from metako.membership.pause import PauseDetector
from metako.membership.suspicion import (
    Suspicion,
    SuspicionWindow,
    suspicion_timeout,
    window_for,
)
from metako.model.ids import NodeId
from metako.model.instant import Instant, milliseconds

A, B, C, D, E = (NodeId(name) for name in "abcde")
WINDOW = SuspicionWindow(floor_ns=1000, ceiling_ns=6000, expected=3)


def test_wait_begins_at_the_ceiling_and_ends_at_the_floor() -> None:
    assert suspicion_timeout(0, WINDOW) == 6000
    assert suspicion_timeout(3, WINDOW) == 1000


def test_wait_follows_the_formula_of_lifeguard() -> None:
    expected = 6000 - 5000 * math.log(1 + 1) / math.log(3 + 1)
    assert suspicion_timeout(1, WINDOW) == round(expected)


def test_wait_never_falls_below_the_floor() -> None:
    assert suspicion_timeout(50, WINDOW) == 1000


@pytest.mark.parametrize("confirmations", range(3))
def test_each_confirmation_shortens_the_wait(confirmations: int) -> None:
    shorter = suspicion_timeout(confirmations + 1, WINDOW)
    assert shorter < suspicion_timeout(confirmations, WINDOW)


def test_wait_without_possible_confirmers_is_the_floor() -> None:
    assert suspicion_timeout(0, SuspicionWindow(1000, 6000, 0)) == 1000


def test_window_of_a_large_cluster_is_that_of_memberlist() -> None:
    # Reference §1: a = 4, b = 6, n = 128, interval 1 s: 8.43 s and 50.6 s.
    config = MembershipConfig(
        probe_interval_ms=1000, probe_timeout_ms=500, suspicion_mult=4, suspicion_max_mult=6
    )
    window = window_for(config, 128)
    assert window.floor_ns == pytest.approx(8.43e9, rel=1e-3)
    assert window.ceiling_ns == pytest.approx(50.6e9, rel=1e-3)
    assert window.expected == 2


def test_floor_grows_with_every_member_from_three_on() -> None:
    floors = [window_for(MembershipConfig(), n).floor_ns for n in range(3, 200)]
    assert floors == sorted(set(floors))


def test_pair_waits_between_floor_and_ceiling_because_nobody_can_confirm() -> None:
    config = MembershipConfig()
    window = window_for(config, 2)
    floor = config.suspicion_mult * math.log(3) / math.log(11) * config.probe_interval_ms
    assert window.expected == 0
    assert window.floor_ns == window.ceiling_ns
    assert milliseconds(floor) < window.floor_ns < milliseconds(4 * floor)


def test_expected_confirmations_never_exceed_those_who_could_confirm() -> None:
    config = MembershipConfig(suspicion_mult=7)
    assert [window_for(config, n).expected for n in (2, 3, 4, 7, 9)] == [0, 1, 2, 5, 5]


def test_accuser_counts_once_and_the_first_is_no_confirmation() -> None:
    suspicion = Suspicion(now_ns=0, window=WINDOW, accuser=A)
    assert not suspicion.confirm(A)
    assert suspicion.confirmations == 0
    assert suspicion.confirm(B)
    assert not suspicion.confirm(B)
    assert suspicion.confirmations == 1


def test_only_the_first_k_confirmations_are_passed_on() -> None:
    suspicion = Suspicion(now_ns=0, window=WINDOW, accuser=A)
    others = [NodeId(f"x{i}") for i in range(10)]
    assert [suspicion.confirm(node) for node in others] == [True] * 3 + [False] * 7
    assert suspicion.deadline_ns == 1000


def test_word_from_the_suspect_restarts_the_wait() -> None:
    suspicion = Suspicion(now_ns=0, window=WINDOW, accuser=A)
    suspicion.heard(500)
    assert suspicion.deadline_ns == 6500
    suspicion.heard(200)
    assert suspicion.deadline_ns == 6500


def test_condemned_suspect_has_the_floor_and_not_less() -> None:
    suspicion = Suspicion(now_ns=100, window=WINDOW, accuser=A)
    suspicion.condemn()
    assert suspicion.deadline_ns == 1100


def test_pause_of_the_observer_is_given_back() -> None:
    suspicion = Suspicion(now_ns=0, window=WINDOW, accuser=A)
    suspicion.postpone(10_000)
    assert suspicion.deadline_ns == 16_000


def test_score_stays_within_its_limits() -> None:
    awareness = Awareness(limit=8)
    awareness.probe_succeeded()
    assert awareness.score == 0
    for _ in range(20):
        awareness.refuted()
    assert awareness.score == 7
    assert awareness.scale(100) == 800


def test_missing_nacks_count_and_received_ones_do_not() -> None:
    awareness = Awareness(limit=8)
    awareness.probe_failed(nacks_expected=3, nacks_received=3)
    assert awareness.score == 0
    awareness.probe_failed(nacks_expected=3, nacks_received=1)
    assert awareness.score == 2


def test_failure_without_any_relay_counts_once() -> None:
    awareness = Awareness(limit=8)
    awareness.probe_failed(nacks_expected=0, nacks_received=0)
    assert awareness.score == 1


def test_success_lowers_the_score_by_one() -> None:
    awareness = Awareness(limit=8)
    awareness.probe_failed(nacks_expected=3, nacks_received=0)
    awareness.probe_succeeded()
    assert awareness.score == 2


def test_call_on_time_is_no_pause() -> None:
    pause = PauseDetector(threshold_ns=100)
    assert pause.notice(Instant(0, 0)) is None
    pause.due_ns = 1000
    assert pause.notice(Instant(900, 900)) is None
    assert pause.notice(Instant(1100, 1100)) is None


def test_late_call_is_a_pause_of_that_length() -> None:
    pause = PauseDetector(threshold_ns=100)
    pause.notice(Instant(0, 0))
    pause.due_ns = 1000
    assert pause.notice(Instant(1500, 1500)) == 500


def test_suspend_is_a_pause_although_nothing_is_late() -> None:
    pause = PauseDetector(threshold_ns=100)
    pause.notice(Instant(0, 7))
    pause.due_ns = 1000
    assert pause.notice(Instant(500, 50_507)) == 0
    assert pause.notice(Instant(600, 50_607)) is None
