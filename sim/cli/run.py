"""`run` and `replay`: one run, told at length.

In: what the options name. Out: a verdict on stdout, a trace and a page in files if asked for, and
the exit code: 0 for a run without a violation, 1 otherwise. Files are opened before the run, so
that a path that cannot be written is told at once.
"""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from metako.cli.output import write_json, write_line
from sim.cli import catalog, verdict, words
from sim.result import Result, Violation
from sim.swarm.job import EXCEPTION, raised

Taker: TypeAlias = Callable[[str], None]
"""Takes the lines of a trace."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the user wants to see of a run."""

    trace: Path | None = None
    html: Path | None = None
    save: Path | None = None  # the concrete faults, for `replay`
    as_json: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class Played:
    """A run and what it cost."""

    result: Result
    cpu_ns: int


def run(name: str, seed: int, shown: Shown, *, mutation: str | None, extra_faults: bool) -> int:
    """Play one run and tell what happened."""
    from sim.play import play

    catalog.check_mutation(mutation)
    scenario = catalog.scenario(name)
    command = verdict.run_command(name, seed, extra_faults=extra_faults, mutation=mutation)

    def one(trace: Taker | None) -> Result:
        return play(
            scenario,
            seed,
            trace=trace,
            mutation=mutation,
            extra_faults=extra_faults,
            engine=_engine(trace),
            command=command,
        )

    played = _played(scenario.name, seed, one, shown)
    hints = [] if played.result.ok else _hints(command, shown)
    if shown.save is not None:
        catalog.save_run(
            shown.save, scenario, played.result, mutation=mutation, extra_faults=extra_faults
        )
        hints.append(f"python -m sim replay {shlex.quote(str(shown.save))}")
    return _tell(played, shown, hints)


def replay(path: Path, shown: Shown) -> int:
    """Play the faults of a saved run and say whether it ends as it did."""
    from sim.play import play

    saved = catalog.saved_run(path)
    catalog.check_mutation(saved.mutation)
    command = f"python -m sim replay {shlex.quote(str(path))}"

    def one(trace: Taker | None) -> Result:
        return play(
            saved.scenario,
            saved.seed,
            trace=trace,
            faults=saved.faults,
            mutation=saved.mutation,
            extra_faults=saved.extra_faults,
            engine=_engine(trace),
            command=command,
        )

    played = _played(saved.scenario.name, saved.seed, one, shown)
    hints = [] if played.result.ok else _hints(command, shown)
    return _tell(played, shown, hints, again=_again(saved.violation, played.result))


def _engine(trace: Taker | None) -> str:
    """Return the version for the trace; without one nobody asks."""
    if trace is None:
        return ""
    from sim.swarm.version import engine_version

    return engine_version()


def _again(before: Violation | None, result: Result) -> str:
    """Return how a replayed run compares with the one that was saved."""
    now = result.violation
    if before is None:
        return "ok, as the saved run" if now is None else "the saved run was ok"
    saved = f"{before.check} at {words.seconds(before.at_ns)}"
    if now is None:
        return f"NOT broken again: the saved run broke {saved}"
    if now == before:
        return "the same violation again"
    if now.check == before.check:
        return f"the same check again; the saved run broke {saved}"
    return f"ANOTHER violation: the saved run broke {saved}"


def _played(name: str, seed: int, play: Callable[[Taker | None], Result], shown: Shown) -> Played:
    """Play a run, with its trace in the files that are asked for."""
    takers: list[Taker] = []
    page: list[str] = []
    with ExitStack() as files:
        if shown.trace is not None:
            file = files.enter_context(shown.trace.open("w", encoding="utf-8"))
            takers.append(lambda line: file.writelines((line, "\n")))
        if shown.html is not None:
            html = files.enter_context(shown.html.open("w", encoding="utf-8"))
            takers.append(page.append)
        began_ns = time.process_time_ns()
        try:
            result = play(_all_of(takers))
        except Exception as error:  # noqa: BLE001 - an assertion is a finding like any other
            # Trace and page hold what happened up to here.
            result = Result(name, seed, Violation(EXCEPTION, raised(error), 0))
            if shown.verbose:
                sys.stderr.write("".join(traceback.format_exception(error)))
        cpu_ns = time.process_time_ns() - began_ns
        if shown.html is not None:
            from sim.timeline import render

            html.write(render(page))
    return Played(result, cpu_ns)


def _all_of(takers: Sequence[Taker]) -> Taker | None:
    if len(takers) <= 1:
        return takers[0] if takers else None

    def take(line: str) -> None:
        for each in takers:
            each(line)

    return take


def _hints(command: str, shown: Shown) -> list[str]:
    if shown.html is not None:
        return [f"open {shown.html} in a browser"]
    return [f"{command} --html run.html  # to look at it"]


def _tell(played: Played, shown: Shown, hints: Sequence[str], *, again: str | None = None) -> int:
    """Print the verdict and return the exit code."""
    result, cpu_ns = played.result, played.cpu_ns
    if shown.as_json:
        faults = [fault.to_json() for fault in result.faults]
        found = verdict.as_json(result, cpu_ns=cpu_ns, faults=faults)
        write_json(found if again is None else found | {"replay": again})
        return 0 if result.ok else 1
    from sim.faults import text_of

    texts = [f"{words.seconds(fault.at_ns)}  {text_of(fault)}" for fault in result.faults]
    lines = verdict.lines(result, cpu_ns=cpu_ns, faults=texts, hints=hints, verbose=shown.verbose)
    for line in lines if again is None else [lines[0], f"  {again}", *lines[1:]]:
        write_line(line)
    return 0 if result.ok else 1
