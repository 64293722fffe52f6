"""The clocks of one host as functions of true time, in integer nanoseconds.

In: the true time of the simulation. Out: `Instant` (CLOCK_MONOTONIC, CLOCK_BOOTTIME, wall time).
Between two changes (`set_rate`, `suspend`, `resume`) each clock is a straight line that starts
where it stood at the change: a clock never jumps and never goes back, whatever is done to its rate.
Wall time follows BOOTTIME, and alone can be set to anything.

The way back is exact: `true_at_mono` and `true_at_boot` give the *first* nanosecond of true time at
which the clock shows at least what is wanted, so that a timer set for it is neither early nor late.

Only the present can be asked: no true time before the last change.
"""

from __future__ import annotations

from metako.model.instant import Instant
from sim.heap import NS_PER_MS, NS_PER_S

NEVER = (1 << 63) - 1
"""A time that does not come."""

PPM = 1_000_000
RATE_PPM_MAX = 500_000
"""How much faster or slower than true time a clock may run: half as much again."""

WALL_NS = 1_750_000_000 * NS_PER_S
"""Wall time at the beginning of a simulation unless another is given: in June of 2025."""


class NodeClock:
    """The clocks of one host."""

    __slots__ = (
        *("_boot_from", "_boot_stands", "_last", "_last_ns", "_mono_from", "_mono_stands"),
        *("_since_ns", "_wall_ahead", "rate_ppm"),
    )

    def __init__(self, *, origin_ns: int, wall_ns: int = WALL_NS, asleep_ns: int = 0) -> None:
        """Make clocks that run at the rate of true time.

        Args:
            origin_ns: what CLOCK_MONOTONIC shows at true time 0.
            wall_ns: wall time at true time 0.
            asleep_ns: how long the host has been suspended since its boot; BOOTTIME is as much
                ahead of MONOTONIC.
        """
        assert origin_ns >= 0, origin_ns
        assert asleep_ns >= 0, asleep_ns
        self.rate_ppm = 0  # faster (> 0) or slower than true time
        self._since_ns = 0  # true time of the last change; the lines begin there
        self._mono_from = origin_ns
        self._boot_from = origin_ns + asleep_ns
        self._mono_stands = False
        self._boot_stands = False
        self._wall_ahead = wall_ns - self._boot_from  # of BOOTTIME; changed by jumps alone
        self._last_ns = -1  # true time of the reading below, because many ask for the same
        self._last = Instant(0, 0)

    def instant(self, true_ns: int) -> Instant:
        """Return what the clocks show."""
        if true_ns != self._last_ns:
            # Asked for with nearly every event, hence the tuple without a call of its own.
            gone = true_ns - self._since_ns
            assert gone >= 0, "a time before the last change"
            if self.rate_ppm:
                gone = gone * (PPM + self.rate_ppm) // PPM
            mono = self._mono_from if self._mono_stands else self._mono_from + gone
            boot = self._boot_from if self._boot_stands else self._boot_from + gone
            self._last_ns = true_ns
            wall_ms = (boot + self._wall_ahead) // NS_PER_MS
            self._last = tuple.__new__(Instant, (mono, boot, wall_ms))
        return self._last

    def wall_ms(self, true_ns: int) -> int:
        """Return wall time in milliseconds since 1970."""
        return self.instant(true_ns).wall_ms

    @property
    def suspended(self) -> bool:
        """Whether MONOTONIC stands still."""
        return self._mono_stands

    def set_rate(self, true_ns: int, ppm: int) -> None:
        """Let the clocks run so many parts per million faster, or slower if negative."""
        assert abs(ppm) <= RATE_PPM_MAX, ppm
        self._begin_lines(true_ns)
        self.rate_ppm = ppm

    def jump_wall(self, seconds: float) -> None:
        """Set wall time forward, or back if negative; the other clocks know nothing of it."""
        self._wall_ahead += round(seconds * NS_PER_S)
        self._last_ns = -1

    def suspend(self, true_ns: int, *, hidden: bool = False) -> None:
        """Stop MONOTONIC; hidden: BOOTTIME too, as in a virtual machine paused by its host."""
        assert not self._mono_stands, "suspended twice"
        self._begin_lines(true_ns)
        self._mono_stands = True
        self._boot_stands = hidden

    def resume(self, true_ns: int) -> None:
        """Let the clocks go on from where they stand; does nothing if they run."""
        self._begin_lines(true_ns)
        self._mono_stands = self._boot_stands = False

    def reboot(self, true_ns: int, *, origin_ns: int) -> None:
        """Begin MONOTONIC and BOOTTIME anew, as a start of the host does; wall time goes on."""
        self._begin_lines(true_ns)
        wall = self._boot_from + self._wall_ahead
        self._mono_from = self._boot_from = origin_ns
        self._mono_stands = self._boot_stands = False
        self._wall_ahead = wall - origin_ns
        self._last_ns = -1

    def true_at_mono(self, mono_ns: int, true_now_ns: int) -> int:
        """Return the first true time from now on at which MONOTONIC shows at least `mono_ns`.

        NEVER while it stands still short of that.
        """
        return self._true_at(self._mono_from, self._mono_stands, mono_ns, true_now_ns)

    def true_at_boot(self, boot_ns: int, true_now_ns: int) -> int:
        """Return the first true time from now on at which BOOTTIME shows at least `boot_ns`."""
        return self._true_at(self._boot_from, self._boot_stands, boot_ns, true_now_ns)

    def _true_at(self, start: int, stands: bool, wanted: int, now_ns: int) -> int:
        assert now_ns >= self._since_ns, "a time before the last change"
        need = wanted - start
        if need <= 0:
            return now_ns
        if stands:
            return NEVER
        # The clock shows start + elapsed * rate // PPM: the least elapsed that reaches `need` is
        # the quotient rounded up.
        elapsed = -(-need * PPM // (PPM + self.rate_ppm))
        return min(max(now_ns, self._since_ns + elapsed), NEVER)

    def _begin_lines(self, true_ns: int) -> None:
        """Let both lines begin at what the clocks show now."""
        now = self.instant(true_ns)
        self._mono_from, self._boot_from = now.mono_ns, now.boot_ns
        self._since_ns = true_ns
