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
import fcntl
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from metako.model.ids import NodeId
from metako.proxy import sockets
from metako.proxy.board import HANDSHAKES_MAX, Board
from metako.proxy.cancels import Cancels
from metako.proxy.control import AgentLink
from metako.proxy.credentials import Credentials, CredentialSource
from metako.proxy.door import keep_door
from metako.proxy.encryption import Encryption
from metako.proxy.frames import Hello, WorkerEvent
from metako.proxy.limits import NO_LIMITS, NO_TIMEOUTS, Limits, Timeouts, Tuning
from metako.proxy.office import Access, WorkerOffice
from metako.proxy.outside import (
    EXIT_CANNOT_ENCRYPT,
    EXIT_CANNOT_LISTEN,
    EXIT_LOCKED,
    EXIT_NO_GUARD,
    EXIT_PORT_IN_USE,
    EXIT_STOPPED,
    lock_path,
)
from metako.proxy.session import Session
from metako.proxy.sweep import Sweep
from metako.proxy.tls import TlsError
from metako.proxy.tlsoptions import NO_TLS, TlsOptions
from metako.proxy.views import Views

ACCEPT_PAUSE_S = 0.1  # after running out of descriptors or memory
ACCEPT_ROUNDS_MAX = 64  # connections taken in a row before others get a turn
# How long a stopping worker waits for transactions. The launcher kills after 0.5 s.
STOP_DRAIN_S = 0.3
STOP_POLL_S = 0.02
LOCK_TIMEOUT_S = 1.0
LOCK_POLL_S = 0.05

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


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
    lock = await _take_lock(lock_path(config.control, config.index))
    if lock is None:
        os.close(guard)
        return EXIT_LOCKED
    try:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_stop_on_signal, stop)
            nursery.start_soon(_stop_with_guard, guard, stop)
            try:
                encryption = Encryption(config.tls)
            except TlsError as error:
                sys.stderr.write(f"metako.proxy: the TLS files cannot be used: {error}\n")
                nursery.cancel_scope.cancel()
                return EXIT_CANNOT_ENCRYPT
            try:
                listeners = sockets.listen(config.host, config.port)
            except OSError as error:
                where = f"{config.host}:{config.port}"
                sys.stderr.write(f"metako.proxy: cannot listen on {where}: {error}\n")
                nursery.cancel_scope.cancel()
                return EXIT_PORT_IN_USE if error.errno == errno.EADDRINUSE else EXIT_CANNOT_LISTEN
            port = listeners[0].getsockname()[1]
            _announce(config, lock, port)
            await serve(
                config,
                listeners,
                stop=stop,
                on_drained=lambda: _release(lock),
                encryption=encryption,
            )
            nursery.cancel_scope.cancel()
    finally:
        os.close(guard)
        os.close(lock)
    return EXIT_STOPPED


