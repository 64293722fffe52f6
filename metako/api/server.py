"""Serve the API on a TCP port and on the agent's socket, on Hypercorn's trio worker.

In: a `StatusSource`, where to listen or accepted connections, and the event that ends the service.
Out: `serve_api`, `serve_streams`, `serve_agent_socket`.

Invariant: whatever a client does - sends garbage, reads nothing, holds its connection open - the
agent goes on, and this returns within `GRACEFUL_TIMEOUT_S` of `stop`. Hypercorn's own `serve`
promises neither: it shields its writes from cancellation, so a client that does not read holds up
the shutdown for ever, and an exception in one connection ends the whole nursery. Therefore the
accept loop is ours: it keeps the open connections, and closes their sockets when time is up, which
ends a shielded write at once.

Deliberately unaware of paths and of JSON (`app`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from metako import unixsocket
from metako.api.app import StatusSource, build_app
from metako.api.orders import OrderSink
from metako.model.errors import ConfigError, MetakoError, PortInUseError, PrivilegeError
from metako.model.ids import Address

GRACEFUL_TIMEOUT_S = 0.2
"""What requests in flight may take once the stop event is set: stopping never waits for HTTP."""

CONNECTIONS_MAX = 256
"""Open connections; one more is closed at once. A load balancer's probes need a handful."""

KEEP_ALIVE_S = 5
READ_TIMEOUT_S = 10
ORDER_READ_TIMEOUT_S = 60
"""On the agent's socket. Hypercorn counts it while a request is being answered too, and that an
order is answered can take 10 s (`runtime.orders`)."""
REQUEST_HEAD_BYTES_MAX = 16 * 1024
REQUEST_BODY_BYTES_MAX = 64 * 1024
BACKLOG = 100


async def serve_api(
    source: StatusSource,
    host: str,
    port: int,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API until `stop` is set; report the bound addresses through `task_status`.

    If cancelled, every connection and the listening sockets are closed before this returns.

    Args:
        host: name or literal to listen on; every address that it resolves to is bound.
        port: 0 takes a free one.

    Raises:
        PortInUseError: something else listens there.
        PrivilegeError: the port is reserved for root.
        ConfigError: the host is not an address of this machine.
    """
    listeners = await _listen(host, port)
    server = _Connections(build_app(source))
    addresses = tuple(_address_of(listener) for listener in listeners)
    started = partial(task_status.started, addresses)
    await _serve_until(stop, server, partial(server.accept, listeners), started)


async def serve_agent_socket(
    source: StatusSource,
    orders: OrderSink,
    path: Path,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API with its writing paths on a Unix socket at `path`, until `stop` is set.

    Only the user of this process, and root, can connect. What an earlier agent left at `path` is
    replaced. Started once it can be connected to; removed before this returns, also if cancelled.

    Raises:
        PrivilegeError: the socket cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            sock = stack.enter_context(unixsocket.listening(path))
        except OSError as error:
            raise PrivilegeError(
                f"cannot make the agent's socket {path}: {error.strerror}; see who owns its "
                "directory and whether the disk is full"
            ) from error
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock))]
        server = _Connections(build_app(source, orders), read_timeout_s=ORDER_READ_TIMEOUT_S)
        await _serve_until(stop, server, partial(server.accept, listeners), task_status.started)


async def serve_streams(
    source: StatusSource,
    streams: trio.MemoryReceiveChannel[trio.SocketStream],
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API on connections that someone else accepted, until `stop` is set.

    For a node whose gossip and API share one TCP port, as in a pg-metako file: whoever owns the
    port looks at the first bytes without taking them (`MSG_PEEK`) and passes HTTP on. The sockets
    are ours from then on: they are closed before this returns, also if it is cancelled.
    """
    server = _Connections(build_app(source))

    async def accept(connections: trio.Nursery) -> None:
        async for stream in streams:
            connections.start_soon(server.serve, stream)

    try:
        await _serve_until(stop, server, accept, task_status.started)
    finally:
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                streams.receive_nowait().socket.close()


async def _serve_until(
    stop: trio.Event,
    server: _Connections,
    accept: Callable[[trio.Nursery], Awaitable[None]],
    started: Callable[[], None],
) -> None:
    async with trio.open_nursery() as connections:
        try:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(accept, connections)
                started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            await server.drain(GRACEFUL_TIMEOUT_S)
        finally:
            server.close_all()
        connections.cancel_scope.cancel()


class _Connections:
    """The open connections of one server, and what Hypercorn needs to serve each of them."""

    def __init__(self, app: object, *, read_timeout_s: int = READ_TIMEOUT_S) -> None:
        self._config = _hypercorn_config(read_timeout_s)
        # Hypercorn's wrapper is typed for its own spelling of an ASGI app.
        self._app: AppWrapper = wrap_app(app, REQUEST_BODY_BYTES_MAX, "asgi")  # type: ignore[arg-type]
        self._context = WorkerContext(None)
        self._open: set[trio.SocketStream] = set()
        self._empty = trio.Event()  # set while draining, once the last connection has gone

    async def accept(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Serve what connects, in the nursery `connections`, until cancelled."""
        await trio.serve_listeners(self.serve, listeners, handler_nursery=connections)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end. Never raises but for cancellation."""
        if len(self._open) >= CONNECTIONS_MAX:
            await trio.aclose_forcefully(stream)
            return
        self._open.add(stream)
        try:
            await TCPServer(self._app, self._config, self._context, ConnectionState({}), stream)  # type: ignore[arg-type]  # typed for TLS, checks for plain streams itself
        except Exception:  # noqa: BLE001, S110  # one bad client must not end the agent
            pass
        except BaseExceptionGroup as group:
            if group.split((Exception, trio.Cancelled))[1] is not None:
                raise
        finally:
            stream.socket.close()
            self._open.discard(stream)
            if not self._open:
                self._empty.set()

    async def drain(self, timeout_s: float) -> None:
        """Let requests in flight end, idle connections at once; wait for at most `timeout_s`."""
        self._empty = trio.Event()
        await self._context.terminated.set()
        if self._open:
            with trio.move_on_after(timeout_s):
                await self._empty.wait()

    def close_all(self) -> None:
        """Close every socket, which makes even a shielded write fail at once."""
        for stream in tuple(self._open):
            stream.socket.close()


def _hypercorn_config(read_timeout_s: int) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.read_timeout = read_timeout_s
    config.h11_max_incomplete_size = REQUEST_HEAD_BYTES_MAX
    config.wsgi_max_body_size = REQUEST_BODY_BYTES_MAX
    return config


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise _bind_error(error, host, port) from error


def _bind_error(error: OSError, host: str, port: int) -> MetakoError:
    where = Address(host, port)
    # A host with several addresses fails with the errors of all of them underneath.
    cause: BaseException = error
    while cause.__cause__ is not None and not getattr(cause, "errno", None):
        cause = cause.__cause__
    code = getattr(cause, "errno", None)
    if code == errno.EADDRINUSE:
        return PortInUseError(
            f"the API cannot listen on {where}: something else does; change api.port or stop it"
        )
    if code == errno.EACCES:
        return PrivilegeError(
            f"the API cannot listen on {where}: ports below 1024 are reserved; change api.port"
        )
    if isinstance(error, socket.gaierror) or code == errno.EADDRNOTAVAIL:
        return ConfigError(f"the API cannot listen on {where}: api.host is not of this machine")
    return ConfigError(f"the API cannot listen on {where}: {error}")


def _address_of(listener: trio.SocketListener) -> Address:
    name = listener.socket.getsockname()
    return Address(str(name[0]), int(name[1]))
