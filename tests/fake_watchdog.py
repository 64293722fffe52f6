"""A watchdog that resets nothing: a regular file in the place of the device, and a fake of Linux.

The file is the record of what was done to it, one JSON list a line: when (CLOCK_BOOTTIME), what,
and with which number. What the kernel would keep in memory is read from it, so it outlives whoever
had it open, as the kernel's timer does. `resets` says when the machine would have been reset.

Behaves as the kernel's watchdog core does; the original passes the same contract suite, in
tests/unit/test_guard_device.py. Imports the standard library and metako's guard only.
"""

import errno
import fcntl
import json
import os
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from metako.guard import device

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Driver:
    """What kind of driver it is."""

    timeout_s: int = 60  # as it is when nobody has set it
    timeout_min_s: int = 1
    timeout_max_s: int = 65_535
    options: int = device.SET_TIMEOUT | device.MAGIC_CLOSE
    nowayout: bool = False
    sysfs: bool = True
    stoppable: bool = True  # it knows WDIOC_SETOPTIONS


def boottime_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def make_watchdog(path: Path, driver: Driver | None = None) -> str:
    """Make the file that stands for the device; return its path."""
    path.write_text("")
    path.with_suffix(".driver").write_text(json.dumps(asdict(driver or Driver())))
    return str(path)


def events(path):
    """Return what was done to the device so far: time, what, number."""
    return [tuple(json.loads(line)) for line in Path(path).read_text().splitlines()]


def done(path):
    """Return what was done, without times and repetitions."""
    names = [what for _, what, _ in events(path)]
    return [name for index, name in enumerate(names) if names[index - 1 : index] != [name]]


@dataclass
class Timer:
    """What the kernel knows of the device by the record."""

    timeout_s: int
    until_ns: int | None = None  # when the machine is reset; None while it does not count
    resets: tuple[int, ...] = ()


def timer(path, until_ns=None):
    """Return the timer as of `until_ns`, by default of now."""
    driver = _driver(path)
    state = Timer(driver.timeout_s)
    for at_ns, what, number in [*events(path), (until_ns or boottime_ns(), "look", 0)]:
        if state.until_ns is not None and at_ns >= state.until_ns:
            state.resets += (state.until_ns,)
            state.until_ns = None
        if what == "timeout":
            state.timeout_s = number
        counts = state.until_ns is not None
        if what in ("open", "start") or (what in ("keep", "crash", "timeout") and counts):
            state.until_ns = at_ns + state.timeout_s * NS_PER_S
        elif what == "stop":
            state.until_ns = None
    return state


def resets(path, until_ns=None):
    """Return when the machine would have been reset."""
    return timer(path, until_ns).resets


def _driver(path):
    return Driver(**json.loads(Path(path).with_suffix(".driver").read_text()))


class FakeKernel:
    """See the module's docstring. A file with the suffix `.broken` makes every call fail."""

    def __init__(self, clock=boottime_ns):
        self._clock = clock
        self._path = ""
        self._may_close = False

    def is_device(self, path):
        return Path(path).stat().st_size >= 0 and Path(path).with_suffix(".driver").exists()

    def attribute(self, path, name):
        driver = _driver(path)
        counts = timer(path, self._clock()).until_ns is not None
        values = {
            "nowayout": str(int(driver.nowayout)),
            "state": "active" if counts else "inactive",
            "identity": "Fake",
        }
        return values[name] if driver.sysfs else ""

    def open(self, path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from None
        self._path = path
        self._tell(descriptor, "open")
        return descriptor

    def ioctl(self, descriptor, request, value):
        self._fail_if_broken()
        driver = _driver(self._path)
        if request == device.GETSUPPORT:
            value[:] = struct.pack("II32s", driver.options, 1, b"Fake")
            return
        (number,) = struct.unpack("i", value)
        match request:
            case device.SETTIMEOUT:
                if not driver.options & device.SET_TIMEOUT:
                    raise OSError(errno.EOPNOTSUPP, "not supported")
                if not driver.timeout_min_s <= number <= driver.timeout_max_s:
                    raise OSError(errno.EINVAL, "invalid")
                self._tell(descriptor, "timeout", number)
            case device.GETTIMEOUT:
                value[:] = struct.pack("i", timer(self._path, self._clock()).timeout_s)
            case device.SETOPTIONS if not driver.stoppable:
                raise OSError(errno.ENOTTY, "no such request")
            case device.SETOPTIONS if number == device.DISABLE:
                if driver.nowayout:
                    raise OSError(errno.EBUSY, "busy")
                self._tell(descriptor, "stop")
            case device.SETOPTIONS if number == device.ENABLE:
                self._tell(descriptor, "start")
            case _:
                raise OSError(errno.ENOTTY, "no such request")

    def write(self, descriptor, data):
        self._fail_if_broken()
        self._may_close = b"V" in data
        self._tell(descriptor, "keep")

    def close(self, descriptor):
        driver = _driver(self._path)
        if timer(self._path, self._clock()).until_ns is not None:
            may = self._may_close or not driver.options & device.MAGIC_CLOSE
            self._tell(descriptor, "stop" if may and not driver.nowayout else "crash")
        self._tell(descriptor, "close")
        os.close(descriptor)

    def _fail_if_broken(self):
        if Path(self._path).with_suffix(".broken").exists():
            raise OSError(errno.EIO, "broken")

    def _tell(self, descriptor, what, number=0):
        os.write(descriptor, f"{json.dumps([self._clock(), what, number])}\n".encode())
