"""One proxy worker: a process of its own that accepts clients and leads them to the primary.

In: its configuration on the command line, routing tables by way of `control`, clients on the
port. Out: sessions, counters and events.

The worker belongs to the guard of its node, not to the agent that started it: it goes on through
the agent's restarts and ends when the guard does, so that no orphan remains. It holds a lock on a
file beside the control socket for as long as it takes connections; the lock tells the next agent
that there is a worker to adopt, and keeps a second one with the same number from starting.

Deliberately unknown here: elections, leases, PostgreSQL's protocol.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from metako.model.ids import NodeId
from metako.proxy import sockets
from metako.proxy.accepting import accept_clients, take_rest
from metako.proxy.board import Board
from metako.proxy.cancels import Cancels
from metako.proxy.control import AgentLink
from metako.proxy.credentials import Credentials, CredentialSource
from metako.proxy.door import keep_door
from metako.proxy.encryption import Encryption
from metako.proxy.filelimit import descriptors_needed, raise_descriptor_limit
from metako.proxy.frames import Hello, WorkerEvent
from metako.proxy.handover import Elder
from metako.proxy.inherit import Inheritance, ask_elder, inherit
from metako.proxy.limits import NO_LIMITS, NO_TIMEOUTS, Limits, Timeouts, Tuning
from metako.proxy.office import Access, WorkerOffice
from metako.proxy.outside import (
    EXIT_CANNOT_ENCRYPT,
    EXIT_CANNOT_LISTEN,
    EXIT_LOCKED,
    EXIT_NO_GUARD,
    EXIT_PORT_IN_USE,
    EXIT_STOPPED,
    HEIR_FORMAT,
    Record,
    door_path,
    heir_path,
    old_door_path,
)
from metako.proxy.sweep import Sweep
from metako.proxy.tls import TlsError
from metako.proxy.tlsoptions import NO_TLS, TlsOptions
from metako.proxy.views import Views
from metako.proxy.worklock import WorkerLock

# How long a stopping worker waits for transactions. The launcher kills after 0.5 s.
STOP_DRAIN_S = 0.3
STOP_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the command line says. See `launcher.ProxyConfig` for the meaning."""

    control: Path
    host: str
    port: int
    node: NodeId
    guard_pid: int
    queue_timeout_s: float
    sessions_max: int  # of this worker, not of the node
    limits: Limits = NO_LIMITS
    timeouts: Timeouts = NO_TIMEOUTS
    admins: tuple[str, ...] = ()  # who may use the console
    tls: TlsOptions = NO_TLS
    index: int = 1
    fingerprint: str = ""  # of the configuration; another one means: replace, do not adopt
    ready_fd: int | None = None  # told the port once there are listeners, then closed
    inherits: bool = False  # from the worker that has the number now, if it can


