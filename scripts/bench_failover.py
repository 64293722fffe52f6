"""Rounds of faults on a local cluster under steady clients: how long writes stop, what is lost.

    scripts/bench failover --rounds 20 [--fault kill-primary]… [--timing fast]… [--json FILE] …

One fresh cluster for each timing profile; on it `--rounds` rounds of each fault, in random order.
At the end the rows on the primary are compared with what was acknowledged. Progress goes to stderr,
the tables to stdout. Exit code 0 if nothing was lost, duplicated or left running, else 1. A target
that is missed is told and does not change the exit code: how fast a machine is, is no error.

What the figures mean and how to repeat them: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import trio

from benchmarks.machine import look
from benchmarks.plot import svg
from benchmarks.report import Result, as_json, markdown, text
from benchmarks.results import ClientKind, Series, groups
from benchmarks.rounds import FAULTS, SeriesRun
from metako.demo.cluster import LocalCluster
from metako.demo.command import Interrupted, with_cluster
from metako.demo.layout import plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.model.errors import MetakoError

TIMINGS = ("default", "fast", "wan")
DEFAULT_FAULTS = ("kill-primary", "kill-host", "pause-host")
DEFAULT_TIMINGS = ("default", "fast")
DEFAULT_ROUNDS = 10
KEPT_PER_SECOND = 100.0
NEW_PER_SECOND = 20.0
"""Fewer, because each costs a login: a password hash and a server process, on the same machine."""


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench failover",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {name:14}{what}" for name, what in FAULTS.items()),
    )
    add = parser.add_argument
    add("--rounds", type=int, default=DEFAULT_ROUNDS, help="of each fault with each profile")
    add("--fault", action="append", choices=FAULTS, metavar="FAULT", help="may be repeated")
    add("--timing", action="append", choices=TIMINGS, help="may be repeated")
    add("--seed", type=int, default=1, help="of the order of the faults and the pauses between")
    add("--rows-per-second", type=float, default=KEPT_PER_SECOND, help="connections kept")
    add("--new-per-second", type=float, default=NEW_PER_SECOND, help="a connection for each row")
    add("--bindir", default=None, help="PostgreSQL's programs; embedded:18 …")
    add("--json", type=Path, default=None, metavar="FILE", help="every round, for programs")
    add("--markdown", type=Path, default=None, metavar="FILE", help="a section for the docs")
    add("--plot", type=Path, default=None, metavar="FILE.svg", help="a picture")
    add("--keep", action="store_true", help="keep the clusters' directories")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.rows_per_second <= 0 or options.new_per_second <= 0:
        parser.error("rounds and rates are positive")
    # In the order given, and each once.
    options.fault = list(dict.fromkeys(options.fault or DEFAULT_FAULTS))
    options.timing = list(dict.fromkeys(options.timing or DEFAULT_TIMINGS))
    return options


def run_series(options: argparse.Namespace, timing: str) -> Series:
    """Run one series on a cluster of its own, which is stopped and removed before this returns.

    What breaks it off, a signal too, is in the series' `error`.

    Raises:
        MetakoError: there is no room, port or user for a cluster.
    """
    directory = make_directory()
    say(f"{timing}: starting a cluster in {directory}")
    try:
        layout = plan_layout(
            directory,
            bindir=options.bindir,
            os_user=ensure_os_user(say),
            timing=timing,
            log_level="DEBUG",  # the commit of a document is told at this level only
        )
        cluster = LocalCluster(layout)
        rates = {
            ClientKind.KEPT: options.rows_per_second,
            ClientKind.NEW: options.new_per_second,
        }
        run = SeriesRun(
            cluster,
            options.fault,
            rounds=options.rounds,
            seed=options.seed,
            rates=rates,
            say=say,
        )
        try:
            trio.run(with_cluster, cluster, run.run)
        except MetakoError as error:  # processes are left that would not die
            run.series.error = f"{run.series.error}; {error}".removeprefix("; ")
        except Interrupted:
            run.series.error = "interrupted"
            say("interrupted: the rounds so far are reported")
        return run.series
    finally:
        if options.keep:
            say(f"kept {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def write_files(options: argparse.Namespace, result: Result) -> None:
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(result), indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        picture = svg(groups(result.series), title="How long writes stop, seen by clients")
        options.plot.write_text(picture, encoding="utf-8")
    if options.markdown is not None:
        shown = None
        if options.plot is not None:
            here = options.markdown.resolve().parent
            shown = Path(os.path.relpath(options.plot.resolve(), here)).as_posix()
        options.markdown.write_text(markdown(result, picture=shown), encoding="utf-8")


def main() -> int:
    options = arguments_of()
    machine = look(Path("/tmp"))  # noqa: S108 - where make_directory makes them
    series: list[Series] = []
    for timing in options.timing:
        try:
            series.append(run_series(options, timing))
        except MetakoError as error:
            series.append(Series(timing, error=str(error)))
        if series[-1].error:
            say(f"{timing}: {series[-1].error}")
        if series[-1].error == "interrupted":
            break
    result = Result(
        machine=machine,
        command=shlex.join(["scripts/bench", "failover", *sys.argv[1:]]),
        series=series,
        load_after=round(os.getloadavg()[0], 2),
        finished=len(series) == len(options.timing),
    )
    write_files(options, result)
    sys.stdout.write(text(result))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
