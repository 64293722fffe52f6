"""What the proxy's driver tests share: a fake server, a raw client, a worker in this process.

The fake speaks just enough of PostgreSQL's protocol to log anybody in and to answer every query
with its own name. What a real server does is tested with a real server.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from metako.model.ids import Address, NodeId, Term
from metako.model.routing import Peer, RouteTarget, RoutingTable
from metako.pgwire import startup as pg
from metako.pgwire.messages import TERMINATE
from metako.proxy import sockets
from metako.proxy.consoledesk import ConsoleDesk
from metako.proxy.control import RoutingFeed, WorkerReport, serve_control
from metako.proxy.credentials import CredentialSource
from metako.proxy.frames import Hello, WorkerEvent
from metako.proxy.inherit import Inheritance
from metako.proxy.limits import NO_LIMITS, NO_TIMEOUTS, Limits, Timeouts
from metako.proxy.tlsoptions import NO_TLS, TlsOptions
from metako.proxy.worker import WorkerConfig, boot_ns, serve
from metako.proxy.worklock import WorkerLock

PASSES = 20  # of the scheduler, until all have answered each other over loopback
DEADLINE_S = 5.0  # for every single wait of a test; reached only by a failure


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


READY = message(b"Z", b"I")
IN_TRANSACTION = message(b"Z", b"T")
LOGIN = message(b"R", struct.pack("!I", 0)) + message(b"K", struct.pack("!II", 7, 99)) + READY


@dataclass
class FakeServer:
    """A server named `name`. The switches may be changed while it runs."""

    name: str
    refuse_with: str | None = None  # SQLSTATE of the error instead of a login
    fails: bool = False  # every query
    silent: bool = False  # accepts, reads the startup, and says nothing
    mute: bool = False  # reads what it is asked, and does not answer
    hold: trio.Event | None = None  # wait for this before answering a login
    port: int = 0
    logins: int = 0
    attempts: int = 0
    unanswered: int = 0  # of the attempts, while it was silent
    cancels: list[bytes] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    ended: int = 0  # connections that ended, in whatever way

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._serve, listeners, task_status=_Quiet(task_status))

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.attempts += 1
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._talk(stream)
        finally:
            self.ended += 1

    async def _talk(self, stream: trio.SocketStream) -> None:
        packet = await stream.receive_some(10_000)
        if not packet:
            return
        first = pg.parse_first_packet_untrusted(bytes(packet))
        if isinstance(first, pg.CancelRequest):
            self.cancels.append(first.packet)
            return
        if self.silent:
            self.unanswered += 1
            await stream.receive_some()
            return
        if self.refuse_with is not None:
            await stream.send_all(pg.error_response(self.refuse_with, "the server says no"))
            return
        if self.hold is not None:
            await self.hold.wait()
        if not await self.log_in(stream, first):
            return
        self.logins += 1
        while data := await stream.receive_some():
            self.received += data
            text = bytes(data[5:-1])
            if data[:1] == b"X":
                return
            if self.mute:
                continue
            if text == b"big":
                await stream.send_all(message(b"D", b"x" * 60_000) * 100 + READY)
            elif text == b"row":
                await stream.send_all(message(b"D", b"x" * 100))
            elif text == b"half":
                await stream.send_all(message(b"D", b"x" * 100)[:50])
            elif text == b"begin":
                await stream.send_all(message(b"C", b"BEGIN\0") + IN_TRANSACTION)
            elif text == b"bye":
                return
            elif data[:1] == b"Q" and self.fails:
                await stream.send_all(
                    pg.error_response("55006", "not now", severity="ERROR") + READY
                )
            elif text.startswith(b"set "):
                await stream.send_all(message(b"C", b"SET\0") + READY)
            elif data[:1] == b"Q" and len(data) > int.from_bytes(data[1:5], "big"):
                await stream.send_all(message(b"C", self.name.encode() + b"\0") + READY)

    async def log_in(self, stream: trio.SocketStream, first: pg.FirstPacket) -> bool:
        """Answer the startup packet in full; False if that was the end."""
        await stream.send_all(LOGIN)
        return True

    def target(self) -> RouteTarget:
        return RouteTarget(NodeId(self.name), Address("127.0.0.1", self.port))


class _Quiet(trio.TaskStatus[list[trio.SocketListener]]):
    """Tell the starter that we run, but not on which listeners."""

    def __init__(self, inner: trio.TaskStatus[None]) -> None:
        self._inner = inner

    def started(self, value: object = None) -> None:
        self._inner.started()


class Client:
    """A client that speaks in bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def message(self) -> tuple[bytes, bytes] | None:
        """Return the next message, None at the end of the connection."""
        header = await self._read(5)
        if header is None:
            return None
        body = await self._read(struct.unpack("!I", header[1:])[0] - 4)
        assert body is not None, "the connection ended inside a message"
        return header[:1], body

    async def _read(self, count: int) -> bytes | None:
        with trio.fail_after(DEADLINE_S):
            while len(self._buffer) < count:
                part = await self.stream.receive_some()
                if not part:
                    assert not self._buffer, "the connection ended inside a message"
                    return None
                self._buffer += part
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    async def until_ready(self) -> list[tuple[bytes, bytes]]:
        """Return the messages up to ReadyForQuery; fails at the end of the connection."""
        found = []
        while True:
            item = await self.message()
            assert item is not None, "the connection ended"
            assert item[0] != b"E", pg.parse_error_untrusted(item[1])
            if item[0] == b"Z":
                return found
            found.append(item)

    async def query(self, text: str) -> str:
        """Return the text of the last message before ReadyForQuery."""
        await self.send(message(b"Q", text.encode() + b"\0"))
        return (await self.until_ready())[-1][1].rstrip(b"\0").decode()

    async def send(self, data: bytes) -> None:
        with trio.fail_after(DEADLINE_S):
            await self.stream.send_all(data)

    async def error(self) -> dict[str, str]:
        """Return the fields of the error that comes next."""
        item = await self.message()
        assert item is not None, "the connection ended without an error"
        assert item[0] == b"E", item
        return pg.parse_error_untrusted(item[1])

    async def at_end(self) -> bool:
        """Return whether the connection is over: closed or reset."""
        try:
            return await self.message() is None
        except trio.BrokenResourceError:
            return True


