"""Start one proxy worker, and what the workers of a node have to know.

In: the proxy's configuration. Out: a worker process that listens.

Deliberately unknown here: when a worker is started, and what is done if it cannot be.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

import trio

import metako
from metako.model.errors import MetakoError
from metako.model.ids import NodeId
from metako.proxy.limits import NO_LIMITS, NO_TIMEOUTS, Limits, Timeouts, Tuning
from metako.proxy.outside import EXIT_CANNOT_ENCRYPT
from metako.proxy.process import WORKERS_MAX, WorkerProcess
from metako.proxy.tlsoptions import NO_TLS, TlsOptions

READY_TIMEOUT_S = 15.0  # to import, bind and listen, on a busy machine
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


class StartFailed(Exception):
    """A worker did not come up. It is not running."""

    def __init__(self, exit_code: int | None, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code  # None if it had to be ended


async def start_worker(
    config: ProxyConfig, index: int, port: int, *, inherits: bool = False
) -> WorkerProcess:
    """Return a worker that listens. Raises `StartFailed`; if cancelled, ends the worker.

    Args:
        inherits: from the worker that has this number now.
    """
    read_fd, write_fd = os.pipe()
    ready = trio.lowlevel.FdStream(read_fd)
    try:
        process = await trio.lowlevel.open_process(
            worker_command(config, index, port, write_fd, inherits=inherits),
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
        raise StartFailed(None, str(error)) from None
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
    return worker


def worker_command(
    config: ProxyConfig, index: int, port: int, ready_fd: int, *, inherits: bool
) -> list[str]:
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
        "inherits": int(inherits),
    }
    # -P: the working directory is no place to look for modules.
    command = [sys.executable, "-P", "-m", "metako.proxy"]
    # One word each, so that a value with a leading dash is no option.
    return [*command, *(f"--{name}={value}" for name, value in options.items())]


async def _wait_ready(worker: WorkerProcess, ready: trio.lowlevel.FdStream) -> int:
    """Return the port that `worker` listens on. Raises `StartFailed`."""
    with trio.move_on_after(READY_TIMEOUT_S):
        line = await ready.receive_some(_READY_BYTES_MAX)
        if line:
            return int(line)
        code = await worker.wait()
        if code == EXIT_CANNOT_ENCRYPT:
            raise StartFailed(code, "its TLS files cannot be used; `metako check` tells why")
        raise StartFailed(code, f"it exited with code {code}")
    raise StartFailed(None, f"it did not listen within {READY_TIMEOUT_S:g} s")


def _environment() -> dict[str, str]:
    """Return our environment, with the package found wherever the agent found it."""
    root = str(Path(metako.__file__).absolute().parent.parent)
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{given}" if given else root}