def boot_ns() -> int:
    """Return CLOCK_BOOTTIME, which goes on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


async def run_worker(config: WorkerConfig) -> int:
    """Run until the guard exits, SIGTERM or SIGINT; return the process's exit code.

    For the main thread of a process of its own. If cancelled, all connections are closed.
    """
    try:
        guard = os.pidfd_open(config.guard_pid)
    except ProcessLookupError:
        return EXIT_NO_GUARD
    try:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_stop_on_signal, stop)
            nursery.start_soon(_stop_with_guard, guard, stop)
            code = await _serve_with_files(config, stop)
            nursery.cancel_scope.cancel()
    finally:
        os.close(guard)
    return code


async def _serve_with_files(config: WorkerConfig, stop: trio.Event) -> int:
    """Get what a worker needs, in the order in which it can fail; serve; return the exit code."""
    try:
        encryption = Encryption(config.tls)
    except TlsError as error:
        sys.stderr.write(f"metako.proxy: the TLS files cannot be used: {error}\n")
        return EXIT_CANNOT_ENCRYPT
    inheritance: Inheritance | None = None
    if config.inherits:
        path = heir_path(config.control, config.index)
        inheritance = await ask_elder(path, config.host, config.port)
    try:
        lock = await WorkerLock.take(config.control, config.index)
        if lock is None:
            return EXIT_LOCKED
        try:
            try:
                listeners = inheritance.listeners if inheritance is not None else []
                listeners = listeners or sockets.listen(config.host, config.port)
            except OSError as error:
                where = f"{config.host}:{config.port}"
                sys.stderr.write(f"metako.proxy: cannot listen on {where}: {error}\n")
                in_use = error.errno == errno.EADDRINUSE
                return EXIT_PORT_IN_USE if in_use else EXIT_CANNOT_LISTEN
            _announce(config, lock, listeners[0].getsockname()[1])
            await serve(
                config,
                listeners,
                stop=stop,
                lock=lock,
                encryption=encryption,
                inheritance=inheritance,
            )
        finally:
            lock.close()
    finally:
        if inheritance is not None:
            inheritance.close()
    return EXIT_STOPPED


async def serve(
    config: WorkerConfig,
    listeners: list[socket.socket],
    *,
    stop: trio.Event,
    lock: WorkerLock | None = None,
    inheritance: Inheritance | None = None,
    clock: Callable[[], int] = boot_ns,
    credentials: CredentialSource | None = None,
    encryption: Encryption | None = None,
) -> None:
    """Serve clients until `stop` is set, or until drained of them at the agent's request.

    Closes `listeners`. On `stop`, sessions at rest end at once, others have `STOP_DRAIN_S` for
    their transaction. If cancelled, all connections are closed before this returns.

    Args:
        lock: released when no connection will be taken any more; None: this worker has none, and
            nobody can take its place.
        inheritance: of a worker whose place this one takes, with these listeners.
        credentials: what clients may log in to us with; None: what the agent says of roles.
        encryption: with the files loaded; None: they are loaded now.

    Raises:
        TlsError: they cannot be used.
    """
    port = listeners[0].getsockname()[1]
    hello = Hello(os.getpid(), config.index, config.node, config.host, port)
    link = AgentLink(config.control, hello)
    board = _board(config, link, clock, credentials, encryption)
    if inheritance is not None:
        board.begin_with(inheritance.will)
    sweep = Sweep(board)
    office = WorkerOffice(board, _views(config, board, sweep, port, clock), config.index, _tuned)
    board.console = Access(office, config.index, link.ask_all)
    link.serve_consoles(office)
    link.report(WorkerEvent("INFO", "the proxy takes connections", (("port", port),)))
    drain = trio.Event()
    elder = _elder(config, board, listeners, lock)
    try:
        async with trio.open_nursery() as outer:
            outer.start_soon(link.run, board, drain.set)
            outer.start_soon(_keep_door, door_path(config.control, config.index), board)
            outer.start_soon(board.encryption.run, link.report)
            for task in (board.links.reactor.run, board.legs.run, sweep.run):
                outer.start_soon(task)
            async with trio.open_nursery() as sessions:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(accept_clients, listener, board, sessions.start_soon)
                    accepting.start_soon(_follow, inheritance, elder, board, sessions, outer)
                    replaced = trio.Event() if elder is None else elder.taken_over
                    await _wait_first(stop, drain, replaced)
                    accepting.cancel_scope.cancel()
                if elder is None or not (replaced.is_set() and elder.gave_listeners):
                    take_rest(listeners, board, sessions.start_soon)
                sockets.close_all(listeners)
                if replaced.is_set():
                    old = old_door_path(config.control, config.index, os.getpid())
                    outer.start_soon(_keep_door, old, board)
                elif lock is not None:
                    lock.release()
                await _finish(board, stop, limited=replaced.is_set())
                sessions.cancel_scope.cancel()
            outer.cancel_scope.cancel()
    finally:
        sockets.close_all(listeners)
        board.abandon()
        board.links.reactor.close()


def _elder(
    config: WorkerConfig, board: Board, listeners: list[socket.socket], lock: WorkerLock | None
) -> Elder | None:
    if lock is None:
        return None
    address = (config.host, listeners[0].getsockname()[1])
    return Elder(board, heir_path(config.control, config.index), address, listeners, lock)


async def _follow(
    inheritance: Inheritance | None,
    elder: Elder | None,
    board: Board,
    sessions: trio.Nursery,
    outer: trio.Nursery,
) -> None:
    """Take the place of the worker before us, then let others take ours."""
    if inheritance is not None:
        await inherit(inheritance, board, sessions)
    if elder is not None:
        outer.start_soon(elder.run)


def _board(
    config: WorkerConfig,
    link: AgentLink,
    clock: Callable[[], int],
    credentials: CredentialSource | None,
    encryption: Encryption | None,
) -> Board:
    return Board(
        boot_ns=clock,
        queue_timeout_s=config.queue_timeout_s,
        sessions_max=config.sessions_max,
        report=link.report,
        limits=config.limits,
        timeouts=config.timeouts,
        admins=config.admins,
        cancels=Cancels(config.node, config.index, config.control),
        credentials=credentials or Credentials(link),
        encryption=encryption or Encryption(config.tls),
    )


def _views(
    config: WorkerConfig, board: Board, sweep: Sweep, port: int, clock: Callable[[], int]
) -> Views:
    return Views(
        board,
        config.index,
        seen=sweep.seen,
        now=trio.current_time,
        now_ns=clock,
        wall_clock=lambda: datetime.now(UTC),
        port=port,
    )


def _tuned(tuning: Tuning) -> None:
    raise_descriptor_limit(descriptors_needed(tuning.sessions_max))


async def _keep_door(path: Path, board: Board) -> None:
    try:
        await keep_door(path, board)
    except OSError as error:
        # Clients are served all the same; only what reaches another worker first is lost.
        detail = (("error", error.strerror or str(error)),)
        board.report(WorkerEvent("ERROR", "other workers cannot reach this one", detail))


async def _wait_first(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


async def _finish(board: Board, stop: trio.Event, *, limited: bool) -> None:
    """Return when the last session has ended, or `STOP_DRAIN_S` after `stop`.

    Args:
        limited: there is a limit for draining, after which it is as after `stop`.
    """
    since = trio.current_time()
    while not board.idle and not stop.is_set():
        limit_s = board.timeouts.drain_s or math.inf
        if limited and trio.current_time() - since >= limit_s:
            break
        with trio.move_on_after(STOP_POLL_S):
            await stop.wait()
    message = "the proxy is stopping; connect again"
    with trio.move_on_after(STOP_DRAIN_S):
        while not board.idle:
            # Again and again: a session comes to rest when its transaction ends.
            board.cut_sessions(message, only_at_rest=True)
            await trio.sleep(STOP_POLL_S)
    board.cut_sessions(message, only_at_rest=False)


# -- belonging to the guard, and to the launcher ---------------------------------------------


async def _stop_with_guard(guard: int, stop: trio.Event) -> None:
    await trio.lowlevel.wait_readable(guard)
    stop.set()


async def _stop_on_signal(
    stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()


def _announce(config: WorkerConfig, lock: WorkerLock, port: int) -> None:
    """Write who we are into the locked file, then tell the launcher that we listen."""
    record = Record(os.getpid(), port, config.fingerprint, config.guard_pid, HEIR_FORMAT)
    lock.announce(asdict(record))
    if config.ready_fd is not None:
        # Broken if the agent died while it started us; the next one adopts us.
        with contextlib.suppress(BrokenPipeError):
            os.write(config.ready_fd, b"%d\n" % port)
        os.close(config.ready_fd)
