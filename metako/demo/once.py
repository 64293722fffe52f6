"""One fault under load, measured: `metako demo --once FAULT`.

Start a cluster, write without pause, break the primary, wait until writes are acknowledged again
by a new one, compare the table with what the writer was told, report. It prints nothing; the
caller stops the cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from metako.demo.client import ClientError, ServerError
from metako.demo.cluster import LocalCluster
from metako.demo.faults import Fault, bring_back, inject
from metako.demo.logs import LogTail, merge
from metako.demo.report import NO_PHASES, Report, final_report, outage, phases
from metako.demo.view import NodeView
from metako.demo.writer import Writer, compare, rows_on
from metako.model.errors import UnreachableError

WARM_UP_S = 3.0
AFTERGLOW_S = 2.0
RECOVERY_TIMEOUT_S = 30.0
TABLE_TIMEOUT_S = 10.0
TOTAL_TARGET_S = 45.0
"""The whole run aims to end within this; the broken node is brought back only if time is left."""
STOP_RESERVE_S = 12.0
REJOIN_MIN_S = 3.0
CHECK_TIMEOUT_S = 5.0
CHECK_ATTEMPTS_MAX = 10
CHECK_PAUSE_S = 0.2
WRITER_END_TIMEOUT_S = 6.0
RECOVERED_ROWS = 3
POLL_INTERVAL_S = 0.02


@dataclass(slots=True)
class _Course:
    """What became of the cluster after the fault."""

    new: NodeView | None = None  # the first view of the new primary
    recovered: bool = False  # writes were acknowledged again
    rejoined: bool | None = None  # None: not tried


@dataclass(frozen=True, slots=True)
class _Moment:
    """One moment on both of the clocks in use: the writer's and the logs'."""

    mono_s: float
    wall_s: float


async def run_once(
    cluster: LocalCluster,
    fault: Fault,
    *,
    rows_per_second: float,
    started_s: float,
    say: Callable[[str], None],
) -> Report:
    """Run the whole experiment and return its report. The cluster is left running.

    Args:
        started_s: CLOCK_MONOTONIC at the start of the command, for `total_s`.

    Raises:
        UnreachableError: the cluster did not come up.
    """
    first = await cluster.start()
    old = first.node
    say(f"primary {old}, standbys {', '.join(first.sync)}")
    tails = [LogTail(node.name, node.log_path) for node in cluster.nodes]
    writer = Writer(cluster.layout, rows_per_second=rows_per_second)
    try:
        await writer.create_table(timeout_s=TABLE_TIMEOUT_S)
    except ClientError as error:
        raise UnreachableError(f"{error}\n{cluster.describe_logs()}") from None
    course = _Course()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await _warm_up(writer)
        moment = _Moment(time.monotonic(), time.time())
        say(f"{fault} on {old} after {len(writer.record.acknowledged)} acknowledged rows")
        await inject(cluster, fault, old)
        try:
            await _follow(cluster, fault, writer, first, course, started_s=started_s, say=say)
        except UnreachableError as error:
            say(str(error))
        writer.stop()
        with trio.move_on_after(WRITER_END_TIMEOUT_S):
            await writer.finished.wait()
        nursery.cancel_scope.cancel()
    found = await _read_rows(cluster, writer, say)
    gap = outage(writer.record, fault_s=moment.mono_s) if course.recovered else None
    measured = NO_PHASES
    new = course.new
    if new is not None:
        measured = phases(
            merge(tail.read_new() for tail in tails),
            fault_s=moment.wall_s,
            new_primary=new.node,
            first_write_s=moment.wall_s + gap[1] - moment.mono_s if gap else None,
        )
    seen, doubtful = writer.record.acknowledged, writer.record.unknown
    return final_report(
        fault=fault.value,
        record=writer.record,
        comparison=compare(found, seen, doubtful) if found is not None else None,
        old_primary=old,
        new_primary=new.node if new is not None else None,
        timeline=new.timeline if new is not None else None,
        outage_s=gap[1] - gap[0] if gap else None,
        rejoined=course.rejoined,
        total_s=time.monotonic() - started_s,
        measured=measured,
    )


async def _follow(
    cluster: LocalCluster,
    fault: Fault,
    writer: Writer,
    first: NodeView,
    course: _Course,
    *,
    started_s: float,
    say: Callable[[str], None],
) -> None:
    """Fill `course` step by step, so that a step that fails leaves what was learnt before it."""
    new = await cluster.wait_primary(
        timeout_s=RECOVERY_TIMEOUT_S,
        above_timeline=first.timeline,
        other_than=None if fault is Fault.KILL_PRIMARY else first.node,
    )
    course.new = new
    await _wait_writes(writer, since_s=time.monotonic())
    course.recovered = True
    say(f"primary {new.node} on timeline {new.timeline}, writes are acknowledged again")
    await trio.sleep(AFTERGLOW_S)
    course.rejoined = await _bring_back(cluster, fault, first.node, started_s=started_s, say=say)


async def _warm_up(writer: Writer) -> None:
    deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
    end_s = time.monotonic() + WARM_UP_S
    while time.monotonic() < end_s or not writer.record.acknowledged:
        if time.monotonic() > deadline_s:
            errors = "; ".join(writer.record.last_errors[-3:])
            raise UnreachableError(f"no write was acknowledged before the fault: {errors}")
        await trio.sleep(POLL_INTERVAL_S)


async def _wait_writes(writer: Writer, *, since_s: float) -> None:
    deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if writer.record.count_after(since_s) >= RECOVERED_ROWS:
            return
        await trio.sleep(POLL_INTERVAL_S)
    errors = "; ".join(writer.record.last_errors[-3:])
    raise UnreachableError(f"there is a primary and no write is acknowledged: {errors}")


async def _bring_back(
    cluster: LocalCluster,
    fault: Fault,
    node: str,
    *,
    started_s: float,
    say: Callable[[str], None],
) -> bool | None:
    left_s = TOTAL_TARGET_S - STOP_RESERVE_S - (time.monotonic() - started_s)
    if fault is not Fault.KILL_PRIMARY:
        if left_s < REJOIN_MIN_S:
            say(f"no time left to bring {node} back")
            return None
        say(f"bringing {node} back")
        bring_back(cluster, fault, node)
    if left_s < REJOIN_MIN_S:
        return None
    try:
        await cluster.wait_streaming(node, timeout_s=left_s)
    except UnreachableError as error:
        say(f"{node} does not stream again in the time left: {str(error).splitlines()[0]}")
        return False
    return True


async def _read_rows(
    cluster: LocalCluster, writer: Writer, say: Callable[[str], None]
) -> list[int] | None:
    """Return the rows on the server that is the primary now; None if it cannot be asked."""
    for _ in range(CHECK_ATTEMPTS_MAX):
        try:
            primary = await cluster.wait_primary(timeout_s=CHECK_TIMEOUT_S)
            return await rows_on(
                cluster.layout,
                cluster.node(primary.node),
                writer.table,
                timeout_s=CHECK_TIMEOUT_S,
            )
        except (ClientError, ServerError) as error:
            say(f"reading the table: {error}")
            await trio.sleep(CHECK_PAUSE_S)
        except UnreachableError as error:
            say(str(error))
            return None
    return None
