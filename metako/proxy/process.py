"""A proxy worker seen from outside: its process, and the lock by which it is found.

In: a control path, or a process that was just started. Out: handles to wait for and to end.

A handle is a pidfd, so that nothing is ever done to another process that got the same pid later:
the pidfd is opened first and the worker's lock is looked at again before it is believed.

Deliberately unknown here: why a worker is started, kept or ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import trio

from metako.proxy.outside import Record, lock_path

WORKERS_MAX = 64  # of one node
STOP_TIMEOUT_S = 0.5  # from SIGTERM to SIGKILL
KILL_TIMEOUT_S = 2.0  # from SIGKILL to the process being gone
ADOPT_ATTEMPTS_MAX = 20  # a worker that starts right now has not yet written its record
ADOPT_PAUSE_S = 0.05
_RECORD_BYTES_MAX = 1024
_NOBODY = Record(0, 0, "")


@dataclass(slots=True)
class WorkerProcess:
    """A running worker. `pidfd` is owned by this object."""

    pid: int
    pidfd: int
    port: int  # 0 until it is known
    process: trio.Process | None  # None if it is not our child

    async def wait(self) -> int | None:
        """Return when it has exited: the exit code, or None if it was not our child."""
        if self.process is not None:
            return await self.process.wait()
        await trio.lowlevel.wait_readable(self.pidfd)
        # A child all the same, if this process was an agent before and began anew.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - this does not wait
        return None

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    async def stop(self) -> None:
        """End it politely, then forcibly. Returns in bounded time, also when cancelled."""
        with trio.CancelScope(shield=True):
            self.send(signal.SIGTERM)
            with trio.move_on_after(STOP_TIMEOUT_S):
                await self.wait()
                return
            self.send(signal.SIGKILL)
            with trio.move_on_after(KILL_TIMEOUT_S):
                await self.wait()

    def forget(self) -> None:
        """Release our handle; the process goes on if it has not exited."""
        if self.pidfd != -1:
            trio.lowlevel.notify_closing(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1


def lock_files(control: Path) -> list[tuple[int, Path]]:
    """Return the lock files of all workers that ever ran beside `control`, by their number."""
    candidates = ((index, lock_path(control, index)) for index in range(1, WORKERS_MAX + 1))
    return [(index, path) for index, path in candidates if path.exists()]


async def find_running(path: Path) -> tuple[WorkerProcess | None, Record]:
    """Return the worker that holds the lock of `path`, and what it says of itself."""
    for _ in range(ADOPT_ATTEMPTS_MAX):
        record = _locked_record(path)
        if record is None:
            break
        if record.pid > 0:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(record.pid)
                # The pid may have been used again before we held it; the lock tells.
                if _locked_record(path) == record:
                    return WorkerProcess(record.pid, pidfd, record.port, None), record
                os.close(pidfd)
        await trio.sleep(ADOPT_PAUSE_S)
    return None, _NOBODY


def _locked_record(path: Path) -> Record | None:
    """Return what the lock's holder has written; pid 0 if it has not yet.

    None if nobody holds the lock, or there is no such file any more.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return None
        content = file.read(_RECORD_BYTES_MAX)
    try:
        said = json.loads(content)
        return Record(
            int(said["pid"]),
            int(said["port"]),
            str(said["fingerprint"]),
            int(said.get("guard", 0)),
            int(said.get("heirs", 0)),
        )
    except (ValueError, KeyError, TypeError):
        return _NOBODY
