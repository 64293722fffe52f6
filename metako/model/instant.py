"""Time as the engine sees it: clocks, read together, never by the engine itself.

`CLOCK_MONOTONIC` stands still while a machine is suspended and `CLOCK_BOOTTIME` does not. A voter
holds its promise on the first and a leader counts its lease on the second, so a suspend can only
make a hold longer and a lease shorter: both err on the safe side. Wall clocks jump and differ from
host to host: what they show is told to people, and decides when a switchover that an operator has
asked for by the clock is begun. No promise rests on one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Instant(NamedTuple):
    """One reading of the clocks; the first two in nanoseconds since an arbitrary origin (the boot).

    A named tuple, as are the other values that every step makes or compares: a frozen dataclass
    assigns each of its fields by a call, and compares by making two tuples first.
    """

    mono_ns: int
    boot_ns: int
    wall_ms: int = 0  # since 1970, in UTC; 0 where nobody asks for it

    def plus(self, delta_ns: int) -> Instant:
        """Return the instant `delta_ns` later, assuming no suspend in between."""
        wall_ms = self.wall_ms + delta_ns // NS_PER_MS
        return Instant(self.mono_ns + delta_ns, self.boot_ns + delta_ns, wall_ms)


@lru_cache(maxsize=1024)
def milliseconds(value: float) -> int:
    """Return milliseconds as nanoseconds."""
    return round(value * NS_PER_MS)


def seconds(value: float) -> int:
    """Return seconds as nanoseconds."""
    return round(value * NS_PER_S)
