"""The result of a swarm in words and as JSON.

In: tallies and what the comparison found. Out: lines and plain values. But for CPU time nothing in
them depends on how the runs were spread over workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from metako.cli.output import plain_table, printable
from sim.cli import words
from sim.cli.verdict import run_command
from sim.swarm.tally import Failure, Row, Tally, failure_json, row_json
from sim.swarm.verify import Difference, Verification

COLUMNS = (
    *("scenario", "runs", "failed", "virtual", "CPU", "elections", "failovers"),
    *("acknowledged", "outage p50", "p99", "max"),
)
FAILURES_SHOWN = 20
FAILURE_SHOWN_MAX = 200
"""Characters of a failure that are shown while others are still played."""
SOMETIMES_RUNS_MIN = 20
"""Runs of a scenario from which on a mark that "sometimes" is reached should have been."""
LINE_SHOWN_MAX = 300
"""Characters of a differing event that are shown; a trace line may be long."""


def lines(tally: Tally, marks: Iterable[str], *, verbose: bool) -> list[str]:
    """Return the sums of a swarm; with `verbose` a row for each scenario too."""
    total = tally.total()
    speed = f"{words.ratio(total.virtual_ns, total.cpu_ns)} virtual seconds per CPU second"
    found = words.facts(
        [
            ("runs", f"{total.runs}, {total.failures} failed"),
            ("virtual time", f"{words.hours(total.virtual_ns)} in {words.cpu(total.cpu_ns)} CPU"),
            ("speed", speed),
            ("elections", f"{total.elections}; {words.plural(total.failovers, 'failover')}"),
            ("commits", f"{total.acknowledged} acknowledged, {total.unknown} of unknown outcome"),
            ("outages", _outages(total)),
            ("marks", _marks(total, marks, verbose=verbose)),
        ]
    )
    if verbose and tally.rows:
        rows = [_cells(name, tally.rows[name]) for name in sorted(tally.rows)]
        found += ["", *plain_table(COLUMNS, rows)]
    return found


def missed_marks(
    tally: Tally, sometimes: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the marks that scenarios expect some of their runs to reach, and none of many did."""
    missed = {}
    for name, row in sorted(tally.rows.items()):
        if row.runs < SOMETIMES_RUNS_MIN:
            continue
        marks = tuple(mark for mark in sometimes.get(name, ()) if mark not in row.marks)
        if marks:
            missed[name] = marks
    return missed


def missed_lines(missed: Mapping[str, Sequence[str]]) -> list[str]:
    """Return them as lines."""
    rows = [(printable(name), ", ".join(marks)) for name, marks in missed.items()]
    return ["", "marks that these scenarios promise, and no run reached:", *words.facts(rows)]


def failure_lines(
    failures: Sequence[Failure], count: int, *, mutation: str | None, extra_faults: bool
) -> list[str]:
    """Return what failed and how to see it again; `count` is how many runs failed in all."""
    found = []
    for failure in failures[:FAILURES_SHOWN]:
        command = run_command(
            failure.scenario, failure.seed, extra_faults=extra_faults, mutation=mutation
        )
        found += ["", failure_line(failure), f"  {command}"]
        if failure.file is not None:
            found.append(f"  python -m sim replay {failure.file}")
    if count > FAILURES_SHOWN:
        found += ["", f"… {count - FAILURES_SHOWN} more (--json has them)"]
    return found


def failure_line(failure: Failure) -> str:
    """Return what failed, in one line."""
    when = f", {failure.at_ms / 1000:.3f} s" if failure.at_ms else ""
    where = f"seed {failure.seed}, {failure.scenario}{when}"
    return printable(f"{where}: {failure.check}: {' '.join(failure.text.split())}")


def earlier_lines(failures: Sequence[Failure]) -> list[str]:
    """Return what failed in earlier calls of the same campaign."""
    found = [f"  failed: {short(failure_line(failure))}" for failure in failures[:FAILURES_SHOWN]]
    if len(failures) > FAILURES_SHOWN:
        found.append(f"  … {len(failures) - FAILURES_SHOWN} more (--json has them)")
    return found


