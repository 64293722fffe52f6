"""Drive the measurement: cells of pgbench in turns, then idle clients.

What was measured goes into the result at once, so that a run that is broken off has something to
show. The caller stops the cluster.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks.proxy import pgbench, procfs
from benchmarks.proxy.configs import CLIENTS_EXTRA, room
from benchmarks.proxy.contestants import Contestant
from benchmarks.proxy.field import everybody
from benchmarks.proxy.idle import IDLE_PROCESSES_MAX, measure
from benchmarks.proxy.pgbench import WORKLOADS, Login, PgbenchError, Workload
from benchmarks.proxy.results import Cell, Idle, Place, Result, is_direct, turns
from benchmarks.proxy.server import SESSIONS_SPARE, TRUSTED_USER, BenchCluster, Size
from metako.demo.client import ClientError, ServerError
from metako.demo.layout import APP_USER, DATABASE
from metako.demo.processes import Kind

PGBENCH_EXTRA_S = 60.0  # to connect, to end, and on a busy machine
MEMORY_LOOKS = 4  # of one cell; each costs a walk through the page tables
MEMORY_INTERVAL_MIN_S = 0.5
ERROR_CHARACTERS_MAX = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for."""

    contestants: Sequence[str]
    workloads: Sequence[str]
    clients: Sequence[int]
    seconds: int  # of one cell
    rounds: int
    seed: int
    scale: int
    idle: int  # clients; 0: not measured
    workers: int  # of metako's proxy
    cores: int  # that pgbench may use

    def size(self) -> Size:
        """Return the room for the cells: every contestant may keep servers for all clients."""
        most = max(self.clients)
        sessions = room(most) + len(self.contestants) * (most + SESSIONS_SPARE)
        return Size(sessions, most, room(most), most, self.workers)

    def idle_size(self) -> Size:
        """Return the room for the idle clients of one contestant, with a session for each."""
        most = self.idle + CLIENTS_EXTRA
        processes = min(self.idle, IDLE_PROCESSES_MAX)
        return Size(most, self.idle, most, processes, self.workers)

    def idlers(self, *, without: Container[str]) -> list[str]:
        """Return the contestants whose idle clients are measured: those that have processes."""
        if not self.idle:
            return []
        return [n for n in self.contestants if not is_direct(n) and n not in without]