async def serve(
    config: WorkerConfig,
    listeners: list[socket.socket],
    *,
    stop: trio.Event,
    on_drained: Callable[[], None] = lambda: None,
    clock: Callable[[], int] = boot_ns,
    credentials: CredentialSource | None = None,
    encryption: Encryption | None = None,
) -> None:
    """Serve clients until `stop` is set, or until drained of them at the agent's request.

    Closes `listeners`. On `stop`, sessions at rest end at once, others have `STOP_DRAIN_S` for
    their transaction. If cancelled, all connections are closed before this returns.

    Args:
        on_drained: called when no connection will be taken any more.
        credentials: what clients may log in to us with; None: what the agent says of roles.
        encryption: with the files loaded; None: they are loaded now.

    Raises:
        TlsError: they cannot be used.
    """
    port = listeners[0].getsockname()[1]
    hello = Hello(os.getpid(), config.index, config.node, config.host, port)
    link = AgentLink(config.control, hello)
    board = Board(
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
    sweep = Sweep(board)
    office = WorkerOffice(board, _views(config, board, sweep, port, clock), config.index, _tuned)
    board.console = Access(office, config.index, link.ask_all)
    link.serve_consoles(office)
    link.report(WorkerEvent("INFO", "the proxy takes connections", (("port", port),)))
    drain = trio.Event()
    try:
        async with trio.open_nursery() as outer:
            outer.start_soon(link.run, board, drain.set)
            outer.start_soon(board.links.reactor.run)
            outer.start_soon(_keep_door, config, board)
            outer.start_soon(board.legs.run)
            outer.start_soon(sweep.run)
            outer.start_soon(board.encryption.run, link.report)
            async with trio.open_nursery() as sessions:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(_accept, listener, board, sessions)
                    await _wait_first(stop, drain)
                    accepting.cancel_scope.cancel()
                _take_rest(listeners, board, sessions)
                on_drained()
                await _finish(board, stop)
                sessions.cancel_scope.cancel()
            outer.cancel_scope.cancel()
    finally:
        for listener in listeners:
            sockets.close(listener)
        board.links.reactor.close()


def _take_rest(listeners: list[socket.socket], board: Board, sessions: trio.Nursery) -> None:
    """Close the listeners, and serve those in the backlog, who came before we stopped."""
    for listener in listeners:
        with contextlib.suppress(OSError):
            _take_waiting(listener, board, sessions)
        sockets.close(listener)


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


async def _keep_door(config: WorkerConfig, board: Board) -> None:
    try:
        await keep_door(config.control, config.index, board)
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


async def _finish(board: Board, stop: trio.Event) -> None:
    """Return when the last session has ended, or `STOP_DRAIN_S` after `stop`."""
    while not board.idle and not stop.is_set():
        with trio.move_on_after(STOP_POLL_S):
            await stop.wait()
    message = "the proxy is stopping; connect again"
    with trio.move_on_after(STOP_DRAIN_S):
        while not board.idle:
            # Again and again: a session comes to rest when its transaction ends.
            board.cut_sessions(message, only_at_rest=True)
            await trio.sleep(STOP_POLL_S)
    board.cut_sessions(message, only_at_rest=False)


# -- accepting ------------------------------------------------------------------------------


async def _accept(listener: socket.socket, board: Board, sessions: trio.Nursery) -> None:
    blocked = False  # reported once, not ten times a second
    while True:
        try:
            taken = _take_waiting(listener, board, sessions)
        except OSError as error:
            if not blocked:
                detail = (("error", error.strerror or str(error)),)
                board.report(WorkerEvent("WARNING", "the proxy cannot take connections", detail))
            blocked = True
            # The backlog keeps the clients until there are descriptors again.
            await trio.sleep(ACCEPT_PAUSE_S)
        else:
            blocked = False
            if taken < ACCEPT_ROUNDS_MAX:
                await trio.lowlevel.wait_readable(listener)
            else:
                await trio.lowlevel.checkpoint()


def _take_waiting(listener: socket.socket, board: Board, sessions: trio.Nursery) -> int:
    """Start a session for each client that waits, up to `ACCEPT_ROUNDS_MAX`; return how many.

    Raises `OSError` when out of resources; those taken before are served.
    """
    for taken in range(ACCEPT_ROUNDS_MAX):
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return taken
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                raise
            continue  # this client is gone already
        try:
            client.setblocking(False)  # all else is inherited; see `sockets.listen`
        except OSError:
            client.close()
            continue
        sessions.start_soon(Session(board, client).run)
    return ACCEPT_ROUNDS_MAX


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


async def _take_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, or None if somebody else keeps it.

    Tried for a moment: a launcher that looks whether there is a worker takes the lock to do so.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with trio.move_on_after(LOCK_TIMEOUT_S):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await trio.sleep(LOCK_POLL_S)
                else:
                    return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _announce(config: WorkerConfig, lock: int, port: int) -> None:
    """Write who we are into the locked file, then tell the launcher that we listen."""
    record = {"pid": os.getpid(), "port": port, "fingerprint": config.fingerprint}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(record).encode(), 0)
    if config.ready_fd is not None:
        # Broken if the agent died while it started us; the next one adopts us.
        with contextlib.suppress(BrokenPipeError):
            os.write(config.ready_fd, b"%d\n" % port)
        os.close(config.ready_fd)


def _release(lock: int) -> None:
    os.ftruncate(lock, 0)
    fcntl.flock(lock, fcntl.LOCK_UN)


def descriptors_needed(sessions_max: int) -> int:
    """Return how many descriptors a worker may have open at once."""
    return 2 * sessions_max + HANDSHAKES_MAX + 64


def raise_descriptor_limit(wanted: int) -> None:
    """Raise the soft limit as far as the hard one allows; short of that, accepting pauses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
