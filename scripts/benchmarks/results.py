"""What the failover benchmark measures, as values. Pure.

A `Series` is all rounds on one cluster, a `Round` one fault. Times are seconds; a client's times
are on CLOCK_MONOTONIC. The definitions of the figures are here and nowhere else.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.phases import Course, Durations, durations
from benchmarks.stats import Summary, summarize
from metako.demo.writer import Record, longest_gap

LOOKBACK_S = 1.0
"""A gap is looked for among acknowledgements from this long before the fault."""


class ClientKind(enum.StrEnum):
    """How the clients of a writer use connections."""

    KEPT = "kept"  # one for many rows; a new one, at the next proxy, after an error
    NEW = "new"  # one for each row


@dataclass(frozen=True, slots=True)
class Seen:
    """What the clients of one kind saw of one fault."""

    outage_s: float | None  # fault → end of the interruption; None when writes need not stop
    gap_s: float | None  # longest time between two acknowledgements
    errors: int  # attempts that certainly failed, until the cluster was whole again
    unknown: int  # rows whose outcome was not told, until then


@dataclass(frozen=True, slots=True)
class Round:
    """One fault."""

    timing: str
    fault: str
    number: int  # within the series, from 1
    victim: str
    injection_s: float  # how long it took to do the fault: /proc is searched for processes
    clients: Mapping[ClientKind, Seen]
    course: Course | None  # None: no new primary, or the wall clock was set meanwhile

    def durations(self, kind: ClientKind) -> Durations | None:
        outage_s = self.clients[kind].outage_s
        if self.course is None or outage_s is None:
            return None
        return durations(self.course, outage_s=outage_s)


@dataclass(frozen=True, slots=True)
class Rows:
    """What became of the rows that one kind of clients wrote, over a whole series."""

    acknowledged: int
    unknown: int
    errors: int
    lost: int  # acknowledged and not there
    duplicated: int
    surplus: int  # there although every attempt certainly failed

    @property
    def right(self) -> bool:
        return not (self.lost or self.duplicated or self.surplus)


@dataclass(slots=True)
class Series:
    """All rounds with one timing profile, on one cluster of its own."""

    timing: str
    rounds: list[Round] = field(default_factory=list)
    rows: dict[ClientKind, Rows] = field(default_factory=dict)  # empty: it broke before the count
    postgres: str = ""  # version of the servers
    error: str = ""  # why it ended early; "" if it did not

    @property
    def good(self) -> bool:
        return not self.error and bool(self.rows) and all(r.right for r in self.rows.values())


@dataclass(frozen=True, slots=True)
class Group:
    """The rounds of one fault with one timing profile."""

    timing: str
    fault: str
    rounds: Sequence[Round]

    @property
    def name(self) -> str:
        return f"{self.fault}, {self.timing}"

    def outages(self, kind: ClientKind) -> list[float]:
        return [s for r in self.rounds if (s := r.clients[kind].outage_s) is not None]

    def gaps(self, kind: ClientKind) -> list[float]:
        return [s for r in self.rounds if (s := r.clients[kind].gap_s) is not None]

    def outage(self, kind: ClientKind) -> Summary | None:
        return summarize(self.outages(kind))

    def durations(self, kind: ClientKind) -> list[Durations]:
        return [d for r in self.rounds if (d := r.durations(kind)) is not None]


def groups(series: Iterable[Series]) -> list[Group]:
    """Return the rounds by fault, sorted, and timing, in the order of the series."""
    found: dict[tuple[str, str], list[Round]] = {}
    for one in series:
        for round_ in one.rounds:
            found.setdefault((round_.fault, round_.timing), []).append(round_)
    order = sorted(found, key=lambda key: key[0])
    return [Group(timing, fault, tuple(found[fault, timing])) for fault, timing in order]


def interruption(
    record: Record, *, fault_s: float, injected_s: float, stops_writes: bool = True
) -> tuple[float | None, float | None]:
    """Return the outage and the longest gap around a fault, both in seconds.

    The gap is the longest time between two acknowledgements that ends after the fault. The outage
    counts from the fault to the first acknowledgement at or after the end of that gap, of a write
    that was sent after the fault was done. The end of the gap is asked for because some faults
    let a few more writes through: the last backends of a killed postmaster, a server whose agent
    is frozen until its guard ends it.

    Args:
        fault_s: just before the fault was begun.
        injected_s: when it was done.
        stops_writes: whether the fault must interrupt writes; otherwise there is no outage.
    """
    times = record.times_after(fault_s - LOOKBACK_S)
    gap = longest_gap(times, fault_s)
    if gap is None:
        return None, None
    gap_s = gap[1] - gap[0]
    if not stops_writes:
        return None, gap_s
    ends = []
    for row, time_s in reversed(record.acknowledged.items()):
        if time_s < gap[1]:
            break
        if record.begun.get(row, fault_s) >= injected_s:
            ends.append(time_s)
    return (min(ends) - fault_s if ends else None), gap_s