class Run:
    """One run; `cells` and every `idle` want a fresh cluster that is not started yet."""

    def __init__(self, plan: Plan, result: Result, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._result = result
        self._say = say

    # Cells

    async def cells(self, cluster: BenchCluster) -> None:
        """Measure every cell. If cancelled, those that ended are in the result.

        Raises:
            MetakoError: the server does not start or cannot be filled.
        """
        plan = self._plan
        await cluster.start()
        await cluster.prepare()
        self._say(f"filling tables of scale {plan.scale}")
        await cluster.fill(plan.scale)
        async with everybody(
            cluster,
            plan.contestants,
            size=plan.size(),
            result=self._result,
            say=self._say,
        ) as found:
            by_name = {one.name: one for one in found}
            groups = list(itertools.product(plan.workloads, plan.clients))
            for number, place in turns(groups, list(by_name), plan.rounds, plan.seed):
                one = by_name[place.contestant]
                if WORKLOADS[place.workload].prepares and not one.prepares:
                    why = "this version cannot prepare statements by transaction"
                    self._result.left_out[f"{one.name} with {place.workload}"] = why
                    continue
                cell = await self._cell(cluster, one, number, place)
                self._result.cells.append(cell)
                self._say(f"round {number}/{plan.rounds} {told(cell)}")

    async def _cell(
        self, cluster: BenchCluster, one: Contestant, number: int, place: Place
    ) -> Cell:
        cell = Cell(number, place)
        workload = WORKLOADS[place.workload]
        directory = cluster.layout.directory / "cell"
        directory.mkdir(exist_ok=True)
        try:
            text, _ = await self._pgbench(cluster, one, place, directory, seconds=None)
            # pgbench's clock runs while its clients log in.
            seconds = self._plan.seconds + math.ceil(pgbench.parse_summary(text).login_s)
            before = _Look.at(cluster, one)
            text, errors = await self._timed(cluster, one, cell, directory, seconds)
            after = _Look.at(cluster, one)
            summary = pgbench.parse_summary(text)
        except PgbenchError as error:
            cell.error = str(error)
            cell.failed = 1
        else:
            cell.tps, cell.transactions = summary.tps, summary.transactions
            cell.failed = summary.failed + pgbench.count_aborted(errors)
            cell.error = errors.strip()[:ERROR_CHARACTERS_MAX] if cell.failed else ""
            cell.sampled = pgbench.sampling_rate(workload, seconds) < 1
            cell.latencies = await trio.to_thread.run_sync(_latencies, directory, workload)
            _charge(cell, before, after)
        finally:
            for path in directory.glob("log.*"):
                path.unlink()
        return cell

    async def _timed(
        self,
        cluster: BenchCluster,
        one: Contestant,
        cell: Cell,
        directory: Path,
        seconds: int,
    ) -> tuple[str, str]:
        """Run pgbench for some time, looking at the contestant's memory meanwhile."""

        async def look() -> None:
            while True:
                await trio.sleep(max(MEMORY_INTERVAL_MIN_S, seconds / (MEMORY_LOOKS + 1)))
                now = procfs.memory(one.roots())
                cell.peak = now if cell.peak is None else procfs.peak(cell.peak, now)

        failure: PgbenchError | None = None
        async with trio.open_nursery() as nursery:
            if one.roots():
                nursery.start_soon(look)
            try:
                output = await self._pgbench(cluster, one, cell.place, directory, seconds=seconds)
            except PgbenchError as error:  # not through the nursery, which would wrap it
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return output

    async def _pgbench(
        self,
        cluster: BenchCluster,
        one: Contestant,
        place: Place,
        directory: Path,
        *,
        seconds: int | None,
    ) -> tuple[str, str]:
        """Return what it printed, also when it gave up clients. If cancelled, it is ended.

        Raises:
            PgbenchError: it did nothing, or not in time.
        """
        workload = WORKLOADS[place.workload]
        script = None
        if workload.script:
            script = directory / f"{place.workload}.sql"
            script.write_text(workload.script, encoding="utf-8")
        user = APP_USER if workload.login is Login.SCRAM else TRUSTED_USER
        argv = pgbench.arguments(
            workload,
            pgbench.Target(one.port, user, DATABASE),
            clients=place.clients,
            cores=self._plan.cores,
            seconds=seconds,
            script=script,
            log_prefix=directory / "log",
            seed=self._plan.seed,
        )
        limit_s = (seconds or 0) + PGBENCH_EXTRA_S
        with trio.move_on_after(limit_s) as scope:
            result = await trio.run_process(
                [str(cluster.program("pgbench")), *argv],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for us
                cwd=directory,
                env=cluster.client_environment(tls=one.tls),
            )
        if scope.cancelled_caught:
            raise PgbenchError(f"pgbench did not end in {limit_s:g} s")
        output, errors = (o.decode(errors="replace") for o in (result.stdout, result.stderr))
        if result.returncode not in (0, 2):  # 2: it went on without the clients that failed
            raise PgbenchError(f"pgbench: {errors.strip()[-ERROR_CHARACTERS_MAX:]}")
        return output, errors

    # Idle clients

    async def idle(self, name: str, cluster: BenchCluster) -> None:
        """Measure the memory of one contestant's idle clients. Raises as `cells`."""
        await cluster.start()
        await cluster.prepare()
        async with everybody(
            cluster,
            (name,),
            size=self._plan.idle_size(),
            result=self._result,
            say=self._say,
        ) as found:
            for one in found:
                idle = Idle(one.name, asked=self._plan.idle)
                self._result.idle.append(idle)
                try:
                    await measure(cluster, one, idle, self._say)
                except (ClientError, ServerError, OSError) as error:
                    idle.error = str(error)
                taken = f"PSS {idle.after.pss / (1 << 20):.1f} MiB" if idle.after else "FAILED"
                self._say(f"{one.name}: {idle.clients} idle clients, {taken} {idle.error}".rstrip())


@dataclass(frozen=True, slots=True)
class _Look:
    """CPU seconds so far, and the processes that they are of."""

    roots: frozenset[int]
    at_s: float  # monotonic
    own_s: float
    agent_s: float
    server_s: float

    @classmethod
    def at(cls, cluster: BenchCluster, one: Contestant) -> _Look:
        roots, agent = frozenset(one.roots()), cluster.pids(Kind.AGENT)
        stats = procfs.process_stats()
        return cls(
            roots,
            time.monotonic(),
            procfs.cpu_s(roots, stats),
            # Without its children: the proxy's workers may be among them.
            sum(procfs.own_cpu_s(stats[pid]) for pid in agent if pid in stats),
            procfs.cpu_s([cluster.postmaster()], stats),
        )


def _charge(cell: Cell, before: _Look, after: _Look) -> None:
    """Note the CPU time between two looks."""
    cell.wall_s = after.at_s - before.at_s
    cell.server_cpu_s = after.server_s - before.server_s
    if cell.place.contestant.startswith("metako"):
        cell.agent_cpu_s = after.agent_s - before.agent_s
    if before.roots != after.roots:
        cell.failed += 1
        cell.error = "a process of the contestant ended in the course of the cell"
    elif before.roots:
        cell.cpu_s = after.own_s - before.own_s


def _latencies(directory: Path, workload: Workload) -> pgbench.Latencies | None:
    def lines() -> itertools.chain[str]:
        return itertools.chain.from_iterable(
            path.open(encoding="ascii", errors="replace") for path in directory.glob("log.*")
        )

    found = pgbench.read_latencies(lines(), reconnects=workload.reconnects)
    return pgbench.latencies(found)


def told(cell: Cell) -> str:
    """Return a line of progress."""
    place = cell.place
    where = f"{place.workload}, {place.clients} clients, {place.contestant}"
    if cell.tps is None or cell.failed:
        return f"{where}: FAILED: {cell.error or cell.failed}"
    parts = [f"{cell.tps:.0f} tps"]
    if cell.latencies is not None:
        parts.append(f"p50 {cell.latencies.p50:.3f} ms, p99 {cell.latencies.p99:.3f} ms")
    if cell.cpu_s is not None and cell.transactions:
        parts.append(f"CPU {cell.cpu_s / cell.transactions * 1000:.3g} s/1000")
    return f"{where}: {', '.join(parts)}"
