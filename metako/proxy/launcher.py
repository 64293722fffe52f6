"""Start the proxy workers of a node, keep them running, adopt those of an earlier agent.

In: the proxy's configuration. Out: running worker processes, or their absence after cancellation.

A worker is a process group of its own, because it outlives the agent when the agent is killed or
replaced. The next agent finds it by the lock on its file: a worker with the same configuration is
adopted and watched through its pidfd, another one is ended and replaced.

Deliberately unknown here: routing tables (see `control`) and what a worker does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import trio

import metako
from metako.model.errors import MetakoError, PortInUseError
from metako.model.ids import NodeId
from metako.proxy import sockets
from metako.proxy.frames import WorkerEvent
from metako.proxy.limits import NO_LIMITS, NO_TIMEOUTS, Limits, Timeouts, Tuning
from metako.proxy.outside import EXIT_CANNOT_ENCRYPT, EXIT_PORT_IN_USE
from metako.proxy.process import WORKERS_MAX, WorkerProcess, find_running, lock_files
from metako.proxy.tlsoptions import NO_TLS, TlsOptions

READY_TIMEOUT_S = 15.0  # to import, bind and listen, on a busy machine
FIRST_ATTEMPTS_MAX = 3  # to start a worker before giving up; later there is no limit
RESTART_PAUSE_MIN_S = 0.1
RESTART_PAUSE_MAX_S = 5.0
HEALTHY_AFTER_S = 10.0  # a worker that ran for so long is restarted without a pause
_READY_BYTES_MAX = 64


class ProxyError(MetakoError):
    """The proxy cannot be started. No worker is left running."""

    exit_code = 13


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """What the workers of one node need to know."""

    control: Path  # Unix socket on which `serve_control` listens; locks lie beside it
    host: str  # where to listen; "*" for all addresses
    port: int  # 0 takes a free one, the same for all workers
    node: NodeId
    guard_pid: int  # the workers exit with this process
    workers: int = 1
    queue_timeout_s: float = 30.0  # how long a new session waits for a primary
    connections_max: int = 1000  # of the node; each worker serves its share, rounded up
    limits: Limits = NO_LIMITS  # of connections to servers, likewise
    tls: TlsOptions = NO_TLS
    timeouts: Timeouts = NO_TIMEOUTS
    admins: tuple[str, ...] = ()  # who may use the console

    def __post_init__(self) -> None:
        assert 1 <= self.workers <= WORKERS_MAX, self.workers

    @property
    def share(self) -> Tuning:
        """Return what each worker is to keep to."""
        whole = Tuning(
            self.connections_max, self.queue_timeout_s, self.limits, self.timeouts, self.admins
        )
        return whole.shared_by(self.workers)

    @property
    def fingerprint(self) -> str:
        """Return a digest of all that a running worker cannot change; see `limits.Tuning`."""
        parts = (
            metako.__version__,
            self.host,
            self.port,
            self.node,
            self.guard_pid,
            self.workers,
            self.tls.to_text(),
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


async def run_workers(
    config: ProxyConfig,
    *,
    keep_running: Callable[[], bool] = lambda: False,
    on_event: Callable[[WorkerEvent], None] = lambda _event: None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the workers running until cancelled; `task_status` is told the port.

    Started once all workers listen. From then on a worker that exits is restarted, with a pause
    that doubles up to `RESTART_PAUSE_MAX_S`, for as long as it takes.

    If cancelled, the workers are ended (within about half a second) and reaped before this
    returns, unless `keep_running()` says that the next agent is to adopt them.

    Raises:
        PortInUseError: something else listens on the port; no worker is left running.
        ProxyError: a worker could not be started; no worker is left running.
    """
    fleet = _Fleet(config, keep_running, on_event)
    failure: MetakoError | None = None
    async with trio.open_nursery() as nursery:
        try:
            await fleet.adopt_all()
            port: int = await nursery.start(fleet.keep_one, 1, config.port)
            for index in range(2, config.workers + 1):
                await nursery.start(fleet.keep_one, index, port)
            task_status.started(port)
        except MetakoError as error:
            failure = error
            fleet.failed = True
            nursery.cancel_scope.cancel()
        finally:
            await fleet.abandon_adopted()
    if failure is not None:
        raise failure


