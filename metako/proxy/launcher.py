"""Start the proxy workers of a node, keep them running, adopt those of an earlier agent.

In: the proxy's configuration. Out: running worker processes, or their absence after cancellation.

A worker is a process group of its own, because it outlives the agent when the agent is killed or
replaced. The next agent finds it by the lock on its file: a worker with the same configuration is
adopted and watched through its pidfd, another one is replaced: it hands its clients over to the
worker that takes its place (`handover`), or is ended if it cannot.

Deliberately unknown here: routing tables (see `control`) and what a worker does.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

import trio

from metako.model.errors import MetakoError, PortInUseError
from metako.proxy import sockets
from metako.proxy.frames import WorkerEvent
from metako.proxy.outside import (
    EXIT_CANNOT_ENCRYPT,
    EXIT_PORT_IN_USE,
    HEIR_FORMAT,
    old_lock_paths,
)
from metako.proxy.process import WorkerProcess, find_running, lock_files
from metako.proxy.renewal import Renewal, Renewals
from metako.proxy.starting import ProxyConfig as ProxyConfig
from metako.proxy.starting import ProxyError as ProxyError
from metako.proxy.starting import StartFailed, start_worker

FIRST_ATTEMPTS_MAX = 3  # to start a worker before giving up; later there is no limit
RESTART_PAUSE_MIN_S = 0.1
RESTART_PAUSE_MAX_S = 5.0
HEALTHY_AFTER_S = 10.0  # a worker that ran for so long is restarted without a pause


async def run_workers(
    config: ProxyConfig,
    *,
    keep_running: Callable[[], bool] = lambda: False,
    on_event: Callable[[WorkerEvent], None] = lambda _event: None,
    renewals: Renewals | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the workers running until cancelled; `task_status` is told the port.

    Started once all workers listen. From then on a worker that exits is restarted, with a pause
    that doubles up to `RESTART_PAUSE_MAX_S`, for as long as it takes.

    If cancelled, the workers are ended (within about half a second) and reaped before this
    returns, unless `keep_running()` says that the next agent is to adopt them.

    Args:
        renewals: by which the workers are ordered to be replaced.

    Raises:
        PortInUseError: something else listens on the port; no worker is left running.
        ProxyError: a worker could not be started; no worker is left running.
    """
    failure: MetakoError | None = None
    others = range(2, config.workers + 1)
    async with trio.open_nursery() as nursery:
        fleet = _Fleet(config, keep_running, on_event, renewals or Renewals(), nursery)
        try:
            await fleet.adopt_all()
            # The first one finds a port that is free, and the others listen on the same.
            port: int = await nursery.start(fleet.keep_one, 1, config.port)
            await _all_of(partial(nursery.start, fleet.keep_one, index, port) for index in others)
            fleet.all_started()
            task_status.started(port)
        except MetakoError as error:
            failure = error
            fleet.failed = True
            nursery.cancel_scope.cancel()
        finally:
            await fleet.abandon_adopted()
    if failure is not None:
        raise failure


