"""The watchdog's device: a contract that Linux and its fake both keep, and what is refused.

With METAKO_TEST_WATCHDOG=/dev/watchdogN, as root, the contract is played on that device too. It is
stopped after each test; a driver that is not up to that resets the machine.
"""

import errno
import os

import pytest

from fake_watchdog import Driver, FakeKernel, done, make_watchdog, timer
from metako.guard import device
from metako.guard.device import Linux, UnusableError, ioctl_number, open_device, runs, trouble

REAL = os.environ.get("METAKO_TEST_WATCHDOG", "")
NEEDS_REAL = pytest.mark.skipif(not REAL, reason="METAKO_TEST_WATCHDOG names no device")


@pytest.fixture(params=["fake", pytest.param("real", marks=NEEDS_REAL)])
def kernel_and_path(request, tmp_path):
    if request.param == "real":
        return Linux(), REAL
    return FakeKernel(), make_watchdog(tmp_path / "watchdog")


# ---------------------------------------------------------------- the contract


def test_opened_watchdog_is_stopped_and_runs_only_between_start_and_stop(kernel_and_path):
    kernel, path = kernel_and_path
    opened = open_device(kernel, path, 30)
    assert not opened.runs
    assert not runs(kernel, path)
    opened.start()
    assert opened.runs
    assert runs(kernel, path)
    opened.keep()
    opened.stop()
    assert not runs(kernel, path)
    opened.close()
    assert not runs(kernel, path)


def test_timeout_is_what_the_driver_says_and_not_longer_than_asked(kernel_and_path):
    kernel, path = kernel_and_path
    opened = open_device(kernel, path, 30)
    assert 0 < opened.timeout_s <= 30
    assert opened.identity != ""
    opened.close()


def test_closing_in_good_order_stops_it_also_while_it_runs(kernel_and_path):
    kernel, path = kernel_and_path
    opened = open_device(kernel, path, 30)
    opened.start()
    opened.close()
    assert not runs(kernel, path)


def test_second_opening_is_refused_and_leaves_the_first_alone(kernel_and_path):
    kernel, path = kernel_and_path
    opened = open_device(kernel, path, 30)
    with pytest.raises(UnusableError, match="in use"):
        open_device(type(kernel)(), path, 30)
    assert not runs(kernel, path)
    opened.close()
    open_device(kernel, path, 30).close()


def test_close_without_the_magic_word_leaves_it_running(kernel_and_path):
    kernel, path = kernel_and_path
    descriptor = kernel.open(path)
    kernel.close(descriptor)
    assert runs(kernel, path)
    open_device(kernel, path, 30).close()  # takes it over, and stops it
    assert not runs(kernel, path)


# ---------------------------------------------------------------- what is refused


def fake(tmp_path, **changes):
    return FakeKernel(), make_watchdog(tmp_path / "watchdog", Driver(**changes))


def test_driver_that_cannot_be_stopped_is_not_even_opened(tmp_path):
    kernel, path = fake(tmp_path, nowayout=True)
    with pytest.raises(UnusableError, match="nowayout=0"):
        open_device(kernel, path, 1)
    assert done(path) == []
    assert "nowayout" in trouble(kernel, path)


@pytest.mark.parametrize("changes", [{"nowayout": True, "sysfs": False}, {"stoppable": False}])
def test_driver_that_turns_out_not_to_stop_is_handed_over_running(tmp_path, changes):
    kernel, path = fake(tmp_path, **changes)
    opened = open_device(kernel, path, 1)
    assert opened.runs
    assert timer(path).until_ns is not None


def test_driver_that_any_close_stops_is_refused_and_left_stopped(tmp_path):
    kernel, path = fake(tmp_path, options=device.SET_TIMEOUT)
    with pytest.raises(UnusableError, match="any close"):
        open_device(kernel, path, 1)
    assert timer(path).until_ns is None


def test_timeout_that_is_too_long_for_the_lease_is_refused_and_left_stopped(tmp_path):
    kernel, path = fake(tmp_path, timeout_min_s=5)
    with pytest.raises(UnusableError, match=r"60 s, the lease allows 1 s.*timing\.hold"):
        open_device(kernel, path, 1)
    assert timer(path).until_ns is None


def test_driver_with_a_fixed_timeout_is_taken_if_that_is_short_enough(tmp_path):
    kernel, path = fake(tmp_path, options=device.MAGIC_CLOSE, timeout_s=3)
    assert open_device(kernel, path, 5).timeout_s == 3


def test_longest_timeout_that_the_hardware_can_is_approached(tmp_path):
    kernel, path = fake(tmp_path, timeout_max_s=16)
    assert open_device(kernel, path, 100).timeout_s == 12


def test_missing_and_wrong_devices_say_what_to_do(tmp_path):
    missing = str(tmp_path / "missing")
    assert "does not exist; load the driver" in trouble(Linux(), missing)
    assert "is no watchdog device" in trouble(Linux(), str(tmp_path))
    with pytest.raises(UnusableError, match="does not exist"):
        open_device(Linux(), missing, 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EACCES, "as root"), (errno.EBUSY, "RuntimeWatchdogSec"), (errno.EIO, "Input/output")],
)
def test_failed_opening_says_what_to_do(tmp_path, code, said):
    class Failing(FakeKernel):
        def open(self, path):
            raise OSError(code, os.strerror(code))

    path = make_watchdog(tmp_path / "watchdog")
    with pytest.raises(UnusableError, match=said):
        open_device(Failing(), path, 1)


def test_driver_that_fails_halfway_is_given_back(tmp_path):
    class Failing(FakeKernel):
        def ioctl(self, descriptor, request, value):
            if request == device.GETTIMEOUT:
                raise OSError(errno.EIO, "broken")
            super().ioctl(descriptor, request, value)

    path = make_watchdog(tmp_path / "watchdog")
    with pytest.raises(UnusableError, match="broken"):
        open_device(Failing(), path, 1)
    assert done(path)[-1] == "close"
    assert timer(path).until_ns is None


def test_requests_are_the_kernels_on_either_kind_of_machine():
    assert ioctl_number(0, 40, "x86_64") == 0x80285700
    assert ioctl_number(6, 4, "aarch64", writes=True) == 0xC0045706
    assert ioctl_number(7, 4, "s390x") == 0x80045707
    assert ioctl_number(0, 40, "ppc64le") == 0x40285700
    assert ioctl_number(6, 4, "mips64", writes=True) == 0xC0045706