class _StartFailed(Exception):
    """A worker did not come up. It is not running."""

    def __init__(self, exit_code: int | None, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code  # None if it had to be ended


class _Fleet:
    """The workers of one node."""

    def __init__(
        self,
        config: ProxyConfig,
        keep_running: Callable[[], bool],
        on_event: Callable[[WorkerEvent], None],
    ) -> None:
        self.failed = False  # the start failed: nothing may be left running
        self._config = config
        self._keep_running = keep_running
        self._on_event = on_event
        self._adopted: dict[int, WorkerProcess] = {}

    # -- adopting ---------------------------------------------------------------------------

    async def adopt_all(self) -> None:
        """Take over the workers that fit the configuration, and end all others.

        Raises `PortInUseError` if none was found and the port is taken.
        """
        for index, path in lock_files(self._config.control):
            worker, fingerprint = await find_running(path)
            if worker is None:
                continue
            self._adopted[index] = worker
            if index > self._config.workers or fingerprint != self._config.fingerprint:
                self._event("INFO", "an outdated proxy worker is ended", index, worker.pid)
                await worker.stop()
                self._adopted.pop(index).forget()
        if not self._adopted and self._config.port != 0:
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
        for worker in self._adopted.values():
            if self.failed or not self._keep_running():
                await worker.stop()
            worker.forget()
        self._adopted.clear()

    # -- keeping ----------------------------------------------------------------------------

    async def keep_one(
        self, index: int, port: int, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep worker `index` running until cancelled. Raises only before it has started."""
        worker = self._adopted.pop(index, None)
        if worker is None:
            worker = await self._start_first(index, port)
        else:
            self._event("INFO", "a running proxy worker was adopted", index, worker.pid)
        port = worker.port
        task_status.started(port)
        pause_s = RESTART_PAUSE_MIN_S
        while True:
            since = trio.current_time()
            code = await self._watch(worker)
            self._event("WARNING", "a proxy worker exited", index, worker.pid, exit_code=code)
            if trio.current_time() - since >= HEALTHY_AFTER_S:
                pause_s = RESTART_PAUSE_MIN_S
            while True:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RESTART_PAUSE_MAX_S)
                try:
                    worker = await self._start(index, port)
                    break
                except _StartFailed as error:
                    self._event("ERROR", f"no proxy worker: {error}", index, 0)

    async def _watch(self, worker: WorkerProcess) -> int | None:
        """Return the exit code of `worker`. If cancelled, end it unless it is to be kept."""
        try:
            return await worker.wait()
        except trio.Cancelled:
            if self.failed or not self._keep_running():
                await worker.stop()
            raise
        finally:
            worker.forget()

    # -- starting ---------------------------------------------------------------------------

    async def _start_first(self, index: int, port: int) -> WorkerProcess:
        for attempt in range(1, FIRST_ATTEMPTS_MAX + 1):
            try:
                return await self._start(index, port)
            except _StartFailed as error:
                if error.exit_code == EXIT_PORT_IN_USE:
                    raise self._port_in_use() from None
                if attempt == FIRST_ATTEMPTS_MAX or error.exit_code == EXIT_CANNOT_ENCRYPT:
                    raise ProxyError(f"the proxy cannot be started: {error}") from None
                await trio.sleep(RESTART_PAUSE_MIN_S)
        raise AssertionError("the last attempt returns or raises")

    async def _start(self, index: int, port: int) -> WorkerProcess:
        """Return a worker that listens. Raises `_StartFailed`; if cancelled, ends the worker."""
        read_fd, write_fd = os.pipe()
        ready = trio.lowlevel.FdStream(read_fd)
        try:
            process = await trio.lowlevel.open_process(
                self._command(index, port, write_fd),
                pass_fds=(write_fd,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                # Neither a Ctrl-C at the agent's terminal nor the end of its group is for it.
                start_new_session=True,
            )
        except OSError as error:
            await trio.aclose_forcefully(ready)
            raise _StartFailed(None, str(error)) from None
        finally:
            os.close(write_fd)
        worker = WorkerProcess(process.pid, os.pidfd_open(process.pid), 0, process)
        try:
            worker.port = await _wait_ready(worker, ready)
        except BaseException:
            await worker.stop()
            worker.forget()
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(ready)
        self._event("INFO", "a proxy worker started", index, worker.pid, port=worker.port)
        return worker

    def _command(self, index: int, port: int, ready_fd: int) -> list[str]:
        config = self._config
        share = config.share
        options: dict[str, object] = {
            "control": config.control.absolute(),
            "host": config.host,
            "port": port,
            "node": config.node,
            "guard-pid": config.guard_pid,
            "queue-timeout-s": share.queue_timeout_s,
            "max-connections": share.sessions_max,
            "limits": ",".join(map(str, astuple(share.limits))),
            "timeouts": ",".join(map(str, astuple(share.timeouts))),
            "admins": json.dumps(share.admins),
            "tls": config.tls.to_text(),
            "index": index,
            "fingerprint": config.fingerprint,
            "ready-fd": ready_fd,
        }
        # -P: the working directory is no place to look for modules.
        command = [sys.executable, "-P", "-m", "metako.proxy"]
        # One word each, so that a value with a leading dash is no option.
        return [*command, *(f"--{name}={value}" for name, value in options.items())]

    def _port_in_use(self) -> PortInUseError:
        where = f"{self._config.host}:{self._config.port}"
        return PortInUseError(
            f"the proxy's port {where} is in use: stop what listens there, or choose another port"
        )

    def _event(self, level: str, message: str, index: int, pid: int, **more: object) -> None:
        fields = (("worker", index), ("pid", pid), *more.items())
        self._on_event(WorkerEvent(level, message, fields))


async def _wait_ready(worker: WorkerProcess, ready: trio.lowlevel.FdStream) -> int:
    """Return the port that `worker` listens on. Raises `_StartFailed`."""
    with trio.move_on_after(READY_TIMEOUT_S):
        line = await ready.receive_some(_READY_BYTES_MAX)
        if line:
            return int(line)
        code = await worker.wait()
        if code == EXIT_CANNOT_ENCRYPT:
            raise _StartFailed(code, "its TLS files cannot be used; `metako check` tells why")
        raise _StartFailed(code, f"it exited with code {code}")
    raise _StartFailed(None, f"it did not listen within {READY_TIMEOUT_S:g} s")


def _environment() -> dict[str, str]:
    """Return our environment, with the package found wherever the agent found it."""
    root = str(Path(metako.__file__).absolute().parent.parent)
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{given}" if given else root}
