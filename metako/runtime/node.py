"""One node: everything that `metako run` starts, and the order in which it stops.

The nesting of the nurseries is the order of stopping: what serves clients goes first, then
PostgreSQL, then the cluster, which has given up the lease by then. An unhandled error cancels what
is inside, has PostgreSQL fenced, and ends the process with an exit code other than 0.

A guard that is lost is no end: the kernel has told PostgreSQL to quit, what is left is swept away,
and the node starts over inside the same process, as if the agent had been restarted.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

import metako
from metako.cluster.engine import Engine
from metako.cluster.ready import ProxyLoad, StopRequested
from metako.config import NodeConfig, resolve_advertised
from metako.election.wants import GuardDeadline
from metako.model.durable import HardState
from metako.model.errors import FencedError, MetakoError
from metako.model.events import Event, EventName, Severity, event
from metako.model.ids import Term
from metako.model.instant import milliseconds
from metako.model.orders import Order, OrderAnswer
from metako.model.postgres import PostgresObserved
from metako.model.status import NodeStatus
from metako.observability.logs import LogHandle, log, log_event, setup_logging
from metako.observability.metrics import EventCounter, render_metrics
from metako.observability.status_line import status_line
from metako.ports import PostgresPort, PostgresReport
from metako.postgres.guardlink import GuardLostError
from metako.postgres.process import Guard, open_guard, server_processes
from metako.postgres.steps import StepFailed, StepFinished
from metako.postgres.supervisor import PostgresSupervisor
from metako.runtime.binding import bind_gossip
from metako.runtime.clock import SystemClock
from metako.runtime.driver import EngineDriver
from metako.runtime.effects import NodeEffects
from metako.runtime.ending import Ending, become_new_agent
from metako.runtime.fence import FenceKeeper
from metako.runtime.guardnotes import guard_note_events
from metako.runtime.history import HistoryBook
from metako.runtime.paths import run_dir
from metako.runtime.preflight import guard_runs
from metako.runtime.priority import raise_priority, restore_priority
from metako.runtime.settings import node_settings, server_settings, watchdog_wish
from metako.runtime.startup import Prepared, begin_record, greet, prepare
from metako.runtime.steplog import step_event
from metako.runtime.store import HardStateStore, open_store
from metako.runtime.transport import Transport
from metako.runtime.witness import NoPostgres
from metako.runtime.workers import ProxyWorkers
from metako.wire.messages import Received
from metako.wire.seal import SALT_BYTES, Opener, Sealer

if TYPE_CHECKING:
    from metako.runtime.http import ServeHttp

GUARD_LOST_MAX = 5
"""Times that a node starts over in one process because its guard was lost."""
SWEEP_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 30.0
"""For everything, from the signal to the last process; then PostgreSQL is fenced."""
HTTP_WAITING_MAX = 64  # connections to a port that gossip and API share, until the API serves
RENEWAL_TIMEOUT_S = 1.5
"""An agent that makes way waits so long for one more renewal of the lease; a heartbeat takes less.
Together with all else it is to take less than `ending.REPLACE_TIMEOUT_S`."""
FAREWELL_S = 0.1
"""Between the last message and the end of the network."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What one run of a node holds open."""

    store: HardStateStore
    transport: Transport
    received: trio.MemoryReceiveChannel[Received]
    postgres: PostgresPort
    guard: Guard | None  # None on a witness
    history: HistoryBook


def run_node(config: NodeConfig) -> int:
    """Run one node until it is told to stop; return the exit code of the process.

    One that is told to make way for a new agent does not return: it begins anew.

    Raises:
        MetakoError: the node cannot start (nothing was changed), or failed while it ran, in which
            case PostgreSQL was fenced.
    """
    config = resolve_advertised(config)
    prepared = prepare(config)
    logs = setup_logging(config.logging, config.node.name)
    try:
        for note in config.notes:
            log(Severity.INFO, note)
        replaced = trio.run(_run, prepared, logs)
    finally:
        logs.close()
    if replaced:
        become_new_agent()
    return 0


async def _run(prepared: Prepared, logs: LogHandle) -> bool:
    """Run the node to its end; return whether a new agent is to take over."""
    ending = Ending()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.watch_signals)
        lost = 0
        while True:
            try:
                await Node(prepared, ending).run()
                break
            except* GuardLostError as group:
                lost += 1
                error = group.exceptions[0]
                log(Severity.ERROR, f"the guard was lost, starting over: {error}")
                await _sweep(prepared)
                if lost >= GUARD_LOST_MAX:
                    raise FencedError(f"the guard was lost {lost} times; giving up") from None
            if ending.wanted.is_set():
                break
        nursery.cancel_scope.cancel()
    return ending.replaced


