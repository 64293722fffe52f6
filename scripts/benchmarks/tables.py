"""Tables of results, for a terminal and for Markdown from the same rows. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.phases import REMAINDER, Phase
from benchmarks.results import ClientKind, Group, Series
from benchmarks.stats import P90, Summary, percentile, summarize
from benchmarks.targets import Verdict, target_of

NONE = "–"
CLIENT_NAMES = {ClientKind.KEPT: "kept", ClientKind.NEW: "new"}


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text. The first `left` columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    def text(self) -> str:
        """Return the table aligned, for a fixed-width font."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < self.left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        rule = ["---" if i < self.left else "---:" for i in range(len(self.header))]
        lines = [self.header, rule, *self.rows]
        return "\n".join(
            "| " + " | ".join(c.replace("|", "\\|") for c in ln) + " |" for ln in lines
        )


def milliseconds(value_s: float | None) -> str:
    return NONE if value_s is None else f"{value_s * 1000:.0f}"


def outage_table(groups: Iterable[Group]) -> Table:
    """Return outages, gaps and errors of each group and kind of clients, in milliseconds."""
    header = (
        *("fault", "timing", "connections", "n", "min", "p50", "p90", "p99", "max"),
        *("target p50/p99", "gap p50", "gap max", "failed", "in doubt"),
    )
    rows = []
    for group in groups:
        target = target_of(group)
        limits = f"{target.p50_s * 1000:.0f}/{target.p99_s * 1000:.0f}" if target else NONE
        for kind in ClientKind:
            seen = [round_.clients[kind] for round_ in group.rounds]
            gap = summarize(group.gaps(kind))
            rows.append(
                (
                    group.fault,
                    group.timing,
                    CLIENT_NAMES[kind],
                    *_figures(group.outage(kind), len(group.rounds)),
                    limits,
                    milliseconds(gap.p50 if gap else None),
                    milliseconds(gap.max if gap else None),
                    str(sum(s.errors for s in seen)),
                    str(sum(s.unknown for s in seen)),
                )
            )
    return Table(header, rows, left=3)


def _figures(summary: Summary | None, rounds: int) -> tuple[str, ...]:
    if summary is None:
        return (str(rounds), *[NONE] * 5)
    values = (summary.min, summary.p50, summary.p90, summary.p99, summary.max)
    return (str(summary.count), *(milliseconds(value) for value in values))


def phase_table(groups: Sequence[Group]) -> Table:
    """Return median/p90 of each phase of each group, in milliseconds.

    All but the last phase are the servers' and the same for every client. So the table is that of
    the kept connections, with the last phase of the new ones below.
    """
    kind = ClientKind.KEPT
    groups = [group for group in groups if group.durations(kind)]
    rows = []
    for phase in Phase:
        cells = [
            _spread([v for d in group.durations(kind) if (v := d.phases[phase]) is not None])
            for group in groups
        ]
        rows.append((phase.value, *cells))
    rows.append((REMAINDER, *(_spread([d.remainder_s for d in g.durations(kind)]) for g in groups)))
    rows.append(("outage", *(_spread([d.outage_s for d in g.durations(kind)]) for g in groups)))
    fresh = [
        _spread(
            [v for d in g.durations(ClientKind.NEW) if (v := d.phases[Phase.WRITE]) is not None]
        )
        for g in groups
    ]
    rows.append((f"{Phase.WRITE}, with new connections", *fresh))
    names: dict[str, None] = {}
    for group in groups:
        for round_ in group.rounds:
            names.update(dict.fromkeys(round_.course.details if round_.course else ()))
    order = [phase.value for phase in Phase]
    for name in sorted(names, key=lambda n: order.index(n.partition(":")[0])):
        cells = [
            _spread(
                [r.course.details[name] for r in g.rounds if r.course and name in r.course.details]
            )
            for g in groups
        ]
        rows.append((f"in {name}", *cells))
    rows.append(("rounds with more than one candidacy", *(_contested(g) for g in groups)))
    return Table(("phase", *(group.name for group in groups)), rows)


def _contested(group: Group) -> str:
    """Return in how many rounds somebody else stood too, or an election had to be repeated."""
    courses = [round_.course for round_ in group.rounds if round_.course is not None]
    return f"{sum(course.candidacies > 1 for course in courses)} of {len(courses)}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    return f"{milliseconds(statistics.median(values))} / {milliseconds(percentile(values, P90))}"


def verdict_table(verdicts: Iterable[Verdict]) -> Table:
    rows = []
    for verdict in verdicts:
        figure = f"{verdict.figure} (max)" if verdict.is_max else verdict.figure
        blamed = ", then ".join(f"{name} {milliseconds(s)}" for name, s in verdict.blamed)
        rows.append(
            (
                verdict.target.what,
                verdict.group.name,
                CLIENT_NAMES[verdict.client],
                figure,
                "met" if verdict.met else "MISSED",
                blamed,
                milliseconds(verdict.measured_s),
                milliseconds(verdict.limit_s),
            )
        )
    header = (
        *("target", "fault, timing", "connections", "figure", "verdict"),
        *("takes the most where missed", "measured", "limit"),
    )
    return Table(header, rows, left=6)


def rows_table(series: Iterable[Series]) -> Table:
    """Return what became of the rows; a series that broke before the count has none."""
    rows = []
    for one in series:
        for kind, r in one.rows.items():
            numbers = (r.acknowledged, r.lost, r.duplicated, r.surplus, r.unknown, r.errors)
            rows.append((one.timing, CLIENT_NAMES[kind], *(str(number) for number in numbers)))
    header = (
        *("timing", "connections", "acknowledged", "lost", "duplicated", "surplus"),
        *("in doubt", "failed attempts"),
    )
    return Table(header, rows, left=2)
