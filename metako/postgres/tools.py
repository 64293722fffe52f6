"""Run one of PostgreSQL's programs (initdb, pg_basebackup, pg_rewind…) and wait for it.

Input: arguments, user, deadline. Output: exit code and the last part of what was printed.
Invariant: when `run_tool` returns or raises, the program's whole process group is gone, unless it
hangs in the kernel with SIGKILL pending; if the agent is killed meanwhile, the program is killed by
the kernel.

The fork is made by this thread and not by a worker: the parent-death signal fires when the forking
*thread* ends, and idle worker threads do. A small launcher sets that signal after the change of
user (see `metako.guard.launch`). Not for long-lived servers: those belong to the guard.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import trio

from metako.guard import launch
from metako.guard.linux import stat_fields
from metako.model.errors import MetakoError
from metako.postgres.osuser import OsUser

OUTPUT_BYTES_MAX = 8 << 20
"""Of each stream only the last so many bytes are kept."""
LINE_BYTES_MAX = 64 << 10
TERMINATE_GRACE_S = 2.0
DRAIN_S = 1.0
"""For output after the program's end: something that escaped its group may hold the pipe open."""
KILLED_S = 5.0
"""For a killed process to end: one that hangs in the kernel is left behind."""
SWEEP_INTERVAL_S = 0.002
_CHUNK = 64 << 10


class ToolTimeoutError(MetakoError):
    """The program took too long and was killed with its children; its work is half done."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How the program ended. Text is decoded leniently."""

    returncode: int  # negative: ended by that signal; 127: could not be run
    stdout: str
    stderr: str


class _Tail:
    """The end of one output stream, handed out line by line as it comes."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._kept = bytearray()
        self._line = bytearray()
        self._on_line = on_line

    def feed(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * OUTPUT_BYTES_MAX:  # doubled, so that moving stays rare
            del self._kept[:-OUTPUT_BYTES_MAX]
        if self._on_line is not None:
            *lines, rest = (bytes(self._line) + data).split(b"\n")
            self._line = bytearray(rest[-LINE_BYTES_MAX:])
            for line in lines:
                self._on_line(line.decode("utf-8", "replace").rstrip("\r"))

    def finish(self) -> str:
        if self._on_line is not None and self._line:
            self._on_line(self._line.decode("utf-8", "replace"))
        return self._kept[-OUTPUT_BYTES_MAX:].decode("utf-8", "replace")


def tool_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment for a tool: plain messages, no PG* variables but `extra`.

    A PGHOST or PGDATA that happens to be set for the agent must not redirect pg_rewind.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "LC_ALL": "C", **(extra or {})}


def _command(argv: Sequence[str | os.PathLike[str]], user: OsUser) -> list[str]:
    options = [f"--parent={os.getpid()}"]
    if user.switch:
        groups = ",".join(map(str, user.groups))
        options += [f"--uid={user.uid}", f"--gid={user.gid}", f"--groups={groups}"]
    launcher = [sys.executable, "-I", "-S", os.path.abspath(launch.__file__)]
    return [*launcher, *options, "--", *(os.fspath(word) for word in argv)]


async def run_tool(
    argv: Sequence[str | os.PathLike[str]],
    *,
    user: OsUser,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: bytes = b"",
    on_line: Callable[[str], None] | None = None,
    reads_only: bool = False,
) -> ToolResult:
    """Run a program as `user` in a session of its own and return how it ended.

    Args:
        argv: `argv[0]` is an absolute path.
        user: who it runs as.
        timeout_s: then it is ended.
        env: added to `tool_environment()`.
        cwd: `/` if None, which every user can enter.
        stdin: written to it, then closed.
        on_line: called with each line of stdout and stderr as it comes. Must not raise.
        reads_only: it is short and changes nothing, so it may outlive a killed agent. This saves
            the launcher, which takes longer than reading the WAL of a usual election.

    If cancelled, the program's group gets SIGTERM, `TERMINATE_GRACE_S` later SIGKILL, and is gone
    before this returns.

    Raises:
        ToolTimeoutError: it did not end in time and was killed.
    """
    assert os.path.isabs(argv[0]), argv[0]
    await trio.lowlevel.checkpoint_if_cancelled()
    process = _spawn(argv, user, env=env, cwd=cwd, reads_only=reads_only)
    out, err = _Tail(on_line), _Tail(on_line)
    exited = os.pidfd_open(process.pid)
    in_time = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, _take(process.stdin), stdin)
            nursery.start_soon(_read, _take(process.stdout), out)
            nursery.start_soon(_read, _take(process.stderr), err)
            with trio.move_on_after(timeout_s):
                await trio.lowlevel.wait_readable(exited)
                in_time = True
            with trio.CancelScope(shield=True):
                await _end_group(process.pid, exited)
            nursery.cancel_scope.deadline = trio.current_time() + DRAIN_S
    finally:
        with trio.CancelScope(shield=True):
            await _end_group(process.pid, exited)
            await _reap(process, exited)
            os.close(exited)
    if not in_time:
        name = Path(os.fspath(argv[0])).name
        last = err.finish().strip().rpartition("\n")[2]
        raise ToolTimeoutError(f"{name} did not end within {timeout_s:g} s and was killed: {last}")
    return ToolResult(process.returncode, out.finish(), err.finish())


def _spawn(
    argv: Sequence[str | os.PathLike[str]],
    user: OsUser,
    *,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    reads_only: bool,
) -> subprocess.Popen[bytes]:
    # Not in a thread: that would do the fork, and its end would kill the program (see above).
    switch = reads_only and user.switch
    return subprocess.Popen(
        [os.fspath(word) for word in argv] if reads_only else _command(argv, user),
        user=user.uid if switch else None,
        group=user.gid if switch else None,
        extra_groups=user.groups if switch else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=tool_environment(env),
        cwd=cwd or "/",
        start_new_session=True,
    )


def _take(pipe: IO[bytes] | None) -> int:
    """Return a descriptor of one's own for a pipe of `Popen`, whose object is closed."""
    assert pipe is not None
    with pipe:
        return os.dup(pipe.fileno())


