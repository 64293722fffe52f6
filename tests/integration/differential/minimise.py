"""Shorten a sequence that shows a difference, as long as it goes on showing the same one."""

from __future__ import annotations

from collections.abc import Callable

from differential.compare import Report
from differential.tracker import applicable
from differential.vocabulary import Command

RUNS_MAX = 200

Commands = tuple[Command, ...]


def minimise(first: Report, run: Callable[[Commands], Report]) -> Report:
    """Return the report of a sequence from which no single command can be left out.

    Args:
        first: a report with an unexplained difference.
        run: compares a sequence.
    """
    assert first.moment is not None
    wanted = first.moment.name.rpartition(".")[2]  # the kind of observable, not whose
    best = first
    commands = first.commands[: first.done]
    size, runs = max(1, len(commands) // 2), 0
    while size and runs < RUNS_MAX:
        shorter = None
        for end in range(len(commands), 0, -size):
            candidate = applicable(commands[: max(0, end - size)] + commands[end:])
            if len(candidate) >= len(commands):
                continue
            runs += 1
            report = run(candidate)
            if report.moment is not None and report.moment.name.endswith(wanted):
                best, shorter = report, report.commands[: report.done]
                break
        if shorter is not None:
            commands = shorter
            size = min(size, max(1, len(commands) // 2))
        else:
            size //= 2
    return best
