"""Numbers of a run that judge nothing: outcomes, latencies, outages."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chaos.facts import Facts, Limits
from chaos.history import Kind, Outcome


@dataclass(frozen=True, slots=True)
class Outage:
    begin: float  # end of the last acknowledged write before
    end: float  # end of the next one, or of the last operation of all
    faults: tuple[str, ...]  # that were on at any time in it

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Latency:
    """Of what was acknowledged, in seconds; nearest ranks."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Statistics:
    outcomes: Mapping[str, Mapping[str, int]]  # client → outcome → operations
    warnings: int  # operations in doubt for a warning alone
    latencies: Mapping[str, Latency]  # by kind
    outages: tuple[Outage, ...]
    errors: Mapping[str, int]  # the most frequent, by their text


ERRORS_MAX = 10
ERROR_CHARS = 80


def statistics(facts: Facts, limits: Limits) -> Statistics:
    counts: dict[str, Counter[str]] = {}
    for op in facts.operations:
        counts.setdefault(op.client, Counter())[str(op.outcome)] += 1
    latencies = {}
    for kind in Kind:
        times = [
            op.end - op.begin
            for op in facts.operations
            if op.kind is kind and op.outcome is Outcome.OK
        ]
        if times:
            latencies[str(kind)] = _latency(times)
    errors = Counter(op.error[:ERROR_CHARS] for op in facts.operations if op.error)
    return Statistics(
        outcomes={
            client: {str(outcome): found[str(outcome)] for outcome in Outcome}
            for client, found in sorted(counts.items())
        },
        warnings=sum(1 for op in facts.operations if op.warning),
        latencies=latencies,
        outages=_outages(facts, limits.outage_s),
        errors=dict(errors.most_common(ERRORS_MAX)),
    )


def _latency(times: Sequence[float]) -> Latency:
    ordered = sorted(times)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Latency(len(ordered), rank(0.5), rank(0.99), ordered[-1])


def _outages(facts: Facts, longer_than_s: float) -> tuple[Outage, ...]:
    """Return the gaps between acknowledged writes, and the one after the last of them."""
    times = sorted(op.end for op in facts.acknowledged)
    if times:
        times.append(max(op.end for op in facts.operations if op.writes))
    return tuple(
        Outage(a, b, facts.faults_between(a, b))
        for a, b in itertools.pairwise(times)
        if b - a > longer_than_s
    )
