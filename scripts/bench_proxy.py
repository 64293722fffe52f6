"""metako's proxy and its peers in front of the same PostgreSQL, under the same clients.

    scripts/bench proxy --seconds 5 --rounds 2 --clients 8 --clients 32 [--json FILE] …

Contestants take turns, in another order each round. Progress goes to stderr, the tables as Markdown
to stdout. Exit code 0 if everything ran, 1 if a transaction or a contestant failed, 2 for wrong
arguments, 128 and the signal's number if it was interrupted; what was measured by then is reported.
A target that is missed, and a peer that is not installed, are told and do not change it.

What the figures mean and how to repeat them: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from benchmarks.machine import look
from benchmarks.proxy.contestants import BY_DEFAULT, CONTESTANTS
from benchmarks.proxy.field import left_out
from benchmarks.proxy.limits import shortage
from benchmarks.proxy.pgbench import WORKLOADS
from benchmarks.proxy.plot import svg
from benchmarks.proxy.report import LOAD_QUIET_MAX, as_json, markdown
from benchmarks.proxy.results import DIRECT, DIRECT_TLS, Result, medians, speaks_tls
from benchmarks.proxy.run import Plan, Run
from benchmarks.proxy.server import BenchCluster, Size, tls_for
from metako.demo.command import EXIT_SIGNAL_BASE, Interrupted, with_cluster
from metako.model.errors import MetakoError

DEFAULT_CLIENTS = (1, 8, 32, 200)
CLIENTS_MAX = 1000
IDLE_MAX = 20_000
DEFAULT_SECONDS = 10
DEFAULT_ROUNDS = 3
DEFAULT_SCALE = 10


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def listed(title: str, items: dict[str, str]) -> str:
    return f"{title}:\n" + "\n".join(f"  {name:23}{what}" for name, what in items.items())


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench proxy",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n\n".join(
            (
                listed("contestants", dict(CONTESTANTS)),
                listed("workloads", {name: w.what for name, w in WORKLOADS.items()}),
                "Without options a run takes an hour and a half. Peers: apt-get install pgbouncer "
                "haproxy pgpool2",
            )
        ),
    )
    add = parser.add_argument
    add(
        *("--contestant", "--only"),
        action="append",
        choices=CONTESTANTS,
        metavar="NAME",
        help=f"may be repeated; {', '.join(BY_DEFAULT)} without, so TLS only by name",
    )
    add("--workload", action="append", choices=WORKLOADS, metavar="NAME", help="may be repeated")
    add("--clients", action="append", type=int, metavar="N", help="may be repeated; 1 8 32 200")
    add("--seconds", type=int, default=DEFAULT_SECONDS, help="of each cell; 10")
    add("--rounds", type=int, default=DEFAULT_ROUNDS, help="of each cell; 3. 0: only --idle")
    add("--seed", type=int, default=1, help="of the order of the contestants and of pgbench; 1")
    add("--scale", type=int, default=DEFAULT_SCALE, help="of pgbench's tables; 10")
    add("--idle", type=int, default=0, metavar="N", help="memory of N idle clients, or what fits")
    add("--metako-workers", type=int, default=1, metavar="N", help="processes of its proxy; 1")
    add("--bindir", default=None, help="PostgreSQL's programs; embedded:18 …")
    add("--json", type=Path, default=None, metavar="FILE", help="every cell, for programs")
    add("--markdown", type=Path, default=None, metavar="FILE", help="stdout, as a file")
    add("--plot", type=Path, default=None, metavar="FILE.svg", help="a picture")
    add("--keep", action="store_true", help="keep the directories, with logs and configurations")
    options = parser.parse_args(argv)
    check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Fill in what was left out, in the order given and each once; end with 2 if it is wrong."""
    options.contestant = list(dict.fromkeys(options.contestant or BY_DEFAULT))
    options.workload = list(dict.fromkeys(options.workload or WORKLOADS))
    options.clients = list(dict.fromkeys(options.clients or DEFAULT_CLIENTS))
    if options.seconds < 1 or options.scale < 1 or options.metako_workers < 1:
        parser.error("--seconds, --scale and --metako-workers are at least 1")
    if options.rounds < 0 or options.idle < 0:
        parser.error("--rounds and --idle are not negative")
    if options.rounds == 0 and not options.idle:
        parser.error("--rounds 0 leaves nothing to measure without --idle")
    if any(not 1 <= n <= CLIENTS_MAX for n in options.clients):
        parser.error(f"--clients is between 1 and {CLIENTS_MAX}")
    if options.idle > IDLE_MAX:
        parser.error(f"--idle is at most {IDLE_MAX}")
    # What would fail after an hour of measuring is refused now.
    for path in (options.json, options.markdown, options.plot):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"{path}: there is no directory {path.resolve().parent}")
    missing = left_out(options.contestant)
    if len(missing) == len(options.contestant):
        parser.error("; ".join(missing.values()))
    if why := shortage(options.idle):
        parser.error(f"--idle {options.idle} {why}")


