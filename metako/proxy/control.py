"""The Unix socket between agent and proxy workers, both halves.

The agent listens and the workers connect, so that workers survive their agent: they keep the last
table and come back, with a bounded back-off, to the next agent that listens at the same path.

In: routing tables on the agent's side; counters and events on the worker's. Out: the same, on the
other side. Invariant: a table replaces every earlier one and is never queued behind another, so a
worker that was slow gets the newest table and nothing else.

Deliberately unknown here: what a table means.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, assert_never

import trio

from metako import unixsocket
from metako.model.routing import RoutingTable
from metako.proxy import frames, sockets
from metako.proxy.frames import Drain, FrameError, Hello, Stats, WorkerEvent

CONNECTIONS_MAX = 64  # workers of a node, old and new ones together
SEND_TIMEOUT_S = 1.0  # a peer that takes no frame for so long is disconnected
HELLO_TIMEOUT_S = 5.0
STATS_INTERVAL_S = 1.0
RECONNECT_MIN_S = 0.02
RECONNECT_MAX_S = 0.25
EVENTS_MAX = 100  # kept by a worker while there is no agent; the oldest are dropped

# How a connection ends on either side: broken, too slow, or not what we speak.
_CONNECTION_OVER = (*sockets.BROKEN, trio.TooSlowError, FrameError)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What the agent knows of one worker."""

    hello: Hello
    stats: Stats
    connected: bool  # False in the last report of a connection


