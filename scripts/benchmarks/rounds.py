"""Drive one series: a fresh cluster, clients that never rest, faults in a random order.

Each round waits until all nodes are healthy, does one fault to the primary's node (or a standby's),
waits until both kinds of clients are served again, and repairs. What it learns goes into a
`Series`, also when the series breaks off. The caller stops the cluster.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from benchmarks.phases import Course, read_course
from benchmarks.results import ClientKind, Round, Rows, Seen, Series, interruption
from metako.api.client import LocalAgent
from metako.demo.client import ClientError, PgClient, ServerError
from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER, DATABASE, NodeLayout
from metako.demo.logs import LogEvent, LogTail, merge
from metako.demo.processes import Kind, node_by_kind
from metako.demo.view import NodeView
from metako.demo.writer import Writer, compare, rows_on
from metako.model.errors import MetakoError

FAULTS: Mapping[str, str] = {
    "kill-primary": "SIGKILL to the primary's postmaster",
    "kill-host": "SIGKILL to all of the primary's node: agent, guard, PostgreSQL, proxy",
    "pause-host": "SIGSTOP to all of the primary's node: as from outside in a partition, "
    "connections stay open and nobody answers",
    "stop-agent": "SIGSTOP to the primary's agent only: its server goes on until the guard ends it",
    "kill-agent": "SIGKILL to the primary's agent",
    "kill-guard": "SIGKILL to the primary's guard",
    "switchover": "an operator's order to change the primary, given to its node",
    "term-agent": "SIGTERM to the primary's agent: the node stops in good order",
    "kill-standby": "SIGKILL to all of a synchronous standby's node; writes need not stop",
}
FROZEN = ("pause-host", "stop-agent")
HARMLESS = ("kill-standby",)
ENDS_BY_ITSELF = ("term-agent",)

HEALTHY_TIMEOUT_S = 90.0
RECOVERY_TIMEOUT_S = 40.0
SETTLE_S = (0.3, 2.0)  # so that faults meet every moment between two heartbeats
FROZEN_MORE_S = (0.0, 2.0)  # a frozen node stays so for a while after the recovery
STOPS_WITHIN_S = 20.0  # a node that was told to stop, all its processes
READ_TIMEOUT_S = 30.0
ORDER_TIMEOUT_S = 20.0
ROWS_AFTER = 5  # acknowledged to each kind of clients before a round counts as recovered
POLL_INTERVAL_S = 0.02
CLOCK_STEP_MAX_S = 0.003
"""If wall clock and monotonic clock drift apart by more within a round, its logs are not used."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both of the clocks in use: the clients' and the logs'."""

    mono_s: float
    wall_s: float

    @property
    def offset_s(self) -> float:
        return self.wall_s - self.mono_s


def now() -> Moment:
    return Moment(time.monotonic(), time.time())


def plan(faults: Sequence[str], rounds: int, rng: random.Random) -> list[str]:
    """Return the faults of a series: each `rounds` times, in blocks that hold each of them once.

    So whatever changes in the course of a run, such as the load of the machine, meets all alike.
    """
    order: list[str] = []
    for _ in range(rounds):
        block = list(faults)
        rng.shuffle(block)
        order += block
    return order


