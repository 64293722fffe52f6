"""Notice that this process was paused: it is called later than it asked to be.

In: when the next call is due, and the time of each call. Out: how late a call is, if it matters.
Invariant: reading changes nothing but the record of the last call. Deliberately unaware of what a
pause spoils.

Two kinds of pause show differently. A stopped process or a starved CPU makes the call late on the
monotonic clock. A suspended machine stops that clock as well and shows only as a jump of the boot
clock against it; then nothing is late, yet whatever was in flight is lost.
"""

from __future__ import annotations

from metako.model.instant import Instant


class PauseDetector:
    """Compare each call with the time it was due."""

    def __init__(self, *, threshold_ns: int) -> None:
        self._threshold_ns = threshold_ns
        self._suspended_ns: int | None = None  # boot less monotonic clock; None before any call
        self.due_ns: int | None = None  # when the next call is due; None: never

    def notice(self, now: Instant) -> int | None:
        """Return by how many nanoseconds a paused process is late; None if it was not paused."""
        mono_ns, boot_ns, _wall_ms = now
        suspended_ns = boot_ns - mono_ns
        before, self._suspended_ns = self._suspended_ns, suspended_ns
        late_ns = 0 if self.due_ns is None or self.due_ns > mono_ns else mono_ns - self.due_ns
        grown_ns = 0 if before is None else suspended_ns - before
        if late_ns > self._threshold_ns or grown_ns > self._threshold_ns:
            return late_ns
        return None
