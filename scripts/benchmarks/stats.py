"""Percentiles of a few dozen values, and nothing that they do not support."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

P90 = 0.9
P99 = 0.99


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one series, in the unit of its values."""

    count: int
    min: float
    p50: float
    p90: float
    p99: float  # the maximum while `count` is below 100
    max: float

    @property
    def p99_is_max(self) -> bool:
        return self.p99 == self.max


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed.

    That is the nearest rank: always a value that was measured. An interpolated p99 of twenty
    values would be below the worst of them, and look better than anything that was seen.
    """
    assert values, "nothing was measured"
    assert 0 < share <= 1, share
    # 0.9 * 10 is a little above 9 in binary: without the tolerance its rank would be 10.
    rank = math.ceil(share * len(values) - 1e-9)
    return sorted(values)[max(rank, 1) - 1]


def summarize(values: Sequence[float]) -> Summary | None:
    """Return the figures; None when there is no value. p50 is the usual median."""
    if not values:
        return None
    return Summary(
        count=len(values),
        min=min(values),
        p50=statistics.median(values),
        p90=percentile(values, P90),
        p99=percentile(values, P99),
        max=max(values),
    )