class SeriesRun:
    """One cluster and its clients for as long as the series lasts."""

    def __init__(
        self,
        cluster: LocalCluster,
        faults: Sequence[str],
        *,
        rounds: int,
        seed: int,
        rates: Mapping[ClientKind, float],
        say: Callable[[str], None],
    ) -> None:
        self.series = Series(cluster.layout.timing)
        self._cluster = cluster
        self._say = say
        # A string seeds the same on every Python, and each profile gets its own order.
        self._rng = random.Random(f"{seed}/{cluster.layout.timing}")  # noqa: S311 - repeatable
        self._order = plan(faults, rounds, self._rng)
        self._writers = {
            kind: Writer(
                cluster.layout,
                rows_per_second=rate,
                table=f"bench_{kind}",
                keep_connections=kind is ClientKind.KEPT,
            )
            for kind, rate in rates.items()
        }
        self._tails = [LogTail(node.name, node.log_path) for node in cluster.nodes]

    async def run(self) -> None:
        """Run all rounds and compare the tables; what goes wrong is noted in the series.

        If cancelled, the rounds that ended are in the series, and its rows are not counted.
        """
        self.series.error = "interrupted"
        try:
            await self._run()
        except (MetakoError, ClientError, ServerError, trio.TooSlowError) as error:
            self.series.error = str(error) or type(error).__name__
        except BaseExceptionGroup as group:
            _, others = group.split((MetakoError, ClientError, ServerError, trio.TooSlowError))
            if others is not None:
                raise
            self.series.error = "; ".join(str(e) or type(e).__name__ for e in group.exceptions)
        else:
            self.series.error = ""

    async def _run(self) -> None:
        primary = await self._cluster.start()
        self.series.postgres = await self._ask(primary.node, "show server_version")
        for writer in self._writers.values():
            await writer.create_table(timeout_s=READ_TIMEOUT_S)
        async with trio.open_nursery() as nursery:
            for writer in self._writers.values():
                nursery.start_soon(writer.run)
            for number, fault in enumerate(self._order, 1):
                self.series.rounds.append(await self._round(number, fault))
            primary = await self._cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
            for writer in self._writers.values():
                writer.stop()
            for writer in self._writers.values():
                await writer.finished.wait()
            nursery.cancel_scope.cancel()
        for kind, writer in self._writers.items():
            self.series.rows[kind] = await self._count(writer, primary.node)

    async def _round(self, number: int, fault: str) -> Round:
        cluster = self._cluster
        primary = await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
        await trio.sleep(self._rng.uniform(*SETTLE_S))
        self._read_logs()
        failed = {k: (w.record.errors, len(w.record.unknown)) for k, w in self._writers.items()}
        begun = now()
        victim = await self._inject(fault, primary)
        injected_s = time.monotonic()
        if fault not in HARMLESS:
            await cluster.wait_primary(
                timeout_s=RECOVERY_TIMEOUT_S, above_timeline=primary.timeline
            )
        await self._wait_served(since_s=time.monotonic())
        recovered = now()
        spans = {
            kind: interruption(
                writer.record,
                fault_s=begun.mono_s,
                injected_s=injected_s,
                stops_writes=fault not in HARMLESS,
            )
            for kind, writer in self._writers.items()
        }
        if fault in FROZEN:
            await trio.sleep(self._rng.uniform(*FROZEN_MORE_S))
            cluster.resume(victim)
        if fault in ENDS_BY_ITSELF:
            # Others may take writes before the last of its processes has ended.
            with trio.move_on_after(STOPS_WITHIN_S):
                while victim not in cluster.dead_nodes():  # noqa: ASYNC110 - a process is ending
                    await trio.sleep(POLL_INTERVAL_S)
        for name in cluster.dead_nodes():
            cluster.start_agent(name)
        await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
        course = self._course(begun, recovered)
        seen = {
            kind: Seen(
                outage_s=spans[kind][0],
                gap_s=spans[kind][1],
                errors=writer.record.errors - failed[kind][0],
                unknown=len(writer.record.unknown) - failed[kind][1],
            )
            for kind, writer in self._writers.items()
        }
        result = Round(
            timing=cluster.layout.timing,
            fault=fault,
            number=number,
            victim=victim,
            injection_s=injected_s - begun.mono_s,
            clients=seen,
            course=course,
        )
        self._tell(result)
        return result

    def _tell(self, round_: Round) -> None:
        parts = [
            f"{kind} {_milliseconds(seen.outage_s)} (gap {_milliseconds(seen.gap_s)}, "
            f"{seen.errors} failed, {seen.unknown} in doubt)"
            for kind, seen in round_.clients.items()
        ]
        successor = round_.course.successor if round_.course else "?"
        self._say(
            f"{round_.timing} {round_.number}/{len(self._order)}: {round_.fault} on "
            f"{round_.victim} → {successor}: {'; '.join(parts)}"
        )

    def _course(self, begun: Moment, recovered: Moment) -> Course | None:
        events = self._read_logs()
        if abs(recovered.offset_s - begun.offset_s) > CLOCK_STEP_MAX_S:
            self._say("the wall clock was set during this round: no phases")
            return None
        return read_course(events, fault_s=begun.wall_s, until_s=recovered.wall_s)

    def _read_logs(self) -> list[LogEvent]:
        return merge(tail.read_new() for tail in self._tails)

    async def _wait_served(self, *, since_s: float) -> None:
        with trio.fail_after(RECOVERY_TIMEOUT_S):
            for writer in self._writers.values():
                while writer.record.count_after(since_s) < ROWS_AFTER:  # noqa: ASYNC110 - a count
                    await trio.sleep(POLL_INTERVAL_S)

    async def _inject(self, fault: str, primary: NodeView) -> str:
        """Do the fault and return the name of the node that it was done to."""
        cluster, node = self._cluster, primary.node
        match fault:
            case "kill-primary":
                cluster.kill_postmaster(node)
            case "kill-host":
                await cluster.kill_host(node)
            case "stop-agent":
                cluster.stop_agent(node)
            case "pause-host":
                await cluster.pause_host(node)
            case "kill-agent" | "kill-guard":
                kind = Kind.AGENT if fault == "kill-agent" else Kind.GUARD
                for process in node_by_kind(cluster.node(node))[kind]:
                    os.kill(process.pid, signal.SIGKILL)
            case "switchover":
                agent = LocalAgent(cluster.node(node).agent_socket)
                order = partial(agent.order_switchover, None, ORDER_TIMEOUT_S)
                answer = await trio.to_thread.run_sync(order)
                if not answer.accepted:
                    raise MetakoError(f"the switchover was refused: {answer.reason}")
            case "term-agent":
                for process in node_by_kind(cluster.node(node))[Kind.AGENT]:
                    os.kill(process.pid, signal.SIGTERM)
            case "kill-standby":
                node = self._rng.choice(sorted(primary.sync))
                await cluster.kill_host(node)
            case _:
                raise AssertionError(fault)
        return node

    async def _count(self, writer: Writer, node: str) -> Rows:
        """Compare the table on the primary itself with what the clients were told."""
        layout, record = self._cluster.layout, writer.record
        found = await rows_on(
            layout, self._cluster.node(node), writer.table, timeout_s=READ_TIMEOUT_S
        )
        result = compare(found, record.acknowledged, record.unknown)
        return Rows(
            acknowledged=len(record.acknowledged),
            unknown=len(record.unknown),
            errors=record.errors,
            lost=len(result.lost),
            duplicated=len(result.duplicated),
            surplus=len(result.surplus),
        )

    async def _ask(self, name: str, sql: str) -> str:
        node: NodeLayout = self._cluster.node(name)
        client = await PgClient.connect(
            node.host,
            node.postgres_port,
            user=APP_USER,
            password=self._cluster.layout.app_password,
            database=DATABASE,
            timeout_s=READ_TIMEOUT_S,
        )
        with client:
            result = await client.query(sql, timeout_s=READ_TIMEOUT_S)
        return str(result.rows[0][0])


def _milliseconds(value_s: float | None) -> str:
    return "–" if value_s is None else f"{value_s * 1000:.0f} ms"
