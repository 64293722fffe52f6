"""The parts of Linux that the guard needs and Python's library has no name for.

Everything is bound at import, before privileges are dropped: afterwards the interpreter's own files
may be unreadable. Functions here report failure by OSError and hold no state.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator, Sequence

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MCL_CURRENT = 1
MCL_ONFAULT = 4
PROC_BYTES_MAX = 1 << 20  # room for 100 000 children; what is beyond comes with the next round
DESCENDANTS_MAX = 1_000_000  # beyond any kernel's pid_max in use; bounds the walk

_libc = ctypes.CDLL(None, use_errno=True)
_HAS_CHILDREN_FILE = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "prctl")


def set_parent_death_signal(number: int) -> None:
    """Have `number` sent to this process when the *thread* that forked it ends.

    A change of user or group clears it, so this comes after. The caller must then check that its
    parent is still there.
    """
    _prctl(PR_SET_PDEATHSIG, number)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def lock_memory() -> bool:
    """Keep the pages that are in use now from being swapped out; return whether that worked.

    ONFAULT locks what is touched, not the whole address space.
    """
    return bool(_libc.mlockall(MCL_CURRENT | MCL_ONFAULT) == 0)


def boottime_ns() -> int:
    """Return CLOCK_BOOTTIME, which goes on during a suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def drop_privileges(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Become the given user for good.

    Raises:
        OSError: not allowed. The process must not go on: it may be half changed.
    """
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    assert os.getresuid() == (uid, uid, uid), os.getresuid()
    assert os.getresgid() == (gid, gid, gid), os.getresgid()


def reset_signals() -> None:
    """Give every signal its default action and block none, for the program to be executed."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Real-time signals that the C library keeps for itself cannot be set.
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _read(path: str) -> bytes:
    """Return a file in /proc, as much of it as could be read before the process ended.

    Bytes, not text: decoding may import a codec, which a process without privileges cannot.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    content = b""
    try:
        while len(content) < PROC_BYTES_MAX:  # the kernel gives about a page at a time
            chunk = os.read(descriptor, PROC_BYTES_MAX)
            if not chunk:
                break
            content += chunk
    except OSError:
        pass  # it ended while it was read
    finally:
        os.close(descriptor)
    return content


def stat_fields(pid: int | str) -> list[bytes]:
    """Return /proc/<pid>/stat from the state on: state, parent, group… Empty: no process."""
    content = _read(f"/proc/{pid}/stat")
    # The command is in parentheses and may itself contain some.
    return content[content.rfind(b")") + 2 :].split()


def is_stopped(pid: int) -> bool:
    """Return whether the process is stopped by a signal or a tracer."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] in (b"T", b"t")


def children_of(pid: int) -> list[int]:
    """Return the direct children of a single-threaded process, zombies included."""
    if _HAS_CHILDREN_FILE:
        return [int(word) for word in _read(f"/proc/{pid}/task/{pid}/children").split()]
    result = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            fields = stat_fields(int(entry))
            if fields and int(fields[1]) == pid:
                result.append(int(entry))
    return result


def server_runs_in(directory: str) -> bool:
    """Return whether a PostgreSQL that can be seen has its data directory there."""
    real = os.path.realpath(directory)
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdecimal() and os.readlink(f"/proc/{entry}/cwd") == real:
                program = os.path.basename(os.readlink(f"/proc/{entry}/exe"))
                # A shell that somebody left there is none.
                if program.startswith(("postgres", "postmaster")):
                    return True
    return False


def descendants_of(pid: int) -> Iterator[int]:
    """Yield every process below `pid`, parents before their children.

    The children of a process are read after it was yielded. A caller that kills what it is given
    therefore stops the only one who could reap, and so recycle, the numbers that come next.
    """
    queue = children_of(pid)
    for index in range(DESCENDANTS_MAX):
        if index >= len(queue):
            return
        yield queue[index]
        queue.extend(children_of(queue[index]))