async def _all_of(several: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Do several things at once. Raises the first `MetakoError`, and cancels the others then."""
    failures: list[MetakoError] = []
    async with trio.open_nursery() as nursery:

        async def do(one: Callable[[], Awaitable[object]]) -> None:
            try:
                await one()
            except MetakoError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        for one in several:
            nursery.start_soon(do, one)
    if failures:
        raise failures[0]


class _Fleet:
    """The workers of one node."""

    def __init__(
        self,
        config: ProxyConfig,
        keep_running: Callable[[], bool],
        on_event: Callable[[WorkerEvent], None],
        renewals: Renewals,
        nursery: trio.Nursery,
    ) -> None:
        self.failed = False  # the start failed: nothing may be left running
        self._config = config
        self._keep_running = keep_running
        self._on_event = on_event
        self._renewals = renewals
        self._nursery = nursery
        self._adopted: dict[int, WorkerProcess] = {}
        self._elders: dict[int, WorkerProcess] = {}  # found, and to be replaced

    def all_started(self) -> None:
        self._renewals.workers = self._config.workers

    # -- adopting ---------------------------------------------------------------------------

    async def adopt_all(self) -> None:
        """Find the workers that fit the configuration or can be replaced, and end all others.

        Raises `PortInUseError` if none was found on the port, and it is taken.
        """
        config = self._config
        for index, path in old_lock_paths(config.control):
            worker, _ = await find_running(path)
            if worker is None:
                path.unlink(missing_ok=True)
            else:
                self._nursery.start_soon(self._watch_elder, index, worker)
        on_port = config.port == 0
        for index, path in lock_files(config.control):
            worker, record = await find_running(path)
            if worker is None:
                continue
            self._adopted[index] = worker
            if index <= config.workers:
                on_port = on_port or record.port == config.port
                if record.fingerprint == config.fingerprint:
                    continue
                if (record.heirs, record.guard) == (HEIR_FORMAT, config.guard_pid):
                    self._elders[index] = self._adopted.pop(index)
                    continue
            self._event("INFO", "an outdated proxy worker is ended", index, worker.pid)
            await worker.stop()
            self._adopted.pop(index).forget()
        if not on_port:
            await self._check_port_free()

    async def _check_port_free(self) -> None:
        # The workers share the port with whoever asks to share it, so only a look beforehand
        # tells that a stranger, or another node of this machine, listens there already.
        host, port = self._config.host, self._config.port
        try:
            await trio.to_thread.run_sync(sockets.probe_port_free, host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise self._port_in_use() from None
            raise ProxyError(f"the proxy cannot listen on {host}:{port}: {error}") from None

    async def abandon_adopted(self) -> None:
        """Let go of the workers that no task keeps, because the start was cut short."""
        for worker in (*self._adopted.values(), *self._elders.values()):
            await self._let_go_of(worker)
        self._adopted.clear()
        self._elders.clear()

    # -- keeping ----------------------------------------------------------------------------

    async def keep_one(
        self, index: int, port: int, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep worker `index` running until cancelled. Raises only before it has started."""
        worker = self._adopted.pop(index, None)
        elder = self._elders.pop(index, None)
        if worker is not None:
            self._event("INFO", "a running proxy worker was adopted", index, worker.pid)
        elif elder is not None:
            worker = await self._succeed(index, port or elder.port, elder)
        else:
            worker = await self._start_first(index, port)
        port = worker.port
        task_status.started(port)
        pause_s = RESTART_PAUSE_MIN_S
        while True:
            since = trio.current_time()
            found = await self._watch(worker, index)
            if isinstance(found, Renewal):
                worker = await self._renew(index, port, worker, found)
                continue
            worker.forget()
            self._event("WARNING", "a proxy worker exited", index, worker.pid, exit_code=found)
            if trio.current_time() - since >= HEALTHY_AFTER_S:
                pause_s = RESTART_PAUSE_MIN_S
            while True:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RESTART_PAUSE_MAX_S)
                try:
                    worker = await self._start(index, port)
                    break
                except StartFailed as error:
                    self._event("ERROR", f"no proxy worker: {error}", index, 0)

    async def _watch(self, worker: WorkerProcess, index: int) -> int | Renewal | None:
        """Return the exit code of `worker`, or the order to replace it.

        If cancelled, end it unless it is to be kept.
        """
        found: list[int | Renewal | None] = []
        async with self._letting_go_of(worker), trio.open_nursery() as nursery:

            async def wait(ended: Callable[[], Awaitable[int | Renewal | None]]) -> None:
                found.append(await ended())
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, worker.wait)
            nursery.start_soon(wait, partial(self._renewals.next_order, index))
        first, *others = found
        for other in others:
            if isinstance(other, Renewal):
                other.end("it ended in the same moment, and is started again")
        return first

    @asynccontextmanager
    async def _letting_go_of(self, worker: WorkerProcess) -> AsyncIterator[None]:
        """End `worker` if cancelled, unless it is to be kept."""
        try:
            yield
        except BaseException:
            await self._let_go_of(worker)
            raise

    async def _let_go_of(self, worker: WorkerProcess) -> None:
        if self.failed or not self._keep_running():
            await worker.stop()
        worker.forget()

    # -- replacing --------------------------------------------------------------------------

    async def _succeed(self, index: int, port: int, elder: WorkerProcess) -> WorkerProcess:
        """Return a worker in the place of one that does not fit any more, which is ended."""
        for _ in range(FIRST_ATTEMPTS_MAX):
            try:
                return await self._replace(index, port, elder)
            except StartFailed as error:
                reason = str(error)
                if error.exit_code == EXIT_CANNOT_ENCRYPT:
                    break
        self._event("WARNING", f"an outdated proxy worker is ended: {reason}", index, elder.pid)
        await elder.stop()
        elder.forget()
        return await self._start_first(index, port)

    async def _renew(
        self, index: int, port: int, worker: WorkerProcess, order: Renewal
    ) -> WorkerProcess:
        """Return a new worker, or the same if there is none."""
        try:
            worker = await self._replace(index, port, worker)
        except StartFailed as error:
            self._event("ERROR", f"a proxy worker was not replaced: {error}", index, worker.pid)
            order.end(str(error))
        else:
            order.end()
        return worker

    async def _replace(self, index: int, port: int, elder: WorkerProcess) -> WorkerProcess:
        """Return the worker to which `elder` hands over, and watch that one to its end.

        Raises `StartFailed`: `elder` goes on. If cancelled, both are ended unless to be kept.
        """
        try:
            worker = await self._start(index, port, inherits=True)
        except trio.Cancelled:
            await self._let_go_of(elder)
            raise
        self._event("INFO", "a proxy worker is replaced", index, elder.pid, by=worker.pid)
        self._nursery.start_soon(self._watch_elder, index, elder)
        return worker

    async def _watch_elder(self, index: int, elder: WorkerProcess) -> None:
        """Wait until a worker that was replaced has no client any more. If cancelled, end it."""
        async with self._letting_go_of(elder):
            await elder.wait()
        elder.forget()
        self._event("INFO", "a replaced proxy worker has ended", index, elder.pid)

    # -- starting ---------------------------------------------------------------------------

    async def _start_first(self, index: int, port: int) -> WorkerProcess:
        for attempt in range(1, FIRST_ATTEMPTS_MAX + 1):
            try:
                return await self._start(index, port)
            except StartFailed as error:
                if error.exit_code == EXIT_PORT_IN_USE:
                    raise self._port_in_use() from None
                if attempt == FIRST_ATTEMPTS_MAX or error.exit_code == EXIT_CANNOT_ENCRYPT:
                    raise ProxyError(f"the proxy cannot be started: {error}") from None
                await trio.sleep(RESTART_PAUSE_MIN_S)
        raise AssertionError("the last attempt returns or raises")

    async def _start(self, index: int, port: int, *, inherits: bool = False) -> WorkerProcess:
        worker = await start_worker(self._config, index, port, inherits=inherits)
        self._event("INFO", "a proxy worker started", index, worker.pid, port=worker.port)
        return worker

    def _port_in_use(self) -> PortInUseError:
        where = f"{self._config.host}:{self._config.port}"
        return PortInUseError(
            f"the proxy's port {where} is in use: stop what listens there, or choose another port"
        )

    def _event(self, level: str, message: str, index: int, pid: int, **more: object) -> None:
        fields = (("worker", index), ("pid", pid), *more.items())
        self._on_event(WorkerEvent(level, message, fields))