def _has_exited(exited: int) -> bool:
    return bool(select.select([exited], [], [], 0)[0])


async def _end_group(pid: int, exited: int) -> None:
    """End the process group of a child that is not reaped yet, so its number is still its own."""
    if not _has_exited(exited):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
        with trio.move_on_after(TERMINATE_GRACE_S):
            await trio.lowlevel.wait_readable(exited)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # and whatever it left behind
    with trio.move_on_after(KILLED_S):
        await trio.lowlevel.wait_readable(exited)


async def _reap(process: subprocess.Popen[bytes], exited: int) -> None:
    if _has_exited(exited):
        process.wait()  # it has ended: this does not wait
        await _wait_group_gone(process.pid)
    else:
        # It hangs in the kernel, with SIGKILL pending. Waiting for it would hang the agent.
        process.returncode = -signal.SIGKILL


async def _wait_group_gone(group: int) -> None:
    """Wait until nothing runs in a group that got SIGKILL and whose leader is reaped."""
    with trio.move_on_after(KILLED_S):
        while _is_group_alive(group):  # noqa: ASYNC110 - the kernel tells its parent only
            await trio.sleep(SWEEP_INTERVAL_S)


def _is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False  # as it nearly always is
    except PermissionError:
        pass
    # Dead members that process 1 has not reaped yet keep the group's number in use.
    return any(
        fields[2] == b"%d" % group and fields[0] not in (b"Z", b"X")
        for fields in map(stat_fields, filter(str.isdecimal, os.listdir("/proc")))
        if fields
    )


async def _write(descriptor: int, data: bytes) -> None:
    async with trio.lowlevel.FdStream(descriptor) as stream:
        with contextlib.suppress(trio.BrokenResourceError):  # it does not want to read
            if data:
                await stream.send_all(data)


async def _read(descriptor: int, tail: _Tail) -> None:
    async with trio.lowlevel.FdStream(descriptor) as stream:
        while True:
            chunk = await stream.receive_some(_CHUNK)
            if not chunk:
                return
            tail.feed(chunk)
