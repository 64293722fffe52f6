"""The Unix socket between agent and proxy workers, both halves.

The agent listens and the workers connect, so that workers survive their agent: they keep the last
table and come back, with a bounded back-off, to the next agent that listens at the same path.

In: routing tables and answers about roles on the agent's side; counters, events and questions on
the worker's. Out: the same, on the other side. Invariant: a table replaces every earlier one and is
never queued behind another, so a worker that was slow gets the newest table and nothing else.

Deliberately unknown here: what a table means, or what is known of a role.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, assert_never

import trio

from metako import unixsocket
from metako.model.rolelogin import RoleLogin
from metako.model.routing import RoutingTable
from metako.proxy import frames, sockets
from metako.proxy.console import Command
from metako.proxy.consoleasks import ConsoleAsks, Office
from metako.proxy.consoledesk import ConsoleDesk
from metako.proxy.consoleframes import ConsoleAsked, ConsoleTold, Part, PartTold, PartWanted
from metako.proxy.feed import RoutingFeed as RoutingFeed
from metako.proxy.feed import WorkerReport as WorkerReport
from metako.proxy.frames import Drain, Hello, Stats, WorkerEvent
from metako.proxy.jsonline import FRAME_BYTES_MAX, FrameError
from metako.proxy.limits import Tuning
from metako.proxy.loginframes import Verifier, VerifierWanted, Welcome
from metako.proxy.questions import QUESTIONS_MAX, Questions

CONNECTIONS_MAX = 64  # workers of a node, old and new ones together
SEND_TIMEOUT_S = 1.0  # a peer that takes no frame for so long is disconnected
HELLO_TIMEOUT_S = 5.0
STATS_INTERVAL_S = 1.0
RECONNECT_MIN_S = 0.02
RECONNECT_MAX_S = 0.25
EVENTS_MAX = 100  # kept by a worker while there is no agent; the oldest are dropped

# Says what the catalogue has of a role; None: it cannot be told now. Never raises.
Answer = Callable[[str], Awaitable[RoleLogin | None]]

# How a connection ends on either side: broken, too slow, or not what we speak.
_CONNECTION_OVER = (*sockets.BROKEN, trio.TooSlowError, FrameError)


async def _tell_nothing(_user: str) -> RoleLogin | None:
    await trio.lowlevel.checkpoint()
    return None


@dataclass(frozen=True, slots=True)
class _Agent:
    """What every connection of a worker needs of the agent."""

    feed: RoutingFeed
    on_report: Callable[[WorkerReport], None]
    on_event: Callable[[Hello, WorkerEvent], None]
    answer: Answer
    desk: ConsoleDesk


async def serve_control(
    path: Path,
    feed: RoutingFeed,
    on_report: Callable[[WorkerReport], None],
    *,
    on_event: Callable[[Hello, WorkerEvent], None] = lambda _hello, _event: None,
    answer: Answer = _tell_nothing,
    desk: ConsoleDesk | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the workers of this node until cancelled.

    A socket that an earlier agent left at `path` is replaced. Started once workers can connect.
    Errors of a worker's connection end that connection only. If cancelled, the connections and
    the socket are closed; the workers go on with their last table.

    Raises:
        OSError: the socket cannot be made; nothing was started.
    """
    agent = _Agent(feed, on_report, on_event, answer, desk or ConsoleDesk())
    # Whoever waited for the listener has ended with the nursery when it is closed.
    with unixsocket.listening(path) as listener:
        async with trio.open_nursery() as nursery:
            task_status.started()
            slots = trio.Semaphore(CONNECTIONS_MAX)
            while True:
                await slots.acquire()
                connection = await sockets.accept(listener)
                nursery.start_soon(_serve_worker, _Connection(connection), slots, agent)


class _Connection:
    """A connection on which several tasks send, one frame at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._sending = trio.Lock()

    async def send(self, *several: frames.FromAgent) -> None:
        async with self._sending:
            for frame in several:
                await _send(self.socket, frame)


class _Worker:
    """A connected worker, for the desk: what is posted is sent by the connection's own tasks."""

    def __init__(self, connection: _Connection, nursery: trio.Nursery) -> None:
        self._connection = connection
        self._nursery = nursery

    def post(self, *several: frames.FromAgent) -> None:
        self._nursery.start_soon(self._connection.send, *several)


async def _serve_worker(connection: _Connection, slots: trio.Semaphore, agent: _Agent) -> None:
    try:
        lines = _Lines(connection.socket)
        with trio.fail_after(HELLO_TIMEOUT_S):
            hello = frames.decode_from_worker(await lines.read())
        if isinstance(hello, Hello):
            await _hear_worker(connection, lines, hello, agent)
    except _CONNECTION_OVER:
        pass  # whoever this was never said hello
    finally:
        sockets.close(connection.socket)
        slots.release()