def plan_of(options: argparse.Namespace) -> Plan:
    return Plan(
        contestants=tuple(options.contestant),
        workloads=tuple(options.workload),
        clients=tuple(options.clients),
        seconds=options.seconds,
        rounds=options.rounds,
        seed=options.seed,
        scale=options.scale,
        idle=options.idle,
        workers=options.metako_workers,
        cores=len(os.sched_getaffinity(0)),
    )


def run_part(
    options: argparse.Namespace,
    contestants: Sequence[str],
    size: Size,
    body: Callable[[BenchCluster], Awaitable[None]],
) -> None:
    """Run `body` with a cluster for these, which is stopped and removed before this returns.

    Raises:
        Interrupted: by a signal, after everything was stopped.
        MetakoError: the cluster cannot be started, filled or stopped.
    """
    cluster = BenchCluster(size, bindir=options.bindir, tls=tls_for(contestants))
    directory = cluster.layout.directory
    say(f"starting PostgreSQL and metako in {directory}")
    try:
        trio.run(with_cluster, cluster, partial(body, cluster))
    finally:
        if options.keep:
            say(f"kept {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def measure(options: argparse.Namespace, result: Result) -> int:
    """Run all parts; return the exit status. What was measured is in `result` in any case."""
    plan = plan_of(options)
    run = Run(plan, result, say)
    try:
        if plan.rounds:
            run_part(options, plan.contestants, plan.size(), run.cells)
        # A cluster for each: what a pool keeps of one's clients is in the way of the next one's.
        for name in plan.idlers(without=result.left_out):
            run_part(options, (name,), plan.idle_size(), partial(run.idle, name))
    except Interrupted as interrupted:
        result.error = "interrupted"
        return EXIT_SIGNAL_BASE + interrupted.signal_number
    except MetakoError as error:
        result.error = str(error)
        say(f"BROKE OFF: {error}")
    return 0 if result.good else 1


def write(options: argparse.Namespace, result: Result) -> None:
    """Write what was asked for, and the tables to stdout."""
    picture = None
    if options.plot is not None:
        title = "Rates and CPU time of proxies"
        options.plot.write_text(svg(medians(result.cells), title=title), encoding="utf-8")
        here = (options.markdown or Path("stdout")).resolve().parent
        picture = Path(os.path.relpath(options.plot.resolve(), here)).as_posix()
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(result), indent=1) + "\n", encoding="utf-8")
    text = markdown(result, picture=picture)
    if options.markdown is not None:
        options.markdown.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def main() -> int:
    options = arguments_of()
    machine = look(Path("/tmp"))  # noqa: S108 - where make_directory makes them
    if machine.load_before > LOAD_QUIET_MAX:
        say(f"the load average is {machine.load_before}: somebody else uses this machine")
    missing = left_out(options.contestant)
    for why in missing.values():
        say(f"left out: {why}")
    bases = dict.fromkeys(DIRECT_TLS if speaks_tls(n) else DIRECT for n in options.contestant)
    for base in bases:
        if options.rounds and base not in options.contestant:
            say(f"without the contestant {base} there are no ratios to it")
    command = shlex.join(["scripts/bench", "proxy", *sys.argv[1:]])
    result = Result(machine, command, left_out=missing)
    status = measure(options, result)
    result.load_after = round(os.getloadavg()[0], 2)
    write(options, result)
    return status


if __name__ == "__main__":
    sys.exit(main())
