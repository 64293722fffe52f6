"""Judge a run by what independent clients were told and by the rows that are there at the end.

`check` is a pure function of the history and the final rows; `python -m chaos.checker DIR` reads
both and prints its report. Nothing of the program under test is used. Every violation names a
check and shows the operations that prove it; notes are worth a look and break no promise.

Exit codes: 0 nothing is violated, 1 something is, 3 the history cannot be read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos import check_end, check_reads, check_rows, check_servers
from chaos.facts import Facts, Finding, Limits, Rows, shorten
from chaos.history import History, HistoryError, Run, read_directory, read_finals
from chaos.statistics_of_run import Statistics, statistics

EXIT_OK = 0
EXIT_VIOLATED = 1
EXIT_UNREADABLE = 3

_CHECKS = (
    check_rows.lost,
    check_rows.duplicated,
    check_rows.surplus,
    check_rows.torn_txn,
    check_rows.foreign,
    check_servers.two_acknowledge,
    check_servers.two_writable,
    check_reads.missing_in_reads,
    check_end.contents_differ,
    check_end.checksums,
    check_end.left_behind,
    check_end.incomplete,
)
_CHECKS_WITH_LIMITS = (check_end.not_streaming, check_end.unavailable)
_NOTES = (
    check_servers.both_writable,
    check_reads.vanished_unacknowledged,
    check_rows.unrecorded,
    check_end.checksums_skipped,
    check_end.torn_lines,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    run: Run | None
    violations: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    statistics: Statistics

    @property
    def ok(self) -> bool:
        return not self.violations


def check(history: History, finals: Mapping[str, Rows], limits: Limits | None = None) -> Report:
    """Return what the history and each node's rows at the end prove.

    Args:
        finals: node → its (key, value) rows; a node whose rows could not be read is absent.
    """
    limits = limits or Limits()
    facts = Facts(history, finals)
    violations = [finding for judge in _CHECKS for finding in judge(facts)]
    violations += [finding for judge in _CHECKS_WITH_LIMITS for finding in judge(facts, limits)]
    notes = [finding for judge in _NOTES for finding in judge(facts)]
    return Report(
        run=facts.run,
        violations=tuple(shorten(violations)),
        notes=tuple(shorten(notes)),
        statistics=statistics(facts, limits),
    )


def render_text(report: Report) -> str:
    """Return the report for people."""
    lines: list[str] = []
    if report.run is not None:
        run = report.run
        nodes = ", ".join(run.nodes)
        lines.append(f"run {run.id}: {run.scenario}, seed {run.seed}, nodes {nodes}")
    for title, findings in (("VIOLATED", report.violations), ("note", report.notes)):
        for finding in findings:
            lines.append(f"{title} {finding.check}: {finding.text}")
            lines += [f"    {line}" for line in finding.evidence]
    numbers = report.statistics
    for client, counts in numbers.outcomes.items():
        found = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        lines.append(f"client {client}: {found}")
    for kind, latency in numbers.latencies.items():
        lines.append(
            f"latency of {latency.count} {kind}: p50 {latency.p50_s * 1000:.1f} ms,"
            f" p99 {latency.p99_s * 1000:.1f} ms, max {latency.max_s * 1000:.1f} ms"
        )
    for outage in numbers.outages:
        why = "; ".join(outage.faults) or "no fault was on"
        lines.append(f"outage {outage.begin:.3f}–{outage.end:.3f}: {outage.seconds:.2f} s ({why})")
    lines += [f"error {count} times: {text}" for text, count in numbers.errors.items()]
    if numbers.warnings:
        lines.append(f"{numbers.warnings} operations came with a warning")
    names = sorted({finding.check for finding in report.violations})
    lines.append(f"violated: {', '.join(names)}" if names else "nothing is violated")
    return "\n".join(lines) + "\n"


def render_json(report: Report) -> str:
    """Return the report as one JSON object."""
    found = {"ok": report.ok, **dataclasses.asdict(report)}
    return json.dumps(found, ensure_ascii=False, indent=2, default=str) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    standard = Limits()
    parser = argparse.ArgumentParser(prog="python -m chaos.checker")
    parser.add_argument("directory", type=Path, help="with history.jsonl and the final rows")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--recover", type=float, default=standard.recover_s, metavar="S")
    parser.add_argument("--settle", type=float, default=standard.settle_s, metavar="S")
    parser.add_argument("--gap", type=float, default=standard.gap_s, metavar="S")
    found = parser.parse_args(arguments)
    limits = Limits(recover_s=found.recover, settle_s=found.settle, gap_s=found.gap)
    try:
        history = read_directory(found.directory)
        finals = read_finals(found.directory, history)
    except HistoryError as error:
        sys.stderr.write(f"cannot be read: {error}\n")
        return EXIT_UNREADABLE
    report = check(history, finals, limits)
    sys.stdout.write(render_json(report) if found.json else render_text(report))
    return EXIT_OK if report.ok else EXIT_VIOLATED


if __name__ == "__main__":
    sys.exit(main())
