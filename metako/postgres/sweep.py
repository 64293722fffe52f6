"""Find a server's processes by what /proc says, for when no parent can vouch for them.

The guard knows exactly when its server is gone. When the guard itself was killed, or the server was
started by somebody else, this is the next best: every process that executes a program named
`postgres` with the data directory as its working directory, which the postmaster enters at once and
its children inherit. A shell that someone left in that directory is not one of them, nor is a
program that an archive command started: neither can write to the database.

Needs to be root or the server's own user; processes that may not be looked at are not reported.
"""

from __future__ import annotations

import contextlib
import os
import signal

import trio

from metako.model.errors import MetakoError

_PROGRAMS = ("postgres", "postmaster")
_DELETED = " (deleted)"
SWEEP_INTERVAL_S = 0.005
REAP_WAIT_S = 2.0


class ServerNotGoneError(MetakoError):
    """Processes of the server are left, and may still be writing."""


def server_processes(data_dir: str | os.PathLike[str]) -> list[int]:
    """Return the pids of the server on `data_dir`: postmaster and children; zombies excluded."""
    real = os.path.realpath(data_dir)
    try:
        status = os.stat(real)
        identity = (status.st_dev, status.st_ino)
    except OSError:
        identity = None  # removed while a server runs in it: the name is all there is
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            program = os.readlink(f"/proc/{entry}/exe").removesuffix(_DELETED)
            if os.path.basename(program) not in _PROGRAMS:
                continue
            cwd = os.readlink(f"/proc/{entry}/cwd")
            if cwd.removesuffix(_DELETED) == real or _identity(entry) == identity is not None:
                found.append(int(entry))
        except OSError:
            continue  # it ended meanwhile, or is not ours to look at
    return sorted(found)


def _identity(entry: str) -> tuple[int, int]:
    # By identity as well as by name: the directory may have been renamed or bind-mounted.
    status = os.stat(f"/proc/{entry}/cwd")
    return status.st_dev, status.st_ino


async def kill_server_processes(
    data_dir: str | os.PathLike[str], *, timeout_s: float = 5.0
) -> list[int]:
    """SIGKILL every process of the server until none is left; return those that are left.

    Each is named by a pidfd that is taken before it is looked at again, so a recycled number is
    never hit. Waits `REAP_WAIT_S` at most for the dead to be reaped as well: PostgreSQL does not
    start while the number of the former postmaster exists. If cancelled, what was killed stays
    killed.
    """
    deadline = trio.current_time() + timeout_s
    killed: set[int] = set()
    while True:
        remaining = server_processes(data_dir)
        if not remaining:
            await _wait_reaped(killed)
            return []
        if trio.current_time() >= deadline:
            return remaining
        killed.update(_kill(data_dir, remaining))
        await trio.sleep(SWEEP_INTERVAL_S)


def _kill(data_dir: str | os.PathLike[str], pids: list[int]) -> list[int]:
    """SIGKILL those of `pids` that still are the server's; return them."""
    descriptors: dict[int, int] = {}
    killed = []
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptors[pid] = os.pidfd_open(pid)
        still = server_processes(data_dir)
        for pid, descriptor in descriptors.items():
            if pid in still:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    killed.append(pid)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return killed


async def _wait_reaped(pids: set[int]) -> None:
    with trio.move_on_after(REAP_WAIT_S):
        for pid in pids:
            while _exists(pid):  # noqa: ASYNC110 - nobody sends an event when a stranger is reaped
                await trio.sleep(SWEEP_INTERVAL_S)


def _exists(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # ours if we are the subreaper, or process 1 of a container
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
