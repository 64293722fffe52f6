"""Simulated clocks: continuous, monotonic, and exact on the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.model.instant import Instant
from sim.clock import NEVER, NodeClock

S = 1_000_000_000

changes = st.lists(
    st.tuples(
        st.integers(0, 10 * S),
        st.one_of(
            st.tuples(st.just("rate"), st.integers(-500_000, 500_000)),
            st.tuples(st.just("suspend"), st.booleans()),
            st.tuples(st.just("resume"), st.none()),
        ),
    ),
    max_size=12,
)


def change(clock, now, what, value):
    if what == "rate":
        clock.set_rate(now, value)
    elif what == "suspend" and not clock.suspended:
        clock.suspend(now, hidden=value)
    elif what == "resume":
        clock.resume(now)


@given(changes, st.integers(0, 10**15))
def test_no_change_moves_a_clock_and_none_goes_back(steps, origin):
    clock = NodeClock(origin_ns=origin)
    now, last = 0, clock.instant(0)
    for delay, (what, value) in steps:
        for each in (now + delay // 3, now + delay):
            shown = clock.instant(each)
            assert shown.mono_ns >= last.mono_ns
            assert shown.boot_ns >= last.boot_ns
            last = shown
        now += delay
        change(clock, now, what, value)
        assert clock.instant(now) == last


@given(changes, st.integers(0, 100 * S), st.integers(0, 10 * S))
def test_the_way_back_gives_the_first_nanosecond_that_shows_it(steps, ahead, later):
    clock = NodeClock(origin_ns=S, asleep_ns=5)
    now = 0
    for delay, (what, value) in steps:
        now += delay
        change(clock, now, what, value)
    now += later

    def mono(true_ns):
        return clock.instant(true_ns).mono_ns

    def boot(true_ns):
        return clock.instant(true_ns).boot_ns

    for shows, back in ((mono, clock.true_at_mono), (boot, clock.true_at_boot)):
        wanted = shows(now) + ahead
        true = back(wanted, now)
        if true == NEVER:
            assert shows(now + 1000 * S) == shows(now) < wanted
            continue
        assert shows(true) >= wanted
        assert true == now or shows(true - 1) < wanted


@given(st.integers(-500_000, 500_000), st.integers(0, 10**13), st.integers(-(10**10), 10**13))
def test_a_time_that_has_passed_is_now(ppm, now, wanted):
    clock = NodeClock(origin_ns=0)
    clock.set_rate(0, ppm)
    true = clock.true_at_mono(wanted, now)
    assert true >= now
    assert clock.instant(true).mono_ns >= wanted


def test_a_rate_is_counted_in_parts_per_million():
    clock = NodeClock(origin_ns=7, wall_ns=0)
    clock.set_rate(0, 500)
    shown = 1000 * S + S // 2 + 7
    assert clock.instant(1000 * S) == Instant(shown, shown, 1_000_500)


def test_a_suspend_stops_monotonic_and_not_boottime():
    clock = NodeClock(origin_ns=0)
    clock.suspend(10 * S)
    assert clock.instant(15 * S)[:2] == (10 * S, 15 * S)
    assert clock.true_at_mono(10 * S + 1, 15 * S) == NEVER
    assert clock.true_at_mono(10 * S, 15 * S) == 15 * S
    assert clock.true_at_boot(16 * S, 15 * S) == 16 * S
    clock.resume(15 * S)
    assert clock.instant(16 * S)[:2] == (11 * S, 16 * S)


def test_a_hidden_pause_stops_everything():
    clock = NodeClock(origin_ns=0, wall_ns=0)
    clock.suspend(10 * S, hidden=True)
    assert clock.instant(15 * S)[:2] == (10 * S, 10 * S)
    assert clock.wall_ms(15 * S) == 10_000
    assert clock.true_at_boot(10 * S + 1, 15 * S) == NEVER
    clock.resume(15 * S)
    assert clock.instant(16 * S)[:2] == (11 * S, 11 * S)


def test_a_jump_moves_wall_time_alone():
    clock = NodeClock(origin_ns=0, wall_ns=100 * S)
    before = clock.instant(S)
    clock.jump_wall(-30.5)
    assert clock.instant(S)[:2] == before[:2]
    assert clock.wall_ms(S) == 70_500


def test_a_reboot_begins_anew_and_keeps_wall_time():
    clock = NodeClock(origin_ns=50 * S, wall_ns=100 * S)
    clock.suspend(S)
    clock.reboot(2 * S, origin_ns=3)
    assert clock.instant(2 * S)[:2] == (3, 3)
    assert clock.wall_ms(2 * S) == 102_000


def test_what_was_before_the_last_change_cannot_be_asked():
    clock = NodeClock(origin_ns=0)
    clock.set_rate(10, 5)
    with pytest.raises(AssertionError):
        clock.instant(9)
    with pytest.raises(AssertionError):
        clock.true_at_mono(100, 9)
