"""What many runs came to: sums a scenario, marks, and the runs that failed.

In: outcomes in any order. Out: numbers for people and JSON. Sums do not depend on the order, and
failures are kept sorted, so that equal sets of runs give equal tallies; only `cpu_ns` is measured.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TypeVar

from sim.heap import NS_PER_MS
from sim.swarm.job import Outcome

FAILURES_MAX = 1000
"""Failing runs that are kept; all are counted. Those with the smallest seeds stay."""
OUTAGE_STEP_MS = 10
"""Outages are counted in steps of this size, upwards, which bounds what is kept."""

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed, as it can be told and repeated."""

    seed: int
    scenario: str
    check: str
    text: str
    at_ms: int  # virtual time
    nodes: tuple[str, ...] = ()
    file: str | None = None  # the saved run; None if it was not saved


@dataclass(slots=True)
class Row:
    """Sums over runs."""

    runs: int = 0
    failures: int = 0
    virtual_ns: int = 0
    cpu_ns: int = 0  # of the workers
    elections: int = 0
    failovers: int = 0
    acknowledged: int = 0
    unknown: int = 0
    messages: int = 0
    events: int = 0
    marks: dict[str, int] = field(default_factory=dict)  # mark → runs that reached it
    outages: dict[int, int] = field(default_factory=dict)  # ms, in steps → how many

    def add(self, outcome: Outcome) -> None:
        """Count one run."""
        result = outcome.result
        self.runs += 1
        self.failures += not result.ok
        self.cpu_ns += outcome.cpu_ns
        self.virtual_ns += result.virtual_ns
        self.elections += result.elections
        self.failovers += result.failovers
        self.acknowledged += result.acknowledged
        self.unknown += result.unknown
        self.messages += result.messages
        self.events += result.events
        _count(self.marks, {mark: 1 for mark, times in result.marks.items() if times})
        for outage_ms in result.outages_ms:
            _count(self.outages, {-(-outage_ms // OUTAGE_STEP_MS) * OUTAGE_STEP_MS: 1})

    def merge(self, other: Row) -> None:
        """Add the sums of other runs."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, dict):
                _count(mine, theirs)
            else:
                setattr(self, each.name, mine + theirs)

    def outage_ms(self, share: float) -> int | None:
        """Return the outage that `share` of all do not exceed; None without any."""
        wanted, seen = share * sum(self.outages.values()), 0
        for outage_ms in sorted(self.outages):
            seen += self.outages[outage_ms]
            if seen >= wanted:
                return outage_ms
        return None


@dataclass(slots=True)
class Tally:
    """What the runs of one engine version came to."""

    rows: dict[str, Row] = field(default_factory=dict)  # scenario → sums
    failures: list[Failure] = field(default_factory=list)  # sorted, at most FAILURES_MAX

    def add(self, outcome: Outcome, file: str | None = None) -> None:
        """Count one run; `file` is where a failing one was saved."""
        self.rows.setdefault(outcome.job.scenario, Row()).add(outcome)
        if not outcome.ok:
            self._keep([failure_of(outcome, file)])

    def merge(self, other: Tally) -> None:
        """Add other runs; a failure that is known already is not listed twice."""
        for scenario, row in other.rows.items():
            self.rows.setdefault(scenario, Row()).merge(row)
        self._keep(failure for failure in other.failures if failure not in self.failures)

    def total(self) -> Row:
        """Return the sums over all scenarios."""
        total = Row()
        for row in self.rows.values():
            total.merge(row)
        return total

    def _keep(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            bisect.insort(self.failures, failure, key=lambda kept: (kept.seed, kept.scenario))
        del self.failures[FAILURES_MAX:]

    def to_json(self) -> dict[str, object]:
        """Return the tally in plain values, for `tally_from_json`."""
        return {
            "scenarios": {name: row_json(self.rows[name]) for name in sorted(self.rows)},
            "failures": [failure_json(failure) for failure in self.failures],
        }


def failure_of(outcome: Outcome, file: str | None = None) -> Failure:
    """Return how a failing run is told."""
    violation = outcome.result.violation
    assert violation is not None
    return Failure(
        seed=outcome.job.seed,
        scenario=outcome.job.scenario,
        check=violation.check,
        text=violation.text,
        at_ms=violation.at_ns // NS_PER_MS,
        nodes=tuple(violation.nodes),
        file=file,
    )


def failure_json(failure: Failure) -> dict[str, object]:
    """Return a failure in plain values."""
    return asdict(failure) | {"nodes": list(failure.nodes)}


def row_json(row: Row) -> dict[str, object]:
    """Return sums in plain values, keys sorted."""
    marks = {mark: row.marks[mark] for mark in sorted(row.marks)}
    outages = {str(outage_ms): row.outages[outage_ms] for outage_ms in sorted(row.outages)}
    return asdict(row) | {"marks": marks, "outages": outages}


def tally_from_json(data: object) -> Tally:
    """Return the tally that `Tally.to_json` was called on.

    Raises:
        ValueError: it is none; the text says what is wrong.
    """
    parts = _mapping(data, "the tally")
    scenarios = _mapping(parts.get("scenarios"), "scenarios")
    failures = parts.get("failures")
    if not isinstance(failures, list):
        raise ValueError("failures is no list")
    tally = Tally({name: _row(name, row) for name, row in scenarios.items()})
    tally._keep(_failure(failure) for failure in failures)
    return tally


def _row(name: str, data: object) -> Row:
    values = _mapping(data, f"scenario {name}")
    row = Row()
    for each in fields(row):
        value = values.get(each.name)
        if isinstance(getattr(row, each.name), int):
            setattr(row, each.name, _integer(value, each.name))
        else:
            counts = _mapping(value, each.name)
            numbers = {key: _integer(count, key) for key, count in counts.items()}
            if each.name == "outages":
                row.outages = {int(key): count for key, count in numbers.items()}
            else:
                row.marks = numbers
    return row


def _failure(data: object) -> Failure:
    values = _mapping(data, "a failure")
    nodes, file = values.get("nodes"), values.get("file")
    if not isinstance(nodes, list) or not (file is None or isinstance(file, str)):
        raise ValueError("a failure has no nodes, or an odd file")
    return Failure(
        seed=_integer(values.get("seed"), "seed"),
        scenario=str(values.get("scenario")),
        check=str(values.get("check")),
        text=str(values.get("text")),
        at_ms=_integer(values.get("at_ms"), "at_ms"),
        nodes=tuple(str(node) for node in nodes),
        file=file,
    )


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no mapping")
    return value


def _integer(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{what} is no whole number")
    return value


def _count(counts: dict[K, int], more: Mapping[K, int]) -> None:
    for key, times in more.items():
        counts[key] = counts.get(key, 0) + times
