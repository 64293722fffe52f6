"""The rules of the watchdog: when the machine's reset is put off, and until when.

A watchdog resets the machine unless it is *kept alive* at least once in its timeout, which it
counts in whole seconds. It is the last line, for when the guard itself hangs or cannot end what it
should. Input: the end of the lease as of the newest renewal, and the time on CLOCK_BOOTTIME.
Output: whether to keep it alive now.

Invariant: it is kept alive only at a moment from which the whole timeout, by the slowest clock that
is allowed for, ends inside the newest lease that is known. So whatever stops afterwards, be it this
process or the kernel's scheduling, the machine is reset before the lease ends. Within that limit it
is kept alive as late as possible: a guard that works ends PostgreSQL at its deadline, shortly
before the end of the lease, and then stops the watchdog. A timeout that is counted from the
renewal itself would be over long before that deadline, and each lost lease would be a reset.

Pure: does not read the clock, does not know of devices. Source: DESIGN §4.4, §5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

RATE_ERROR_PARTS = 100
"""A watchdog's clock may be off by one part in so many; the same ρ as of the nodes' clocks."""
DELAY_NS = 10 * NS_PER_MS
"""From reading the clock until the driver has started to count anew."""
PARTS = 8
"""In the middle of a lease it is kept alive so many times in its timeout: some drivers ask a
management controller, which takes its time, and the guard has other things to do."""
LAST_CALL_NS = 150 * NS_PER_MS
"""Towards the last moment at which it may be kept alive it is so at every turn of the guard."""
EARLY_NS = 5 * NS_PER_MS
"""The guard is woken so long before that last moment: poll() may be a millisecond late."""


def reset_after_ns(timeout_s: int) -> int:
    """Return after how long at most a watchdog that is kept alive now resets the machine."""
    timeout_ns = timeout_s * NS_PER_S
    return timeout_ns + timeout_ns // RATE_ERROR_PARTS + DELAY_NS


@dataclass(frozen=True, slots=True)
class Wish:
    """What the agent asks for when it starts the guard."""

    device: str
    timeout_s: int  # the longest that the lease allows; 0: none does, so nothing is opened
    required: bool  # a renewal that the watchdog does not guard is refused

    def arguments(self) -> list[str]:
        """Return it as arguments of the guard."""
        return [
            f"--watchdog-device={self.device}",
            f"--watchdog-timeout-s={self.timeout_s}",
            f"--watchdog-required={int(self.required)}",
        ]


def wish_of(options: Mapping[str, str]) -> Wish | None:
    """Return the wish among the guard's arguments; None if there is none."""
    device = options.get("watchdog-device")
    if not device:
        return None
    return Wish(
        device,
        int(options["watchdog-timeout-s"]),
        required=options["watchdog-required"] == "1",
    )


@dataclass(slots=True)
class Leash:
    """Until when the machine may be let run on."""

    timeout_s: int  # of the device
    lease_boot_ns: int | None = None  # end of the lease by the newest renewal; None before any
    kept_boot_ns: int | None = None  # when it was kept alive last; None while it is stopped

    def renew(self, lease_boot_ns: int) -> None:
        """Take the end of a lease; the newest word counts, also when it is an earlier one."""
        self.lease_boot_ns = lease_boot_ns

    def started(self, now_boot_ns: int) -> None:
        """Take note that it counts from now on."""
        self.kept_boot_ns = now_boot_ns

    def kept(self, now_boot_ns: int) -> None:
        self.kept_boot_ns = now_boot_ns

    def stopped(self) -> None:
        """Take note that it does not count any more; the next lease is another one."""
        self.lease_boot_ns = self.kept_boot_ns = None

    def last_call_ns(self) -> int | None:
        """Return the last moment at which it may be kept alive by the newest lease."""
        if self.lease_boot_ns is None:
            return None
        return self.lease_boot_ns - reset_after_ns(self.timeout_s)

    def allows(self, now_boot_ns: int) -> bool:
        """Return whether it may be kept alive, or started, at this moment."""
        last_ns = self.last_call_ns()
        return last_ns is not None and now_boot_ns <= last_ns

    def is_due(self, now_boot_ns: int) -> bool:
        """Return whether to keep it alive at this moment."""
        last_ns = self.last_call_ns()
        if last_ns is None or self.kept_boot_ns is None or now_boot_ns > last_ns:
            return False
        regular_ns = self.kept_boot_ns + self.timeout_s * NS_PER_S // PARTS
        return now_boot_ns >= regular_ns or now_boot_ns >= last_ns - LAST_CALL_NS

    def wakeup_boot_ns(self, now_boot_ns: int) -> int | None:
        """Return when the guard should take a turn for it, None if its ticks are enough.

        Regular turns come at the guard's ticks while it is armed. Only the last moment is worth a
        turn of its own: each millisecond that is missed there is one in which PostgreSQL must die.
        """
        last_ns = self.last_call_ns()
        if last_ns is None or self.kept_boot_ns is None:
            return None
        early_ns = last_ns - EARLY_NS
        return early_ns if now_boot_ns < early_ns else None