async def leave(client: Client) -> None:
    """Say goodbye, and wait until the proxy has closed the connection and dealt with the server."""
    await client.send(TERMINATE)
    assert await client.at_end()
    for _ in range(PASSES):
        await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def raw_session(port: int) -> AsyncIterator[Client]:
    """Give a client that is logged in at the proxy on `port`."""
    with trio.fail_after(DEADLINE_S):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    client = Client(stream)
    try:
        await client.send(pg.startup_packet({"user": "anna", "database": "shop"}))
        await client.until_ready()
        yield client
    finally:
        await trio.aclose_forcefully(stream)


@dataclass
class Proxy:
    """A worker in this process, with the agent's half of the control socket beside it."""

    port: int
    feed: RoutingFeed
    reports: list[WorkerReport]
    events: list[WorkerEvent]
    nursery: trio.Nursery
    control: Path
    stop: trio.Event
    agent: trio.CancelScope
    desk: ConsoleDesk = field(default_factory=ConsoleDesk)
    ended: trio.Event = field(default_factory=trio.Event)  # set when it has ended by itself
    listeners: list[socket.socket] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def route(
        self,
        term: int,
        server: FakeServer | None,
        *,
        valid_s: float = 60.0,
        peers: tuple[Peer, ...] = (),
        hold: str = "",
    ) -> None:
        until = boot_ns() + round(valid_s * 1e9)
        target = None if server is None else server.target()
        self.feed.publish(RoutingTable(Term(term), target, (), until, peers, hold))

    @property
    def accepts(self) -> bool:
        """Whether it takes connections."""
        return any(one.fileno() != -1 for one in self.listeners)

    async def connect(self) -> Client:
        """Return a client that has said nothing yet; it is closed with the proxy."""
        with trio.fail_after(DEADLINE_S):
            client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def log_in(self) -> Client:
        """Return a client that has sent its startup packet and awaits the answer."""
        client = await self.connect()
        await client.send(pg.startup_packet({"user": "anna", "database": "shop"}))
        return client

    async def session(self) -> Client:
        """Return a client that is logged in."""
        client = await self.log_in()
        await client.until_ready()
        return client

    def start_agent(self) -> None:
        """Start the agent's half, as the first agent or the next one."""
        self.agent = trio.CancelScope()
        self.nursery.start_soon(self._run_agent, self.agent)

    async def _run_agent(self, scope: trio.CancelScope) -> None:
        def on_event(_hello: Hello, event: WorkerEvent) -> None:
            self.events.append(event)

        with scope:
            await serve_control(
                self.control,
                self.feed,
                self.reports.append,
                on_event=on_event,
                desk=self.desk,
            )


