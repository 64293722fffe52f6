"""The command `metako demo`: choices in, exit status out.

It prepares user, directory and layout, runs the interactive demo or one measured fault, and in
every case (quit, error, Ctrl-C, SIGTERM) stops the cluster, verifies through /proc that no process
is left, and removes the directory unless it was given or `--keep` was said. If it is killed
itself, the kernel tells the agents, and they stop their nodes.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import trio
import typer

from metako.demo.cluster import LocalCluster
from metako.demo.faults import Fault
from metako.demo.interactive import run_interactive
from metako.demo.once import run_once
from metako.demo.prepare import ensure_os_user, make_directory, open_layout
from metako.demo.report import Report, failure_report
from metako.model.errors import MetakoError, UsageError

ROWS_PER_SECOND_MAX = 2000.0
EXIT_SIGNAL_BASE = 128
NODES_FOR_FAILOVER_MIN = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

T = TypeVar("T")


class Timing(StrEnum):
    DEFAULT = "default"
    FAST = "fast"
    WAN = "wan"


class Interrupted(Exception):
    """A signal asked us to end; everything was stopped before this was raised."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


def say(text: str) -> None:
    """Print progress where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the program's own output


async def with_cluster(cluster: LocalCluster, body: Callable[[], Awaitable[T]]) -> T:
    """Run `body` and stop the cluster afterwards, whatever happens.

    The first signal ends the body and stops the nodes in order; a second one kills them.

    Raises:
        Interrupted: a signal ended the body.
        Exception: what `body` raised, or `FencedError` if processes would not die.
    """
    received: list[int] = []
    body_scope, stop_scope = trio.CancelScope(), trio.CancelScope(shield=True)

    async def watch(signals: AsyncIterator[int]) -> None:
        async for number in signals:
            scope = stop_scope if received else body_scope
            received.append(number)
            say("stopping" if scope is body_scope else "killing what is left")
            scope.cancel()

    try:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, signals)
                try:
                    with body_scope:
                        result = await body()
                finally:
                    with stop_scope:
                        await cluster.stop()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _first_error(group) from None
    if body_scope.cancelled_caught:
        raise Interrupted(received[0])
    return result


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to report: one meant for the user, else the first."""
    leaves: list[BaseException] = []
    queue: list[BaseException] = [group]
    while queue:
        error = queue.pop(0)
        if isinstance(error, BaseExceptionGroup):
            queue.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((e for e in leaves if isinstance(e, MetakoError)), leaves[0])


def _prepare(
    *,
    directory: Path | None,
    nodes: int,
    base_port: int | None,
    bindir: str | None,
    timing: Timing,
) -> LocalCluster:
    os_user = ensure_os_user(say)
    path = directory if directory is not None else make_directory()
    try:
        layout = open_layout(
            path,
            nodes=nodes,
            base_port=base_port,
            bindir=bindir,
            os_user=os_user,
            timing=timing.value,
        )
    except MetakoError:
        if directory is None:
            path.rmdir()
        raise
    if (layout.timing, len(layout.nodes), layout.bindir) != (timing.value, nodes, bindir):
        say(
            f"the cluster in {path} is started as it was made: {len(layout.nodes)} nodes, timing "
            f"{layout.timing}, PostgreSQL {layout.bindir or 'as found'}"
        )
    return LocalCluster(layout, say=say)


def demo_command(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep the cluster here; it can be started again.")
    ] = None,
    bindir: Annotated[
        str | None,
        typer.Option(help="PostgreSQL's programs: a directory, or embedded, embedded:18."),
    ] = None,
    once: Annotated[
        Fault | None, typer.Option(help="No screen: inject one fault under load and report.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="With --once: one line of JSON on stdout.")
    ] = False,
    rows_per_second: Annotated[
        float, typer.Option(min=1, max=ROWS_PER_SECOND_MAX, help="Pace of the steady writer.")
    ] = 50.0,
    nodes: Annotated[int, typer.Option(min=1, max=9, help="Number of nodes.")] = 3,
    base_port: Annotated[
        int | None, typer.Option(help="First of four ports a node; free ones are picked without.")
    ] = None,
    timing: Annotated[Timing, typer.Option(help="Profile of timeouts.")] = Timing.DEFAULT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the temporary directory.")] = False,
) -> None:
    """Start a whole cluster on this machine, break it, and watch it recover."""
    started_s = time.monotonic()
    if json_output and once is None:
        raise UsageError("--json is for --once")
    if once is not None and nodes < NODES_FOR_FAILOVER_MIN:
        raise UsageError(
            f"--once needs {NODES_FOR_FAILOVER_MIN} nodes: fewer have no majority without the "
            "broken one"
        )
    try:
        cluster = _prepare(
            directory=directory, nodes=nodes, base_port=base_port, bindir=bindir, timing=timing
        )
    except MetakoError as error:
        if once is not None:
            total_s = time.monotonic() - started_s
            report = failure_report(once, str(error), total_s=total_s)
            _print_report(report, json_output=json_output)
        raise
    say(f"{len(cluster.nodes)} nodes in {cluster.layout.directory}")
    try:
        if once is None:
            code = _interactive(cluster, rows_per_second)
        else:
            code = _once(cluster, once, rows_per_second, started_s, json_output=json_output)
    finally:
        if directory is None and not keep:
            cluster.remove_directory()
        else:
            say(f"kept {cluster.layout.directory}")
    raise typer.Exit(code)


def _interactive(cluster: LocalCluster, rows_per_second: float) -> int:
    async def body() -> None:
        await run_interactive(cluster, rows_per_second=rows_per_second, say=say)

    # Ctrl-C is one of the ways to quit.
    with suppress(Interrupted):
        trio.run(with_cluster, cluster, body)
    say("stopped; no process is left")
    return 0


def _once(
    cluster: LocalCluster,
    fault: Fault,
    rows_per_second: float,
    started_s: float,
    *,
    json_output: bool,
) -> int:
    async def body() -> Report:
        return await run_once(
            cluster, fault, rows_per_second=rows_per_second, started_s=started_s, say=say
        )

    code = 0
    try:
        report = trio.run(with_cluster, cluster, body)
        code = 0 if report.ok else 1
    except Interrupted as interrupted:
        report = failure_report(fault, "interrupted", total_s=time.monotonic() - started_s)
        code = EXIT_SIGNAL_BASE + interrupted.signal_number
    except MetakoError as error:
        say(f"metako: {error}")
        text = str(error).splitlines()[0]
        report = failure_report(fault, text, total_s=time.monotonic() - started_s)
        code = error.exit_code
    _print_report(report, json_output=json_output)
    return code


def _print_report(report: Report, *, json_output: bool) -> None:
    if json_output:
        text = json.dumps(report.as_json())
    else:
        phases = report.as_json().pop("phases")
        text = (
            f"{report.fault}: {'ok' if report.ok else 'FAILED'}; "
            f"{report.old_primary} → {report.new_primary} on timeline {report.timeline}; "
            f"outage {_seconds(report.outage_s)}; {report.acknowledged} rows acknowledged, "
            f"{report.lost} lost, {report.duplicated} duplicated, {report.unknown} in doubt; "
            f"phases {phases}"
        )
        if report.error:
            text += f"; {report.error}"
    print(text, flush=True)  # noqa: T201 - the program's own output


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} s"