async def _sweep(prepared: Prepared) -> None:
    """End what is left of a server whose guard was lost, and wait until it is gone."""
    data_dir = prepared.config.postgresql.data_dir
    with trio.move_on_after(SWEEP_TIMEOUT_S):
        while pids := server_processes(data_dir):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await trio.sleep(0.02)
        return
    raise FencedError(f"processes of the server in {data_dir} cannot be ended; see 'ps'")


class Node:
    """One run of a node, from the durable record to the last process. Not reusable."""

    def __init__(self, prepared: Prepared, ending: Ending) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._ending = ending
        self._clock = SystemClock()
        self._counter = EventCounter()
        self._workers = ProxyWorkers(
            self._config, self._hear_sessions, keep_running=lambda: ending.replaced
        )
        self._http_in, self._http = trio.open_memory_channel[trio.SocketStream](HTTP_WAITING_MAX)
        self._driver: EngineDriver | None = None
        self._history: HistoryBook | None = None
        self._observed = PostgresObserved()

    async def run(self) -> None:
        """Run until stopped. If cancelled or failed, PostgreSQL is fenced before this returns."""
        config = self._config
        sockets = bind_gossip(config.gossip.listen.host, config.gossip.listen.port)
        with contextlib.ExitStack() as stack:
            stack.callback(sockets.close)
            store, loaded = open_store(config.node.state_dir / "record", config.node.name)
            stack.callback(store.close)
            if loaded.note:
                log(Severity.WARNING, loaded.note)
            hard = begin_record(loaded.record, config)
            history = self._history = HistoryBook(config.node.state_dir)
            stack.callback(history.close)
            inbox, received = trio.open_memory_channel[Received](1024)
            transport = Transport(
                sockets,
                Sealer(
                    *(config.cluster.name, config.node.name, hard.boot_epoch),
                    *(secrets.token_bytes(SALT_BYTES), config.gossip.keys),
                ),
                Opener(config.cluster.name, config.node.name, config.gossip.keys),
                inbox,
                agent_version=metako.__version__,
                clock_skew_max_s=config.cluster.max_clock_skew_ms / 1000,
                exchange_timeout_s=config.gossip.exchange_timeout_ms / 1000,
                http=self._http_in if config.gossip.shares_api_port else None,
            )
            async with trio.open_nursery() as network:
                await network.start(transport.run)
                # What an earlier agent left in the guard's care may have a lease that runs out.
                await greet(transport, config, in_a_hurry=guard_runs(config))
                await store.persist(hard)
                async with self._postgres() as (postgres, guard):
                    parts = Parts(store, transport, received, postgres, guard, history)
                    await self._run_cluster(parts, hard)
                network.cancel_scope.cancel()

    @asynccontextmanager
    async def _postgres(self) -> AsyncIterator[tuple[PostgresPort, Guard | None]]:
        prepared, config = self._prepared, self._config
        if prepared.installation is None:
            yield NoPostgres(), None
            return
        if not guard_runs(config):
            restore_priority()  # before a guard and its server could be started with it
        async with open_guard(
            run_dir=run_dir(config),
            user=prepared.user,
            data_dir=config.postgresql.data_dir,
            orphan_timeout_s=config.postgresql.orphan_timeout_ms / 1000,
            watchdog=watchdog_wish(config),
        ) as guard:
            if guard.status.adopted:
                for fact in guard_note_events(guard.notes):
                    self._report(fact)
            supervisor = PostgresSupervisor(
                settings=server_settings(config, prepared.user),
                installation=prepared.installation,
                user=prepared.user,
                guard=guard,
            )
            try:
                yield supervisor, guard
            except BaseException:
                with trio.CancelScope(shield=True):
                    await _end_now(guard)
                raise
            if not self._ending.replaced:
                with contextlib.suppress(MetakoError):
                    await guard.shutdown()

    async def _run_cluster(self, parts: Parts, hard: HardState) -> None:
        postgres, guard = parts.postgres, parts.guard
        margin_ns = milliseconds(self._config.timing.fence_margin_ms)
        fence = FenceKeeper(guard, margin_ns) if guard is not None else None
        if hard.document is not None:
            postgres.set_members(hard.document.data_members())
        armed = _armed(guard)
        effects = NodeEffects(
            store=parts.store,
            transport=parts.transport,
            postgres=postgres,
            fence=fence,
            feed=self._workers.feed,
            counter=self._counter,
            history=parts.history,
        )
        engine = Engine(
            settings=node_settings(self._config),
            hard=hard,
            rng=random.Random(secrets.randbits(128)),  # noqa: S311 - spreads candidacies
            now=self._clock.now(),
            armed=armed,
        )
        driver = self._driver = EngineDriver(engine, effects, self._clock)
        async with trio.open_nursery() as cluster:
            cluster.start_soon(_forward, parts.received, driver)
            async with trio.open_nursery() as server:
                if fence is not None:
                    server.start_soon(fence.run)
                if armed is not None:  # the lease is renewed before the server is looked at
                    await cluster.start(driver.run)
                await server.start(postgres.run)
                server.start_soon(self._hear_postgres, postgres.observations, driver)
                if armed is None:
                    await cluster.start(driver.run)
                restore_priority()
                await self._serve_until_stopped(guard)
                if self._ending.replaced and fence is not None:  # the next agent gets all of it
                    await fence.wait_renewed(RENEWAL_TIMEOUT_S)
                    raise_priority()
                if not self._ending.replaced:
                    await self._stop_cleanly(driver)
                server.cancel_scope.cancel()
            if not self._ending.replaced:
                await trio.sleep(FAREWELL_S)
            cluster.cancel_scope.cancel()

    async def _serve_until_stopped(self, guard: Guard | None) -> None:
        config = self._config
        async with trio.open_nursery() as serving:
            api_stop = trio.Event()
            if config.proxy.enabled:
                await self._workers.start(serving, guard.status.pid if guard else os.getpid())
            serving.start_soon(self._serve_http, api_stop)
            if config.logging.status_interval_ms:
                serving.start_soon(self._status_lines, config.logging.status_interval_ms / 1000)
            await self._ending.wanted.wait()
            api_stop.set()
            serving.cancel_scope.cancel()

    async def _stop_cleanly(self, driver: EngineDriver) -> None:
        """Have the engine stop PostgreSQL and give up the lease, bounded."""
        with trio.move_on_after(STOP_TIMEOUT_S):
            await driver.inbox.send(StopRequested())
            await driver.stopped.wait()
            return
        raise FencedError(f"PostgreSQL did not stop within {STOP_TIMEOUT_S:g} s and was killed")

    async def _serve_http(self, stop: trio.Event) -> None:
        # In a thread: the engine goes on meanwhile, and is a few milliseconds late.
        serve_http = await trio.to_thread.run_sync(_load_http)
        await serve_http(self, self, self._config, self._http, stop=stop)

    def _hear_sessions(self, sessions: int) -> None:
        if self._driver is not None:
            with contextlib.suppress(trio.WouldBlock):
                self._driver.inbox.send_nowait(ProxyLoad(sessions))

    async def _hear_postgres(
        self, observations: trio.MemoryReceiveChannel[PostgresReport], driver: EngineDriver
    ) -> None:
        async for report in observations:
            match report:
                case PostgresObserved():
                    if report != self._observed:
                        self._observed = report
                        await driver.inbox.send(report)
                case StepFinished() | StepFailed():
                    self._report(step_event(report))

    def _report(self, fact: Event) -> None:
        self._counter.count(fact)
        log_event(fact)

    async def _status_lines(self, interval_s: float) -> None:
        while True:
            await trio.sleep(interval_s)
            self._report(event(EventName.STATUS, status_line(self.status())))

    # ------------------------------------------------------------ what the API shows and takes

    def status(self) -> NodeStatus:
        """Return the node's picture of this moment."""
        assert self._driver is not None
        return self._driver.engine.status(self._clock.now())

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        assert self._driver is not None
        return render_metrics(
            node=self._config.node.name,
            version=metako.__version__,
            events=self._counter,
            status=self.status(),
            more=(*self._driver.counters.samples(), *self._workers.samples()),
        )

    def history(self) -> Sequence[Mapping[str, object]]:
        """Return what is known of the cluster's history, oldest first."""
        assert self._history is not None
        return self._history.entries(self.status().document)

    async def order(self, order: Order) -> OrderAnswer:
        """Give an order to the cluster; see `EngineDriver.order`."""
        assert self._driver is not None
        return await self._driver.order(order)

    async def renew_proxy(self) -> tuple[int, list[str]]:
        return await self._workers.renew()


def _load_http() -> ServeHttp:
    # Not at the top of this file: it takes as long as a third of all the rest, and the lease of a
    # primary whose agent is replaced has to be renewed before it ends.
    from metako.runtime.http import serve_http

    return serve_http


async def _end_now(guard: Guard) -> None:
    """Have PostgreSQL killed and the guard gone, whatever state it is in. Bounded."""
    try:
        await guard.kill_all()
        await guard.shutdown()
    except (MetakoError, OSError):
        if not guard.lost:
            guard.end_guard()


def _armed(guard: Guard | None) -> GuardDeadline | None:
    """Return the deadline that an earlier agent left with the guard."""
    if guard is None or not guard.status.adopted or not guard.status.armed_term:
        return None
    return GuardDeadline(Term(guard.status.armed_term), guard.status.deadline_boot_ns)


async def _forward(received: trio.MemoryReceiveChannel[Received], driver: EngineDriver) -> None:
    async for message in received:
        await driver.inbox.send(message)
