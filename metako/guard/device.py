"""A watchdog of Linux, behind the few calls that the guard needs of it.

The device is opened while the guard is still root and stays open until the guard ends: to be
stopped and started it is not closed, because opening it again would take root. Opening starts it,
so it is stopped at once (`WDIOS_DISABLECARD`). At the end it gets the magic `V`, without which a
close counts as a crash and does not stop it.

What would make it a danger is refused before it is opened, as far as /sys tells: a driver that
cannot be stopped (`nowayout`). After that, one whose close stops it in any case (it would not
outlive a guard that is killed), and one whose shortest timeout is too long.

`Kernel` is the contract with Linux; the tests have another one and hold both to the same suite.
Source: the kernel's Documentation/watchdog/watchdog-api.rst and watchdog-parameters.rst.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from typing import Protocol

_INFO = struct.Struct("II32s")  # struct watchdog_info: options, firmware version, identity
_INT = struct.Struct("i")
_MISC_MAJOR, _MISC_MINOR = 10, 130  # /dev/watchdog, another name of /dev/watchdog0
_OTHER_DIRECTIONS = ("alpha", "mips", "ppc", "sparc")  # machines with other ioctl numbers

SET_TIMEOUT = 0x0080  # WDIOF_SETTIMEOUT
MAGIC_CLOSE = 0x0100  # WDIOF_MAGICCLOSE
DISABLE = 0x0001  # WDIOS_DISABLECARD
ENABLE = 0x0002  # WDIOS_ENABLECARD
TIMEOUT_HALVINGS_MAX = 12


def ioctl_number(number: int, size: int, machine: str, *, writes: bool = False) -> int:
    """Return the request `_IOR('W', …)`, or `_IOWR`, on a kind of machine (as uname says it)."""
    if machine.startswith(_OTHER_DIRECTIONS):
        direction = (2 | (4 if writes else 0)) << 29
    else:
        direction = (2 | (1 if writes else 0)) << 30
    return direction | size << 16 | ord("W") << 8 | number


_MACHINE = os.uname().machine
GETSUPPORT = ioctl_number(0, _INFO.size, _MACHINE)
SETOPTIONS = ioctl_number(4, _INT.size, _MACHINE)
SETTIMEOUT = ioctl_number(6, _INT.size, _MACHINE, writes=True)
GETTIMEOUT = ioctl_number(7, _INT.size, _MACHINE)


class UnusableError(Exception):
    """The watchdog cannot be used, and does not run. The text says what to do."""


class Kernel(Protocol):
    """What is asked of Linux. Failures are OSErrors."""

    def is_device(self, path: str) -> bool:
        """Return whether the path is a character device."""
        ...

    def attribute(self, path: str, name: str) -> str:
        """Return what /sys says of the watchdog; "" if it says nothing."""
        ...

    def open(self, path: str) -> int:
        """Open it for writing, which starts it; return the descriptor."""
        ...

    def ioctl(self, descriptor: int, request: int, value: bytearray) -> None:
        """Ask or tell the driver; it may change `value`."""
        ...

    def write(self, descriptor: int, data: bytes) -> None:
        """Keep it alive; a `V` in the data lets the next close stop it."""
        ...

    def close(self, descriptor: int) -> None:
        """Give it back. Without a `V` in the last write it goes on counting, if it did."""
        ...


class Linux:
    """The real one."""

    def is_device(self, path: str) -> bool:
        return stat.S_ISCHR(os.stat(path).st_mode)

    def attribute(self, path: str, name: str) -> str:
        device = os.stat(path).st_rdev
        major, minor = os.major(device), os.minor(device)
        place = f"/sys/dev/char/{major}:{minor}"
        if (major, minor) == (_MISC_MAJOR, _MISC_MINOR):
            place = "/sys/class/watchdog/watchdog0"
        try:
            with open(f"{place}/{name}", encoding="ascii", errors="replace") as file:
                return file.read(100).strip()
        except OSError:
            return ""  # a kernel without CONFIG_WATCHDOG_SYSFS

    def open(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def ioctl(self, descriptor: int, request: int, value: bytearray) -> None:
        fcntl.ioctl(descriptor, request, value, True)

    def write(self, descriptor: int, data: bytes) -> None:
        os.write(descriptor, data)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)


def trouble(kernel: Kernel, path: str) -> str:
    """Return why a watchdog cannot be used, as far as that shows without opening it; or ""."""
    try:
        if not kernel.is_device(path):
            return f"{path} is no watchdog device; name one, like /dev/watchdog"
        if kernel.attribute(path, "nowayout") == "1":
            return (
                f"{path} cannot be stopped (nowayout): it would reset a machine that has nothing "
                "to lose; load its driver with nowayout=0"
            )
    except OSError as error:
        return _why(path, error)
    return ""


def runs(kernel: Kernel, path: str) -> bool:
    """Return whether it counts now, for whomever, as far as /sys tells."""
    try:
        return kernel.attribute(path, "state") == "active"
    except OSError:
        return False


class Device:
    """An open watchdog. Methods raise OSError when the driver refuses."""

    def __init__(self, kernel: Kernel, path: str, descriptor: int) -> None:
        self.path = path
        self.identity = ""
        self.options = 0
        self.timeout_s = 0  # 0: not known
        self.runs = True  # opening starts it
        self._kernel = kernel
        self._descriptor = descriptor

    def _int(self, request: int, number: int = 0) -> int:
        value = bytearray(_INT.pack(number))
        self._kernel.ioctl(self._descriptor, request, value)
        return int(_INT.unpack(value)[0])

    def identify(self) -> None:
        """Find out what the driver can do, and what it calls itself."""
        value = bytearray(_INFO.size)
        self._kernel.ioctl(self._descriptor, GETSUPPORT, value)
        self.options, _, identity = _INFO.unpack(value)
        self.identity = bytes(identity).partition(b"\0")[0].decode("ascii", "replace")

    def set_timeout(self, longest_s: int) -> None:
        """Choose a timeout of at most `longest_s`; `timeout_s` is what it then really is."""
        if self.options & SET_TIMEOUT:
            wanted_s = longest_s
            for _ in range(TIMEOUT_HALVINGS_MAX):
                # What is too long or too short for the hardware is refused.
                with contextlib.suppress(OSError):
                    self._int(SETTIMEOUT, wanted_s)
                    break
                if wanted_s == 1:
                    break
                wanted_s //= 2
        self.timeout_s = self._int(GETTIMEOUT)

    def start(self) -> None:
        """Have it count from now on."""
        self._int(SETOPTIONS, ENABLE)
        self.runs = True
        self.keep()  # not every driver counts anew when it is enabled

    def keep(self) -> None:
        """Have it count anew. Every driver takes a write for that; the ioctl is optional."""
        self._kernel.write(self._descriptor, b"\0")

    def stop(self) -> None:
        """Have it count no more."""
        self._int(SETOPTIONS, DISABLE)
        self.runs = False

    def close(self) -> None:
        """Give it back in good order: it is stopped by that too, unless it cannot be."""
        with contextlib.suppress(OSError):
            self._kernel.write(self._descriptor, b"V")
        with contextlib.suppress(OSError):
            self._kernel.close(self._descriptor)


def open_device(kernel: Kernel, path: str, timeout_s: int) -> Device:
    """Return the watchdog, stopped, with a timeout of at most `timeout_s`.

    A driver that turns out not to stop is returned with `runs` set: it has to be kept alive for as
    long as the guard lives, though it guards nothing.

    Raises:
        UnusableError: it does not run; the text says why, and what to do.
    """
    if found := trouble(kernel, path):
        raise UnusableError(found)
    try:
        device = Device(kernel, path, kernel.open(path))
    except OSError as error:
        raise UnusableError(_why(path, error)) from None
    try:
        device.stop()
    except OSError:
        return device
    try:
        device.identify()
        if not device.options & MAGIC_CLOSE:
            raise UnusableError(
                f"{path} ({device.identity}) is stopped by any close: it would not outlive a guard "
                "that is killed; use another driver"
            )
        device.set_timeout(timeout_s)
        device.stop()  # some drivers start with a new timeout
    except OSError as error:
        device.close()
        raise UnusableError(_why(path, error)) from None
    except UnusableError:
        device.close()
        raise
    if not 0 < device.timeout_s <= timeout_s:
        device.close()
        raise UnusableError(
            f"{path} ({device.identity}) has a timeout of {device.timeout_s} s, the lease allows "
            f"{timeout_s} s at most; raise timing.hold, or use another driver"
        )
    return device


def _in_use(path: str) -> str:
    return (
        f"{path} is in use by something else, as by systemd (RuntimeWatchdogSec) or another node "
        "of this machine; free it, or set guard.watchdog.device to another one"
    )


def _why(path: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV | errno.ENOTDIR:
            return (
                f"{path} does not exist; load the driver of this machine's watchdog (softdog needs "
                "no hardware), or set guard.watchdog.device"
            )
        case errno.EACCES | errno.EPERM:
            return (
                f"{path} may not be opened by this user; run the agent as root, or let its user "
                "write the device"
            )
        case errno.EBUSY:
            return _in_use(path)
        case _:
            return f"{path}: {error.strerror}"
