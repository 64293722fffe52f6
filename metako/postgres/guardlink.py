"""Reach the guard of a run directory: connect to the one that listens, or start one.

Output: a connected socket on which the guard has said its first words, with the descriptors that
came along. Invariant: at most one guard listens in a run directory; of two that are started at
once the second one says "busy" and this side connects to the first.

Does not know what the guard is asked to do; see `metako.postgres.process`.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

import metako.guard
from metako.guard import packets
from metako.guard.watchdog import Wish
from metako.model.errors import MetakoError
from metako.postgres.osuser import OsUser, make_dir

OPEN_TIMEOUT_S = 15.0
OPEN_ATTEMPTS_MAX = 20
RETRY_S = 0.05
LOG_BYTES_MAX = 1 << 20
DESCRIPTORS_MAX = 4
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
GUARD_PROGRAM = os.path.dirname(os.path.abspath(metako.guard.__file__))
_READY_FD = 3  # where the guard expects the pipe to its starter


class GuardLostError(MetakoError):
    """The guard is gone, so its server got SIGQUIT; look with `server_processes` what is left."""


class GuardUnresponsiveError(GuardLostError):
    """The guard did not answer in time, so it may or may not have done what it was asked."""


class GuardRefusedError(MetakoError):
    """The guard refused. Nothing was changed."""


class Reply:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.packet: dict[str, Any] | None = None  # None: the guard was lost


@dataclass(slots=True)
class Link:
    """A connection to the guard. The descriptors belong to whoever holds the link."""

    connection: trio.socket.SocketType
    greeting: dict[str, Any]
    guard_pidfd: int
    postmaster_pidfd: int | None
    adopted: bool  # the guard was there before


async def receive(connection: trio.socket.SocketType) -> tuple[bytes, list[int]]:
    """Return one packet, b"" at the end, and the descriptors that came with it.

    Cancelling loses nothing: the packet is still in the socket.
    """
    space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
    data, ancillary, _flags, _address = await connection.recvmsg(
        packets.PACKET_MAX + 1, space, socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)


async def connect_or_start(
    *,
    run_dir: Path,
    user: OsUser,
    data_dir: Path,
    orphan_timeout_s: float,
    watchdog: Wish | None = None,
) -> Link:
    """Return a link to the guard of `run_dir`, which is made if it is missing.

    If cancelled, a guard that was just started is ended.

    Raises:
        GuardRefusedError: another agent has the guard, or it watches another directory.
        GuardLostError: it could not be started, or does not answer.
    """
    make_dir(run_dir, user)
    run_dir = Path(os.path.realpath(run_dir))  # noqa: ASYNC240 - local metadata, as in make_dir
    argv = [
        sys.executable,
        "-I",
        "-S",
        GUARD_PROGRAM,
        f"--run-dir={run_dir}",
        f"--data-dir={os.path.abspath(data_dir)}",  # noqa: ASYNC240 - looks at no disk
        f"--uid={user.uid}",
        f"--gid={user.gid}",
        f"--groups={','.join(map(str, user.groups))}",
        f"--agent-uid={os.geteuid()}",
        f"--orphan-timeout-s={orphan_timeout_s}",
        *(watchdog.arguments() if watchdog is not None else ()),
    ]
    directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)
    adopted = True
    try:
        with trio.move_on_after(OPEN_TIMEOUT_S):
            for _ in range(OPEN_ATTEMPTS_MAX):
                connection = await _connect(directory, user)
                if connection is not None:
                    link = await _greet(connection, adopted=adopted)
                    if link is not None:
                        return link
                elif await _start(run_dir, argv):
                    adopted = False
                    continue
                await trio.sleep(RETRY_S)  # another guard is starting up or going away
    finally:
        os.close(directory)
    raise GuardUnresponsiveError(
        f"the guard of {run_dir} does not answer: is it stopped? See {run_dir / packets.LOG_NAME}"
    )


async def _connect(directory: int, user: OsUser) -> trio.socket.SocketType | None:
    """Return a connection to the listening guard, None if there is none."""
    connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # By descriptor: the path of the run directory may be longer than an address can be.
        await connection.connect(f"/proc/self/fd/{directory}/{packets.SOCKET_NAME}")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, uid, _gid = _PEER.unpack(credentials)
        if pid == 0:  # not connected after all: the guard's backlog is full
            raise ConnectionRefusedError
        if uid != user.uid:
            raise GuardRefusedError(
                f"the guard runs as uid {uid}, PostgreSQL is to run as {user.name!r} "
                f"(uid {user.uid}): stop that node first, then start it with the new user"
            )
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


async def _greet(connection: trio.socket.SocketType, *, adopted: bool) -> Link | None:
    """Return the link once the guard has spoken; None if it went away instead."""
    descriptors: list[int] = []
    try:
        data, descriptors = await receive(connection)
        if not data:
            connection.close()
            return None
        greeting = packets.decode_untrusted(data)
        if "refused" in greeting:
            raise GuardRefusedError(f"the guard refused this agent: {greeting['refused']}")
        if greeting.get("protocol") != packets.PROTOCOL or not descriptors:
            raise GuardRefusedError(
                f"the running guard speaks protocol {greeting.get('protocol')}, this agent "
                f"{packets.PROTOCOL}: stop PostgreSQL with the version that started it"
            )
        guard_pidfd, *others = descriptors
        return Link(connection, greeting, guard_pidfd, others[0] if others else None, adopted)
    except ConnectionError:
        connection.close()
        return None
    except BaseException:
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)
        raise


async def _start(run_dir: Path, argv: list[str]) -> bool:
    """Start a guard and wait until it listens; return False if another one was faster.

    Raises:
        GuardLostError: it ended; the text has its own words.
    """
    with _pipe() as (reader, writer):
        pid = _spawn(run_dir, argv, writer.pop())
        try:
            await trio.lowlevel.wait_readable(reader)
            said = os.read(reader, 4096).decode("utf-8", "replace")
        except BaseException:
            # It has nothing to watch yet, and nobody would ever talk to it.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)  # noqa: ASYNC222 - it got SIGKILL
            raise
    if said == packets.READY:
        return True
    os.waitpid(pid, 0)  # noqa: ASYNC222 - these were its last words
    if said == packets.BUSY:
        return False
    log = run_dir / packets.LOG_NAME
    raise GuardLostError(f"the guard could not be started ({said or 'see ' + str(log)})")


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, list[int]]]:
    """Give a pipe; the writing end is closed by whoever pops it, or at the end."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    rest = [writer]
    try:
        yield reader, rest
    finally:
        for descriptor in (reader, *rest):
            os.close(descriptor)


def _spawn(run_dir: Path, argv: list[str], writer: int) -> int:
    """Start the guard's process in its own session; return its pid. Closes `writer`."""
    log = run_dir / packets.LOG_NAME
    try:
        if log.stat().st_size > LOG_BYTES_MAX:
            log.unlink()
    except FileNotFoundError:
        pass
    try:
        return os.posix_spawn(
            argv[0],
            argv,
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, writer, _READY_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        os.close(writer)


def reap(pid: int) -> None:
    """Reap a guard that has ended, if it is this process's child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
