"""When the watchdog is kept alive: never beyond the lease, and not much earlier either."""

from hypothesis import given
from hypothesis import strategies as st

from metako.guard.watchdog import (
    DELAY_NS,
    LAST_CALL_NS,
    NS_PER_MS,
    NS_PER_S,
    Leash,
    Wish,
    reset_after_ns,
    wish_of,
)

TICK_NS = 50 * NS_PER_MS


def ms(number):
    return round(number * NS_PER_MS)


def turn(leash, now_ns):
    """Do what the guard does at a turn; return whether it was kept alive."""
    if not leash.is_due(now_ns):
        return False
    leash.kept(now_ns)
    return True


def test_reset_by_the_slowest_clock_ends_inside_the_lease():
    leash = Leash(1)
    leash.renew(ms(1960))
    last_ns = leash.last_call_ns()
    assert last_ns + NS_PER_S * 101 // 100 + DELAY_NS == ms(1960)
    assert leash.allows(last_ns)
    assert not leash.allows(last_ns + 1)


def test_without_a_renewal_nothing_is_allowed():
    leash = Leash(1)
    assert not leash.allows(0)
    assert not leash.is_due(0)
    assert leash.wakeup_boot_ns(0) is None
    leash.renew(ms(1960))
    leash.started(0)
    leash.stopped()
    assert not leash.is_due(ms(500))


def test_guard_that_works_keeps_it_alive_until_the_last_moment_and_not_later():
    leash = Leash(1)
    leash.renew(ms(1960))
    leash.started(0)
    now_ns, kept_ns = 0, 0
    while now_ns < ms(1960):
        wakeup_ns = leash.wakeup_boot_ns(now_ns)
        now_ns = min(now_ns + TICK_NS, wakeup_ns or now_ns + TICK_NS)
        if turn(leash, now_ns):
            kept_ns = now_ns
    last_ns = leash.last_call_ns()
    assert last_ns - ms(5) <= kept_ns <= last_ns
    # The guard fires 150 ms before the end: that is how long PostgreSQL has to die.
    assert kept_ns + NS_PER_S - ms(1960 - 150) > ms(120)


def test_in_the_middle_of_a_lease_it_is_kept_alive_eight_times_in_its_timeout():
    leash = Leash(4)
    leash.renew(100 * NS_PER_S)
    leash.started(0)
    kept = [now for now in range(0, 4 * NS_PER_S, TICK_NS) if turn(leash, now)]
    assert kept == [ms(500 * number) for number in range(1, 8)]


def test_lease_that_is_shortened_shortens_the_leash():
    leash = Leash(1)
    leash.renew(ms(5000))
    leash.renew(ms(1500))
    assert not leash.allows(ms(1000))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["renew", "turn", "stop"]), st.integers(1, 700), st.integers(0, 6000)
    ),
    max_size=60,
)


@given(st.integers(1, 5), STEPS)
def test_machine_is_always_reset_inside_the_newest_lease(timeout_s, steps):
    """Between two steps the guard may be frozen for as long as it takes."""
    leash = Leash(timeout_s)
    now_ns, runs, lease_ns = 0, False, None
    for what, later, length in steps:
        now_ns += ms(later)
        if what == "stop":
            leash.stopped()
            runs, lease_ns = False, None
            continue
        if what == "renew":
            lease_ns = now_ns + ms(length)
            leash.renew(lease_ns)
            if not runs and leash.allows(now_ns):
                leash.started(now_ns)
                runs = True
        kept = runs and (leash.kept_boot_ns == now_ns or turn(leash, now_ns))
        if kept:
            assert now_ns + reset_after_ns(timeout_s) <= lease_ns
        if runs and leash.allows(now_ns):
            # Whoever freezes now does so with at most an eighth of the timeout gone.
            assert now_ns - leash.kept_boot_ns < NS_PER_S * timeout_s // 8
        wakeup_ns = leash.wakeup_boot_ns(now_ns)
        assert wakeup_ns is None or now_ns < wakeup_ns <= leash.last_call_ns()


def test_last_call_is_long_enough_for_three_ticks():
    assert LAST_CALL_NS >= 3 * TICK_NS


def test_wish_survives_the_way_through_the_arguments():
    for wish in (Wish("/dev/watchdog1", 5, required=True), Wish("/a=b c", 0, required=False)):
        pairs = (argument.removeprefix("--").partition("=") for argument in wish.arguments())
        assert wish_of({key: value for key, _, value in pairs}) == wish
    assert wish_of({}) is None