async def _hear_worker(connection: _Connection, lines: _Lines, hello: Hello, agent: _Agent) -> None:
    report = WorkerReport(hello, Stats(), connected=True)
    agent.on_report(report)
    questions = trio.Semaphore(QUESTIONS_MAX)
    try:
        async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
            nursery.start_soon(_send_tables, connection, agent.feed, hello)
            worker = _Worker(connection, nursery)
            stack.callback(agent.desk.leave, worker)
            agent.desk.join(worker, hello)
            while True:
                match frames.decode_from_worker(await lines.read()):
                    case Stats() as stats:
                        report = replace(report, stats=stats)
                        agent.on_report(report)
                    case WorkerEvent() as event:
                        agent.on_event(hello, event)
                    case VerifierWanted() as wanted:
                        try:
                            questions.acquire_nowait()
                        except trio.WouldBlock:
                            await connection.send(Verifier(wanted.id, None))
                        else:
                            nursery.start_soon(_answer, connection, wanted, agent.answer, questions)
                    case ConsoleAsked() as asked:
                        nursery.start_soon(agent.desk.answer, worker, asked)
                    case PartTold() as told:
                        agent.desk.receive(worker, told)
                    case Hello():
                        raise FrameError("a second hello")
                    case unknown:
                        assert_never(unknown)
    except* _CONNECTION_OVER:
        pass  # a worker that lives comes back with a new connection
    finally:
        agent.on_report(replace(report, connected=False))


async def _answer(
    connection: _Connection, wanted: VerifierWanted, answer: Answer, questions: trio.Semaphore
) -> None:
    try:
        await connection.send(Verifier(wanted.id, await answer(wanted.user)))
    finally:
        questions.release()


async def _send_tables(connection: _Connection, feed: RoutingFeed, hello: Hello) -> None:
    """Send what is newest at once and after each change, until the connection breaks."""
    sent: RoutingTable | None = None
    greeted: Welcome | None = None
    tuned: Tuning | None = None
    while True:
        if hello.console and feed.tuning is not None and feed.tuning is not tuned:
            tuned = feed.tuning
            await connection.send(tuned)
        if hello.asks and feed.welcome is not None and feed.welcome is not greeted:
            greeted = feed.welcome
            await connection.send(greeted)
        if feed.latest is not None and feed.latest is not sent:
            sent = feed.latest
            await connection.send(sent)
        if hello.pid in feed.draining:
            await connection.send(Drain())
            feed.draining -= {hello.pid}
        up_to_date = feed.latest is sent and (feed.welcome is greeted or not hello.asks)
        up_to_date = up_to_date and (feed.tuning is tuned or not hello.console)
        if up_to_date and hello.pid not in feed.draining:
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
            if searched > FRAME_BYTES_MAX:
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

    def receive_welcome(self, welcome: Welcome) -> None:
        """The agent has told what it tells besides."""

    def stats(self) -> Stats:
        """Return the counters as they are now."""


class AgentLink:
    """A worker's connection to whichever agent listens at `path`."""

    def __init__(self, path: Path, hello: Hello) -> None:
        self._path = path
        self._hello = replace(hello, asks=True, console=True)
        self._questions = Questions(self._wake)
        self._consoles = ConsoleAsks(self._wake)
        # The newest ones are kept: they say what is going on now.
        self._events: deque[WorkerEvent] = deque(maxlen=EVENTS_MAX)
        self._event_came = trio.Event()  # replaced whenever it is set

    def report(self, event: WorkerEvent) -> None:
        """Send `event` to the agent, now or when there is one."""
        self._events.append(event)
        self._wake()

    @property
    def welcome(self) -> Welcome | None:
        """What the last agent that answers has told; None before that."""
        return self._questions.welcome

    @property
    def answering(self) -> bool:
        """Whether an agent is connected that answers questions about roles."""
        return self._questions.answering

    async def ask(self, user: str) -> RoleLogin | None:
        """Ask the agent about a role; see `Questions.ask`."""
        return await self._questions.ask(user)

    async def wait_welcome(self) -> Welcome | None:
        """Return the welcome, of which the first one is waited for; see `Questions`."""
        return await self._questions.wait_welcome()

    async def ask_all(self, command: Command) -> Part | None:
        """Have the agent ask all workers of the node; see `ConsoleAsks.ask`."""
        return await self._consoles.ask(command)

    def serve_consoles(self, office: Office) -> None:
        """Let `office` do what the agent wants of this worker for somebody's console."""
        self._consoles.office = office

    def _wake(self) -> None:
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
            self._questions.connected()
            await _send(connection, self._hello)
            lines = _Lines(connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_news, connection, listener)
                while True:
                    # An agent counts as present once it has spoken, not when its socket accepts.
                    match frames.decode_from_agent(await lines.read()):
                        case RoutingTable() as table:
                            self._questions.receive_table()
                            listener.agent_came()
                            listener.receive_table(table)
                        case Drain():
                            on_drain()
                        case Welcome() as welcome:
                            self._questions.receive_welcome(welcome)
                            listener.receive_welcome(welcome)
                        case Verifier() as verifier:
                            self._questions.receive_answer(verifier)
                        case Tuning() | PartWanted() | ConsoleTold() as frame:
                            self._consoles.receive(frame)
                        case unknown:
                            assert_never(unknown)
        except* _CONNECTION_OVER:
            pass  # the agent ended or is frozen; the next one is connected to by the caller
        finally:
            self._questions.disconnected()
            self._consoles.disconnected()
            sockets.close(connection)

    async def _send_news(self, connection: socket.socket, listener: AgentListener) -> None:
        sent: Stats | None = None
        stats_due = trio.current_time()
        while True:
            self._event_came = trio.Event()
            while (wanted := self._questions.next_unsent()) is not None:
                await _send(connection, wanted)  # a client waits for it
            while (frame := self._consoles.next_unsent()) is not None:
                await _send(connection, frame)
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
