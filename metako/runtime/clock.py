"""The clocks of `Instant`, read together, and waiting for a time on the first of them.

The only place of the runtime where a clock is read for the engine.
"""

from __future__ import annotations

import time
from typing import Protocol

from metako.model.instant import NS_PER_MS, NS_PER_S, Instant


class Clock(Protocol):
    """Where the engine's driver gets the time from."""

    def now(self) -> Instant:
        """Return the clocks, read one right after the other."""
        ...


class SystemClock:
    """CLOCK_MONOTONIC, CLOCK_BOOTTIME and the wall clock of this machine."""

    def now(self) -> Instant:
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return Instant(time.monotonic_ns(), boot_ns, time.time_ns() // NS_PER_MS)


def seconds_until(now: Instant, mono_ns: int, *, longest_s: float) -> float:
    """Return how long to wait for `mono_ns`, between 0 and `longest_s` seconds."""
    return min(max(0.0, (mono_ns - now.mono_ns) / NS_PER_S), longest_s)
