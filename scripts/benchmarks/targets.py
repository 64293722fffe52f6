"""The numbers to reach, and whether they are. Pure.

A verdict on a missed target names the phases that took the most in the rounds it was missed by, so
that the next thing to work on is read from the result and not guessed.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.phases import REMAINDER, Durations, Phase
from benchmarks.results import ClientKind, Group

BLAMED_MAX = 2
"""With a host lost the longest phase is the hold, which is a setting: the next one is telling."""


@dataclass(frozen=True, slots=True)
class Target:
    """Limits for the outage after some faults."""

    what: str
    faults: frozenset[str]
    timing: str | None  # None: the same for every profile
    p50_s: float
    p99_s: float

    def applies(self, group: Group) -> bool:
        return group.fault in self.faults and self.timing in (None, group.timing)


_HOST_FAULTS = frozenset(("kill-host", "pause-host"))

TARGETS = (
    Target("PostgreSQL crash", frozenset(("kill-primary",)), None, p50_s=0.3, p99_s=0.8),
    Target("switchover", frozenset(("switchover",)), None, p50_s=0.4, p99_s=1.0),
    Target("host loss or partition", _HOST_FAULTS, "default", p50_s=2.5, p99_s=3.5),
    Target("host loss or partition", _HOST_FAULTS, "fast", p50_s=1.1, p99_s=1.6),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure of one group against its limit."""

    target: Target
    group: Group
    client: ClientKind
    figure: str  # p50 | p99
    measured_s: float
    limit_s: float
    is_max: bool  # too few rounds for a p99 of its own
    blamed: Sequence[tuple[str, float]]  # phase and seconds, the longest first; () if it is met

    @property
    def met(self) -> bool:
        return self.measured_s <= self.limit_s


def target_of(group: Group, targets: Iterable[Target] = TARGETS) -> Target | None:
    return next((target for target in targets if target.applies(group)), None)


def judge(groups: Iterable[Group], targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """Return a verdict for each figure of each group and kind of client that has a target."""
    targets = tuple(targets)
    verdicts = []
    for group in groups:
        target = target_of(group, targets)
        if target is None:
            continue
        for kind in ClientKind:
            summary = group.outage(kind)
            if summary is None:
                continue
            for figure, measured_s, limit_s in (
                ("p50", summary.p50, target.p50_s),
                ("p99", summary.p99, target.p99_s),
            ):
                slow = [d for d in group.durations(kind) if d.outage_s > limit_s]
                verdicts.append(
                    Verdict(
                        target=target,
                        group=group,
                        client=kind,
                        figure=figure,
                        measured_s=measured_s,
                        limit_s=limit_s,
                        is_max=figure == "p99" and summary.p99_is_max,
                        blamed=blame(slow) if measured_s > limit_s else (),
                    )
                )
    return verdicts


def blame(slow: Sequence[Durations]) -> list[tuple[str, float]]:
    """Return the phases with the highest mean over some rounds, at most BLAMED_MAX of them.

    The mean, not the median: one round in fifty makes a p99, and its long phase must not vanish.
    """
    if not slow:
        return []
    means = [(REMAINDER, statistics.mean(d.remainder_s for d in slow))]
    for phase in Phase:
        values = [value for d in slow if (value := d.phases[phase]) is not None]
        if values:
            means.append((phase.value, statistics.mean(values)))
    means.sort(key=lambda item: -item[1])
    return means[:BLAMED_MAX]