def short(line: str) -> str:
    """Return a line that is not too long for a list."""
    return line if len(line) <= FAILURE_SHOWN_MAX else line[:FAILURE_SHOWN_MAX] + " …"


def verification_lines(found: Verification) -> list[str]:
    """Return what the comparison of repeated runs found."""
    if not found.differences:
        return [f"verified: {words.plural(found.runs, 'run')} repeated with equal traces"]
    shown = [f"NOT REPEATABLE: {len(found.differences)} of {words.plural(found.runs, 'run')}"]
    for difference in found.differences[:FAILURES_SHOWN]:
        shown.append(f"  seed {difference.seed}, {difference.scenario}: {difference.text}")
        if difference.divergence is not None:
            shown.append(
                f"    line {difference.divergence.line}, first run:  "
                + _event(difference.divergence.expected)
            )
            shown.append(
                f"    line {difference.divergence.line}, second run: "
                + _event(difference.divergence.got)
            )
    return shown


def tally_json(tally: Tally, marks: Iterable[str]) -> dict[str, object]:
    """Return sums, scenarios, marks and failures in plain values."""
    total = tally.total()
    sums = row_json(total)
    sums["outage_p50_ms"] = total.outage_ms(0.5)
    sums["outage_p99_ms"] = total.outage_ms(0.99)
    sums["outage_max_ms"] = total.outage_ms(1)
    return {
        "total": sums,
        "scenarios": {name: row_json(tally.rows[name]) for name in sorted(tally.rows)},
        "marks_never_reached": [mark for mark in marks if mark not in total.marks],
        "failures": [failure_json(failure) for failure in tally.failures],
    }


def verification_json(found: Verification) -> dict[str, object]:
    """Return what the comparison found in plain values."""
    return {"runs": found.runs, "differences": [_difference(each) for each in found.differences]}


def _difference(difference: Difference) -> dict[str, object]:
    divergence = difference.divergence
    event = None
    if divergence is not None:
        event = {
            "line": divergence.line,
            "first": divergence.expected,
            "second": divergence.got,
        }
    return {
        "seed": difference.seed,
        "scenario": difference.scenario,
        "text": difference.text,
        "event": event,
    }


def _event(line: str) -> str:
    if not line:
        return "(the trace had ended)"
    return printable(line if len(line) <= LINE_SHOWN_MAX else line[:LINE_SHOWN_MAX] + " …")


def _marks(total: Row, marks: Iterable[str], *, verbose: bool) -> str:
    known = list(marks)
    never = [mark for mark in known if mark not in total.marks]
    text = f"{len(known) - len(never)} of {len(known)} reached"
    if verbose and total.marks:
        reached = [f"{mark} {total.marks[mark]}" for mark in sorted(total.marks)]
        text += f" (in how many runs):\n{words.wrapped(reached)}"
    if never:
        text += f"\nnever: {words.wrapped(never)}"
    return text


def _outages(row: Row) -> str:
    p50, p99, longest = row.outage_ms(0.5), row.outage_ms(0.99), row.outage_ms(1)
    if p50 is None or p99 is None or longest is None:
        return "none"
    shown = [words.milliseconds(each) for each in (p50, p99, longest)]
    return f"median {shown[0]}, p99 {shown[1]}, longest {shown[2]}"


def _cells(name: str, row: Row) -> tuple[str, ...]:
    outages = [row.outage_ms(share) for share in (0.5, 0.99, 1)]
    return (
        *(printable(name), str(row.runs), str(row.failures), words.hours(row.virtual_ns)),
        *(words.cpu(row.cpu_ns), str(row.elections), str(row.failovers), str(row.acknowledged)),
        *("-" if each is None else words.milliseconds(each) for each in outages),
    )
