"""The result of a whole run, as text for a terminal, as Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.machine import Machine
from benchmarks.results import ClientKind, Series, groups
from benchmarks.tables import (
    Table,
    outage_table,
    phase_table,
    rows_table,
    verdict_table,
)
from benchmarks.targets import judge

ROUNDS_FOR_P99 = 100


@dataclass(frozen=True, slots=True)
class Result:
    """Everything there is to print."""

    machine: Machine
    command: str
    series: Sequence[Series]
    load_after: float  # of one minute; the run itself is part of it
    finished: bool = True  # False: series were planned that did not begin

    @property
    def good(self) -> bool:
        """Return whether every series came to its end and no row was lost, doubled or invented."""
        return self.finished and bool(self.series) and all(one.good for one in self.series)


def p99_note(result: Result) -> str:
    fewest = min((len(group.rounds) for group in groups(result.series)), default=0)
    if fewest >= ROUNDS_FOR_P99:
        return ""
    return f"With fewer than {ROUNDS_FOR_P99} rounds a p99 is the maximum; here it is of {fewest}."


def loss_line(result: Result) -> str:
    """Return the verdict on the rows in one sentence."""
    counted = [rows for one in result.series for rows in one.rows.values()]
    uncounted = [one.timing for one in result.series if not one.rows]
    lost = sum(rows.lost for rows in counted)
    doubled = sum(rows.duplicated for rows in counted)
    surplus = sum(rows.surplus for rows in counted)
    acknowledged = sum(rows.acknowledged for rows in counted)
    if lost + doubled + surplus:
        verdict = "MISSED"
    else:
        verdict = "met" if counted and not uncounted else "not known"
    text = (
        f"Of {acknowledged} acknowledged rows {lost} are lost and {doubled} duplicated; {surplus} "
        f"rows are there that certainly failed (target: 0, 0, 0): {verdict}."
    )
    if uncounted:
        text += f" Not counted: {', '.join(uncounted)}."
    return text


def tables(result: Result) -> list[tuple[str, Table]]:
    """Return the tables with their headings; those without a row are left out."""
    found = groups(result.series)
    all_tables = [
        ("Outage, in milliseconds", outage_table(found)),
        ("Against the targets, in milliseconds", verdict_table(judge(found))),
        ("Phases, median / p90 in milliseconds, connections kept", phase_table(found)),
        ("Rows", rows_table(result.series)),
    ]
    return [(heading, table) for heading, table in all_tables if table.rows]


def text(result: Result) -> str:
    parts = [f"{heading}\n\n{table.text()}" for heading, table in tables(result)]
    notes = [p99_note(result), loss_line(result), *errors(result)]
    return "\n\n".join([*parts, "\n".join(note for note in notes if note)]) + "\n"


def errors(result: Result) -> list[str]:
    found = [f"{one.timing}: BROKE OFF: {one.error}" for one in result.series if one.error]
    return found if result.finished else [*found, "Some series did not begin."]


def markdown(result: Result, *, picture: str | None) -> str:
    """Return a section for docs/benchmarks.md.

    Args:
        picture: where the plot is, as seen from the document; None if there is none.
    """
    machine = result.machine
    versions = sorted({one.postgres for one in result.series if one.postgres})
    rounds = sum(len(one.rounds) for one in result.series)
    heading = f"### Failover, {machine.date.split(' ')[0]}"
    facts = [
        f"- **Machine:** {machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB; "
        f"Linux {machine.kernel}, data on {machine.file_system}. Three nodes and all clients on "
        "it.",
        f"- **Versions:** metako {machine.metako} at commit `{machine.commit or 'unknown'}`, "
        f"PostgreSQL {', '.join(versions) or 'unknown'}, Python {machine.python}.",
        f"- **When:** begun {machine.date} UTC; load average {machine.load_before} before, "
        f"{result.load_after} after; {rounds} rounds.",
    ]
    parts = [heading, "\n".join(facts), f"```\n{result.command}\n```"]
    for title, table in tables(result):
        parts += [f"**{title}**", table.markdown()]
        if title.startswith("Outage") and picture is not None:
            parts.append(f"![Outages and their phases]({picture})")
    notes = [p99_note(result), loss_line(result), *(e.split("\n")[0] for e in errors(result))]
    return "\n\n".join([*parts, *(note for note in notes if note)]) + "\n"


def as_json(result: Result) -> dict[str, object]:
    """Return everything, each round by itself; times in milliseconds where the name says so."""
    found = groups(result.series)
    return {
        "machine": asdict(result.machine),
        "command": result.command,
        "load_after": result.load_after,
        "good": result.good,
        "series": [_series(one) for one in result.series],
        "outages": [
            {
                "fault": group.fault,
                "timing": group.timing,
                "connections": kind.value,
                "rounds": len(group.rounds),
                **_in_milliseconds(asdict(summary), keep=("count",)),
            }
            for group in found
            for kind in ClientKind
            if (summary := group.outage(kind)) is not None
        ],
        "targets": [
            {
                "target": verdict.target.what,
                "fault": verdict.group.fault,
                "timing": verdict.group.timing,
                "connections": verdict.client.value,
                "figure": verdict.figure,
                "measured_ms": round(verdict.measured_s * 1000, 1),
                "limit_ms": round(verdict.limit_s * 1000, 1),
                "met": verdict.met,
                "takes_the_most_ms": {n: round(s * 1000, 1) for n, s in verdict.blamed},
            }
            for verdict in judge(found)
        ],
    }


def _series(one: Series) -> dict[str, object]:
    return {
        "timing": one.timing,
        "postgres": one.postgres,
        "error": one.error,
        "rows": {kind.value: asdict(rows) for kind, rows in one.rows.items()},
        "rounds": [
            {
                "number": round_.number,
                "fault": round_.fault,
                "victim": round_.victim,
                "successor": round_.course.successor if round_.course else None,
                "candidacies": round_.course.candidacies if round_.course else None,
                "injection_ms": round(round_.injection_s * 1000, 1),
                "connections": {kind.value: _seen(one, i, kind) for kind in round_.clients},
                "details_ms": _in_milliseconds(round_.course.details) if round_.course else {},
            }
            for i, round_ in enumerate(one.rounds)
        ],
    }


def _seen(one: Series, index: int, kind: ClientKind) -> dict[str, object]:
    round_ = one.rounds[index]
    seen, parts = round_.clients[kind], round_.durations(kind)
    phases: Mapping[str, float | None] = {}
    if parts is not None:
        phases = {**{p.value: v for p, v in parts.phases.items()}, "remainder": parts.remainder_s}
    return {
        "outage_ms": None if seen.outage_s is None else round(seen.outage_s * 1000, 1),
        "gap_ms": None if seen.gap_s is None else round(seen.gap_s * 1000, 1),
        "errors": seen.errors,
        "unknown": seen.unknown,
        "phases_ms": _in_milliseconds(phases),
    }


def _in_milliseconds(
    values: Mapping[str, float | None], *, keep: Sequence[str] = ()
) -> dict[str, float | None]:
    return {
        name: value if value is None or name in keep else round(value * 1000, 1)
        for name, value in values.items()
    }
