"""The guard's watchdog at work, on a fake device and with a clock of its own."""

from pathlib import Path

import pytest

from fake_watchdog import Driver, FakeKernel, done, events, make_watchdog, resets, timer
from metako.guard import keeper as keepers
from metako.guard.device import SETOPTIONS
from metako.guard.keeper import Keeper, open_keeper
from metako.guard.watchdog import NS_PER_MS, NS_PER_S, Wish

TICK_MS = 50
LEASE_MS, MARGIN_MS = 1960, 150


class Machine:
    """A guard's loop without a guard: turns at ticks, the watchdog's own wake-ups included."""

    def __init__(self, path, driver=None, timeout_s=1):
        self.now_ns = 10 * NS_PER_S
        self.path = make_watchdog(path / "watchdog", driver)
        kernel = FakeKernel(clock=lambda: self.now_ns)
        self.keeper = open_keeper(kernel, Wish(self.path, timeout_s, required=False))
        self.protecting = False

    def renew(self, age_ms=0):
        self.protecting = True
        lease_ns = self.now_ns + (LEASE_MS - age_ms) * NS_PER_MS
        return self.keeper.renew(self.now_ns, lease_ns)

    def run(self, ms):
        end_ns = self.now_ns + ms * NS_PER_MS
        while self.now_ns < end_ns:
            wakeup_ns = self.keeper.wakeup_boot_ns(self.now_ns)
            tick_ns = min(self.now_ns + TICK_MS * NS_PER_MS, end_ns)
            self.now_ns = min(tick_ns, max(wakeup_ns or tick_ns, self.now_ns + 1))
            self.keeper.turn(self.now_ns, protecting=self.protecting)

    def freeze(self, ms):
        self.now_ns += ms * NS_PER_MS

    def stop_protecting(self):
        self.protecting = False
        self.keeper.turn(self.now_ns, protecting=False)

    def resets(self):
        return resets(self.path, self.now_ns)

    @property
    def breaker(self):
        """A file that breaks the device while it exists."""
        return Path(self.path).with_suffix(".broken")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_idle_watchdog_is_held_and_does_not_count(machine):
    machine.run(60_000)
    assert machine.keeper.state == keepers.IDLE
    assert machine.keeper.timeout_s == 1
    assert machine.resets() == ()
    assert timer(machine.path, machine.now_ns).until_ns is None


def test_renewed_lease_never_resets_the_machine(machine):
    for _ in range(100):
        assert machine.renew(age_ms=20) == ""
        machine.run(250)
    assert machine.keeper.state == keepers.ARMED
    assert machine.resets() == ()


def test_frozen_guard_is_reset_inside_its_lease(machine):
    for frozen_after_ms in range(0, 1800, 37):
        machine.renew()
        lease_ns = machine.now_ns + LEASE_MS * NS_PER_MS
        machine.run(frozen_after_ms)
        due_ns = timer(machine.path, machine.now_ns).until_ns
        assert due_ns is not None
        assert due_ns <= lease_ns


def test_lost_lease_leaves_time_for_the_fence_and_no_reset_once_it_is_done(machine):
    machine.renew()
    machine.run(LEASE_MS - MARGIN_MS + 100)  # the fence fires, and takes 100 ms
    assert machine.resets() == ()
    machine.stop_protecting()
    machine.run(60_000)
    assert machine.resets() == ()
    assert machine.keeper.state == keepers.IDLE


def test_fence_that_is_not_complete_at_the_end_of_the_lease_is_a_reset(machine):
    machine.renew()
    lease_ns = machine.now_ns + LEASE_MS * NS_PER_MS
    machine.run(5000)
    (reset_ns,) = machine.resets()
    assert lease_ns - 100 * NS_PER_MS < reset_ns <= lease_ns


def test_renewal_that_is_too_old_does_not_start_it(machine):
    said = machine.renew(age_ms=LEASE_MS - 1000)
    assert said == "a lease of 1000 ms is left, its timeout is 1 s"
    assert machine.keeper.state == keepers.IDLE
    assert machine.renew() == ""


def test_stopped_watchdog_forgets_the_lease_that_it_had(machine):
    machine.renew()
    machine.stop_protecting()
    machine.protecting = True
    machine.run(1000)
    assert timer(machine.path, machine.now_ns).until_ns is None


def test_failing_device_is_told_and_works_again_by_itself(machine):
    machine.renew()
    machine.breaker.write_text("")
    machine.run(300)
    assert machine.keeper.state == keepers.FAILED
    assert machine.renew().endswith("broken")
    machine.breaker.unlink()
    machine.run(100)
    assert machine.keeper.state == keepers.ARMED
    assert machine.renew() == ""
    assert machine.resets() == ()


def test_watchdog_that_can_no_longer_be_stopped_does_not_reset_a_harmless_machine(tmp_path):
    class Unstoppable(FakeKernel):
        stubborn = False

        def ioctl(self, descriptor, request, value):
            if self.stubborn and request == SETOPTIONS:
                raise OSError(5, "stuck")
            super().ioctl(descriptor, request, value)

    machine = Machine(tmp_path)
    kernel = Unstoppable(clock=lambda: machine.now_ns)
    machine.keeper.close(in_good_order=True)
    machine.keeper = open_keeper(kernel, Wish(machine.path, 1, required=True))
    assert machine.renew() == ""
    kernel.stubborn = True
    machine.stop_protecting()
    machine.run(60_000)
    assert machine.resets() == ()
    assert machine.keeper.state == keepers.FAILED
    assert machine.renew().endswith("stuck")


@pytest.mark.parametrize("changes", [{"nowayout": True, "sysfs": False}, {"stoppable": False}])
def test_watchdog_that_never_could_be_stopped_is_kept_alive_and_guards_nothing(tmp_path, changes):
    machine = Machine(tmp_path, Driver(timeout_s=10, **changes))
    machine.run(60_000)
    assert machine.resets() == ()
    assert "cannot be stopped" in machine.renew()
    assert machine.keeper.state == keepers.FAILED


def test_end_in_good_order_stops_it_and_any_other_end_does_not(machine, tmp_path):
    machine.renew()
    machine.keeper.close(in_good_order=True)
    assert timer(machine.path, machine.now_ns).until_ns is None
    assert done(machine.path)[-1] == "close"
    (tmp_path / "other").mkdir()
    other = Machine(tmp_path / "other")
    other.renew()
    before = events(other.path)
    other.keeper.close(in_good_order=False)
    assert events(other.path) == before


def test_without_a_wish_there_is_nothing_and_with_a_hopeless_one_a_reason():
    keeper = open_keeper(FakeKernel(), None)
    assert keeper.state == keepers.OFF
    keeper.turn(0, protecting=True)
    assert keeper.renew(0, NS_PER_S) == ""
    assert keeper.wakeup_boot_ns(0) is None
    keeper.close(in_good_order=True)
    hopeless = open_keeper(FakeKernel(), Wish("/dev/watchdog", 0, required=True))
    assert hopeless.state == keepers.FAILED
    assert "timing.hold" in hopeless.renew(0, NS_PER_S)
    assert hopeless.take_notes() == [f"watchdog: not armed: {hopeless.why}"]
    assert Keeper(why="x").why == "x"