@contextlib.asynccontextmanager
async def proxy_running(
    directory: Path,
    *,
    queue_timeout_s: float = 2.0,
    sessions_max: int = 100,
    clock: Callable[[], int] = boot_ns,
    listeners: list[socket.socket] | None = None,
    credentials: CredentialSource | None = None,
    node: str = "n1",
    index: int = 1,
    limits: Limits = NO_LIMITS,
    timeouts: Timeouts = NO_TIMEOUTS,
    admins: tuple[str, ...] = (),
    with_agent: bool = True,
    tls: TlsOptions = NO_TLS,
    replaceable: bool = False,
    inheritance: Inheritance | None = None,
) -> AsyncIterator[Proxy]:
    """Run a worker in this process on a free port; its agent is started too.

    Args:
        replaceable: it has a lock, and another can take its place.
        inheritance: of another, whose place it takes; listeners are among it.
    """
    control = directory / "proxy.sock"
    config = WorkerConfig(
        control=control,
        host="127.0.0.1",
        port=0,
        node=NodeId(node),
        index=index,
        limits=limits,
        timeouts=timeouts,
        admins=admins,
        tls=tls,
        guard_pid=1,  # looked at by the process's main program only
        queue_timeout_s=queue_timeout_s,
        sessions_max=sessions_max,
    )
    if inheritance is not None:
        listeners = inheritance.listeners
    listeners = listeners or sockets.listen(config.host, 0)
    lock = await WorkerLock.take(control, index) if replaceable else None
    port = listeners[0].getsockname()[1]
    stop, ended = trio.Event(), trio.Event()

    async def run() -> None:
        await serve(
            config,
            listeners,
            stop=stop,
            clock=clock,
            credentials=credentials,
            lock=lock,
            inheritance=inheritance,
        )
        ended.set()

    async with contextlib.AsyncExitStack() as stack:
        if lock is not None:
            stack.callback(lock.close)
        if inheritance is not None:
            stack.callback(inheritance.close)
        nursery = await stack.enter_async_context(trio.open_nursery())
        scope = trio.CancelScope()
        proxy = Proxy(port, RoutingFeed(), [], [], nursery, control, stop, agent=scope, ended=ended)
        proxy.listeners = listeners
        if with_agent:
            proxy.start_agent()
        nursery.start_soon(run)
        try:
            yield proxy
        finally:
            for client in proxy.clients:
                await trio.aclose_forcefully(client.stream)
            nursery.cancel_scope.cancel()


async def eventually(claim: Callable[[], bool]) -> None:
    """Return once `claim` holds; fails after `DEADLINE_S`."""
    with trio.fail_after(DEADLINE_S):
        while not claim():  # noqa: ASYNC110 - what is waited for happens in another process
            await trio.sleep(0.005)


def free_port() -> int:
    """Return a port on which nobody listens at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
