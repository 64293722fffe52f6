"""Which timeout of a watchdog fits into a lease, and what to say where none does.

Input: the `guard.watchdog` section and the node's timing. Output: seconds, problems and remarks.
A watchdog counts whole seconds, and a lease is not many of them. The guard keeps it alive only
while its whole timeout still ends inside the lease (`metako.guard.watchdog`), which leaves two
relations: a renewal that arrives two heartbeats after it was sent must still be worth something,
and PostgreSQL must have time to die between the guard's deadline and the reset.
"""

from __future__ import annotations

import math

from metako.config.node_config import TimingConfig
from metako.config.problems import Path, Problem
from metako.config.profiles import CLOCK_RATE_ERROR, lease_ms
from metako.config.schema import WatchdogSection
from metako.config.units import format_duration_ms as shown

SLOWNESS_MS = 10
"""What it may be late for each second, as the guard counts it; a test holds the two together."""
DELAY_MS = 10
EARLY_MS = 5
FENCE_MIN_MS = 50
"""The guard lets PostgreSQL quit for 30 ms, then kills it: less than this is no time for both."""
HEARTBEATS = 2
_PATH: Path = ("guard", "watchdog", "mode")


def watchdog_timeout_s(timing: TimingConfig) -> int:
    """Return the longest timeout that the timing allows; 0 if it allows none."""
    per_second_ms = 1000 + SLOWNESS_MS
    left_ms = lease_ms(timing.hold_ms) - HEARTBEATS * timing.heartbeat_ms - DELAY_MS
    by_fence_s = (timing.fence_margin_ms - FENCE_MIN_MS - DELAY_MS - EARLY_MS) // SLOWNESS_MS
    return max(0, min(left_ms // per_second_ms, by_fence_s))


def shortest_hold_ms(heartbeat_ms: int) -> int:
    """Return the shortest hold whose lease has room for a timeout of one second."""
    needed_ms = 1000 + SLOWNESS_MS + DELAY_MS + HEARTBEATS * heartbeat_ms
    hold_ms = math.ceil(needed_ms * (1 + CLOCK_RATE_ERROR) / (1 - CLOCK_RATE_ERROR))
    return hold_ms if lease_ms(hold_ms) >= needed_ms else hold_ms + 1


def check_watchdog(
    section: WatchdogSection, timing: TimingConfig, *, witness: bool
) -> tuple[list[Problem], list[str]]:
    """Return problems and remarks: what `required` cannot have, and `automatic` will not."""
    if section.mode == "off":
        return [], []
    if witness:
        return [], ["guard.watchdog: has no effect on a witness, which runs no PostgreSQL"]
    lease = shown(lease_ms(timing.hold_ms))
    timeout_s = watchdog_timeout_s(timing)
    if timeout_s:
        early = shown(timing.fence_margin_ms - SLOWNESS_MS * timeout_s - DELAY_MS - EARLY_MS)
        return [], [
            f"guard.watchdog: a timeout of {timeout_s}s guards the lease of {lease}; PostgreSQL "
            f"has {early} of timing.fence_margin to die before the machine is reset"
        ]
    least = shown(FENCE_MIN_MS + DELAY_MS + EARLY_MS + SLOWNESS_MS)
    if timing.hold_ms < shortest_hold_ms(timing.heartbeat_ms):
        message = f"a watchdog counts whole seconds, and none fits into the lease of {lease}"
        hint = f"set timing.hold to {shown(shortest_hold_ms(timing.heartbeat_ms))} or more"
    else:
        message = (
            f"a timing.fence_margin of {shown(timing.fence_margin_ms)} leaves PostgreSQL no time "
            "to die before the machine is reset"
        )
        hint = f"set timing.fence_margin to {least} or more"
    if section.mode == "required":
        return [Problem(_PATH, message, f"{hint}, or the mode to automatic or off")], []
    return [], [f"guard.watchdog: will not be armed: {message}; {hint}"]