class RoutingFeed:
    """The newest routing table, for any number of workers. Only `publish` and `drain` change it."""

    def __init__(self) -> None:
        self.latest: RoutingTable | None = None  # None before the first
        self.draining: frozenset[int] = frozenset()  # pids of workers that are to go
        self._changed = trio.Event()  # replaced at each change

    def publish(self, table: RoutingTable) -> None:
        """Replace the table; every connected worker is sent it at once."""
        self.latest = table
        self._announce()

    def drain(self, pids: Iterable[int]) -> None:
        """Ask these workers to take no new connections and to exit after their last one."""
        self.draining |= frozenset(pids)
        self._announce()

    async def wait_change(self) -> None:
        """Return after the next change."""
        await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def serve_control(
    path: Path,
    feed: RoutingFeed,
    on_report: Callable[[WorkerReport], None],
    *,
    on_event: Callable[[Hello, WorkerEvent], None] = lambda _hello, _event: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the workers of this node until cancelled.

    A socket that an earlier agent left at `path` is replaced. Started once workers can connect.
    Errors of a worker's connection end that connection only. If cancelled, the connections and
    the socket are closed; the workers go on with their last table.

    Raises:
        OSError: the socket cannot be made; nothing was started.
    """
    # Whoever waited for the listener has ended with the nursery when it is closed.
    with unixsocket.listening(path) as listener:
        async with trio.open_nursery() as nursery:
            task_status.started()
            slots = trio.Semaphore(CONNECTIONS_MAX)
            while True:
                await slots.acquire()
                connection = await _accept(listener)
                nursery.start_soon(_serve_worker, connection, slots, feed, on_report, on_event)


async def _accept(listener: socket.socket) -> socket.socket:
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener)
        except OSError:
            # Out of descriptors or memory: the backlog keeps the worker until it passes.
            await trio.sleep(RECONNECT_MAX_S)
        else:
            connection.setblocking(False)
            return connection


async def _serve_worker(
    connection: socket.socket,
    slots: trio.Semaphore,
    feed: RoutingFeed,
    on_report: Callable[[WorkerReport], None],
    on_event: Callable[[Hello, WorkerEvent], None],
) -> None:
    try:
        lines = _Lines(connection)
        with trio.fail_after(HELLO_TIMEOUT_S):
            hello = frames.decode_from_worker(await lines.read())
        if not isinstance(hello, Hello):
            return
        report = WorkerReport(hello, Stats(), connected=True)
        on_report(report)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_tables, connection, feed, hello.pid)
                while True:
                    match frames.decode_from_worker(await lines.read()):
                        case Stats() as stats:
                            report = replace(report, stats=stats)
                            on_report(report)
                        case WorkerEvent() as event:
                            on_event(hello, event)
                        case Hello():
                            raise FrameError("a second hello")
                        case unknown:
                            assert_never(unknown)
        except* _CONNECTION_OVER:
            pass  # a worker that lives comes back with a new connection
        finally:
            on_report(replace(report, connected=False))
    except _CONNECTION_OVER:
        pass  # whoever this was never said hello
    finally:
        sockets.close(connection)
        slots.release()


async def _send_tables(connection: socket.socket, feed: RoutingFeed, pid: int) -> None:
    """Send the newest table at once and after each change, until the connection breaks."""
    sent: RoutingTable | None = None
    while True:
        if feed.latest is not None and feed.latest is not sent:
            sent = feed.latest
            await _send(connection, sent)
        if pid in feed.draining:
            await _send(connection, Drain())
            feed.draining -= {pid}
        if feed.latest is sent and pid not in feed.draining:
            await feed.wait_change()


async def _send(connection: socket.socket, frame: frames.FromAgent | frames.FromWorker) -> None:
    with trio.fail_after(SEND_TIMEOUT_S):
        await sockets.send_all(connection, frames.encode(frame))


class _Lines:
    """Frames of a stream, each bounded."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    async def read(self) -> bytes:
        """Return the next line. Raises `FrameError` at the end, or when it is too long."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > frames.FRAME_BYTES_MAX:
                raise FrameError("frame too long")
            part = await sockets.receive_some(self._connection)
            if not part:
                raise FrameError("the peer closed the connection")
            self._buffer += part
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line


# -- the worker's half ----------------------------------------------------------------------


class AgentListener(Protocol):
    """What a worker does with the news."""

    def agent_came(self) -> None:
        """An agent is connected."""

    def agent_went(self) -> None:
        """No agent is connected any more, or still none."""

    def receive_table(self, table: RoutingTable) -> None:
        """The newest table has come."""

    def stats(self) -> Stats:
        """Return the counters as they are now."""


class AgentLink:
    """A worker's connection to whichever agent listens at `path`."""

    def __init__(self, path: Path, hello: Hello) -> None:
        self._path = path
        self._hello = hello
        # The newest ones are kept: they say what is going on now.
        self._events: deque[WorkerEvent] = deque(maxlen=EVENTS_MAX)
        self._event_came = trio.Event()  # replaced whenever it is set

    def report(self, event: WorkerEvent) -> None:
        """Send `event` to the agent, now or when there is one."""
        self._events.append(event)
        self._event_came.set()

    async def run(self, listener: AgentListener, on_drain: Callable[[], None]) -> None:
        """Stay connected until cancelled, whatever agents do."""
        pause_s = RECONNECT_MIN_S
        while True:
            try:
                connection = unixsocket.connect(self._path)
            except OSError:
                listener.agent_went()
            else:
                pause_s = RECONNECT_MIN_S
                await self._converse(connection, listener, on_drain)
                listener.agent_went()
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_MAX_S)

    async def _converse(
        self, connection: socket.socket, listener: AgentListener, on_drain: Callable[[], None]
    ) -> None:
        try:
            await _send(connection, self._hello)
            lines = _Lines(connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_news, connection, listener)
                while True:
                    # An agent counts as present once it has spoken, not when its socket accepts.
                    match frames.decode_from_agent(await lines.read()):
                        case RoutingTable() as table:
                            listener.agent_came()
                            listener.receive_table(table)
                        case Drain():
                            on_drain()
                        case unknown:
                            assert_never(unknown)
        except* _CONNECTION_OVER:
            pass  # the agent ended or is frozen; the next one is connected to by the caller
        finally:
            sockets.close(connection)

    async def _send_news(self, connection: socket.socket, listener: AgentListener) -> None:
        sent: Stats | None = None
        stats_due = trio.current_time()
        while True:
            self._event_came = trio.Event()
            while self._events:
                # Removed first: a frame cut short by a dying agent is not worth a repeat.
                await _send(connection, self._events.popleft())
            if trio.current_time() >= stats_due:
                stats_due = trio.current_time() + STATS_INTERVAL_S
                stats = listener.stats()
                if stats != sent:
                    await _send(connection, stats)
                    sent = stats
            # Only the wait is cut short by the clock: half a frame would end the connection.
            with trio.move_on_at(stats_due):
                await self._event_came.wait()
