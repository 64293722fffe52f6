"""Fork and exec of the postmaster.

The child does what must happen between fork and exec, in the one order that is safe: default
signals, own session, parent-death signal (after every change of user: the guard has made its own
before), a look whether the parent is still there, log file, data directory, exec. It opens the log
itself: should the disk hang, the child hangs and not the guard.

The outcome comes through a close-on-exec pipe: end of file means that the program runs, text says
why not. The guard waits for it in its poll loop, never by a blocking read.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

from metako.guard import linux

ERROR_TEXT_MAX = 1000
FIRST_FD = 3
FD_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `argv[0]` is an absolute path; `env` is the whole environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    log_path: str
    cwd: str


def fork_exec(command: Command, *, nice: int) -> tuple[int, int]:
    """Start the program; return its pid and the descriptor that tells whether exec succeeded.

    Args:
        command: see `Command`.
        nice: priority that the program gets; the guard may have raised its own.

    Raises:
        OSError: no process could be made. Nothing runs.
    """
    guard_pid = os.getpid()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        pid = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if pid == 0:
        _become(command, guard_pid, writer, nice)
    os.close(writer)
    return pid, reader


def _become(command: Command, guard_pid: int, writer: int, nice: int) -> None:
    """Turn the forked child into the program. Never returns."""
    step = "prepare"
    try:
        signal.set_wakeup_fd(-1)
        linux.reset_signals()
        os.setsid()
        os.umask(0o077)
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        step = "watch the guard"
        linux.set_parent_death_signal(signal.SIGQUIT)
        if os.getppid() != guard_pid:
            os._exit(127)
        step = f"open {command.log_path}"
        log = os.open(command.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(FIRST_FD, writer)
        os.closerange(writer + 1, FD_LIMIT)
        step = f"enter {command.cwd}"
        # From here on the process can be found by its working directory.
        os.chdir(command.cwd)
        step = f"run {command.argv[0]}"
        # No shell is wanted.
        os.execve(command.argv[0], command.argv, command.env)  # noqa: S606
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the guard's own stack
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        with contextlib.suppress(OSError):
            os.write(writer, f"cannot {step}: {reason}".encode()[:ERROR_TEXT_MAX])
    os._exit(127)


def read_outcome(reader: int) -> str | None:
    """Return "" if the program runs, the reason if not, None if it is not known yet."""
    try:
        return os.read(reader, ERROR_TEXT_MAX).decode("utf-8", "replace")
    except BlockingIOError:
        return None
