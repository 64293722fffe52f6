"""The timing profiles, and the relations that every timing must keep.

Input: the `timing` and `gossip` sections. Output: complete timings and the relations that they
break. The profiles are a trade: the shorter the hold, the sooner a failover, and the more easily a
network that stalls for a moment takes the lease from a healthy primary.

Invariant: each profile by itself keeps every relation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from metako.config.node_config import TimingConfig
from metako.config.problems import Path, Problem
from metako.config.units import format_duration_ms as shown

CLOCK_RATE_ERROR = 0.01
"""ρ as the election counts it; a test holds the two together."""

TIMING_MS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "default": {
            "heartbeat": 250,
            "hold": 2000,
            "fence_margin": 150,
            "stagger": 80,
            "jitter": 30,
            "retry": 60,
            "candidacy_timeout": 2000,
            "standby_grace": 1500,
            "standby_settle": 200,
            "sync_change_timeout": 5000,
            "hang_timeout": 6000,
            "stop_timeout": 10_000,
        },
        # One rack: round trips well below a millisecond, machines that never stall.
        "fast": {
            "heartbeat": 100,
            "hold": 800,
            "fence_margin": 100,
            "stagger": 40,
            "jitter": 15,
            "retry": 30,
            "candidacy_timeout": 1000,
            "standby_grace": 700,
            "standby_settle": 150,
            "sync_change_timeout": 5000,
            "hang_timeout": 4000,
            "stop_timeout": 10_000,
        },
        # Between regions: round trips of up to 300 ms.
        "wan": {
            "heartbeat": 1000,
            "hold": 8000,
            "fence_margin": 300,
            "stagger": 700,
            "jitter": 300,
            "retry": 600,
            "candidacy_timeout": 10_000,
            "standby_grace": 6000,
            "standby_settle": 1000,
            "sync_change_timeout": 15_000,
            "hang_timeout": 10_000,
            "stop_timeout": 30_000,
        },
    }
)

GOSSIP_MS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "default": {
            "probe_interval": 500,
            "probe_timeout": 200,
            "gossip_interval": 200,
            "exchange_timeout": 5000,
        },
        "fast": {
            "probe_interval": 250,
            "probe_timeout": 100,
            "gossip_interval": 100,
            "exchange_timeout": 3000,
        },
        "wan": {
            "probe_interval": 2000,
            "probe_timeout": 900,
            "gossip_interval": 500,
            "exchange_timeout": 15_000,
        },
    }
)

HEALTH_MS: Mapping[str, int] = MappingProxyType({"interval": 500, "timeout": 5000})
"""PostgreSQL runs on the agent's own host: no profile changes how soon it can answer."""

HEARTBEAT_MIN_MS = 20
"""Below this a heartbeat costs more than it tells: Python wakes up with 1 ms of jitter."""


def lease_ms(hold_ms: int) -> int:
    """Return what a leader may count of a hold, with clock rates off by ρ on either side."""
    return int(hold_ms * (1 - CLOCK_RATE_ERROR) / (1 + CLOCK_RATE_ERROR))


def check_timing(timing: TimingConfig) -> list[Problem]:
    """Return a problem for each relation that does not hold."""
    usable_ms = lease_ms(timing.hold_ms) - timing.fence_margin_ms
    relations = (
        (
            timing.heartbeat_ms >= HEARTBEAT_MIN_MS,
            "heartbeat",
            f"{shown(timing.heartbeat_ms)} is less than {shown(HEARTBEAT_MIN_MS)}",
        ),
        (
            timing.hold_ms >= 4 * timing.heartbeat_ms,
            "hold",
            f"{shown(timing.hold_ms)} is less than four heartbeats of "
            f"{shown(timing.heartbeat_ms)}: two lost datagrams would end a lease",
        ),
        (
            timing.fence_margin_ms < timing.hold_ms // 2,
            "fence_margin",
            f"{shown(timing.fence_margin_ms)} is not less than half the hold of "
            f"{shown(timing.hold_ms)}",
        ),
        (
            usable_ms >= 2 * timing.heartbeat_ms,
            "fence_margin",
            f"{shown(timing.fence_margin_ms)} leaves less than two heartbeats of the lease",
        ),
        (
            timing.jitter_ms <= timing.stagger_ms,
            "jitter",
            f"{shown(timing.jitter_ms)} is more than the stagger of {shown(timing.stagger_ms)}: "
            "the best candidate would not stand first",
        ),
        (
            4 * timing.retry_ms <= timing.candidacy_timeout_ms,
            "candidacy_timeout",
            f"{shown(timing.candidacy_timeout_ms)} leaves no time for four requests, "
            f"one every {shown(timing.retry_ms)}",
        ),
        (
            timing.standby_settle_ms <= timing.standby_grace_ms,
            "standby_settle",
            f"{shown(timing.standby_settle_ms)} is more than the standby_grace of "
            f"{shown(timing.standby_grace_ms)}",
        ),
    )
    return [Problem(("timing", key), text) for holds, key, text in relations if not holds]


def check_gossip(probe_interval_ms: int, probe_timeout_ms: int) -> list[Problem]:
    """Return a problem if a probe could not end before the next one begins."""
    path: Path = ("gossip", "probe_timeout")
    # The indirect probes need as long again as the direct one.
    if 2 * probe_timeout_ms > probe_interval_ms:
        text = (
            f"{shown(probe_timeout_ms)} is more than half the probe_interval of "
            f"{shown(probe_interval_ms)}: no time would be left for the indirect probes"
        )
        return [Problem(path, text)]
    return []
