"""One client's connection, from its first byte to its last.

handshake → attach → relay → farewell

*Handshake* reads the startup packet and answers the questions before it. *Attach* waits for a
primary, connects, forwards the startup and looks at the server's first message: until then the
client has seen nothing of that server, so any failure up to here is retried with the newest route
until the queue timeout. *Relay* leaves the passing of bytes to a `Link`, which needs no task, and
waits for its end. *Farewell* gives the client time to read the last message before the connection
goes.

Invariant: a session has a socket to a server only while `Routes.keeps(route)`. `cut` is
synchronous and closes that socket itself; between the check of a route and a write to its server
there is no checkpoint.

TLS towards clients is answered with "no" for now.

Deliberately unknown here: authentication and SQL. They pass through.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

import trio

from metako.pgwire import startup as pg
from metako.pgwire.startup import PgWireError, SqlState
from metako.proxy import sockets
from metako.proxy.board import Board, session_failure
from metako.proxy.frames import WorkerEvent
from metako.proxy.link import Link
from metako.proxy.routes import Route
from metako.proxy.transport import Ended

HANDSHAKE_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0
# From the startup packet to the first answer. The server forks a backend and may look up our name;
# a server that is frozen accepts connections in its kernel and then says nothing.
FIRST_MESSAGE_TIMEOUT_S = 5.0
RETRY_PAUSE_MIN_S = 0.05
RETRY_PAUSE_MAX_S = 0.5
FAREWELL_TIMEOUT_S = 0.25
CANCEL_TIMEOUT_S = 2.0
ENCRYPTION_REQUESTS_MAX = 2  # TLS and GSSAPI, each asked at most once


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt to reach a server that may be repeated."""

    reason: str


class Session:
    """See the module's docstring. `run` is its task; `cut` and `evict` are for the board."""

    def __init__(self, board: Board, client: socket.socket) -> None:
        self.route: Route | None = None
        self._board = board
        self._client = client
        self._server: socket.socket | None = None  # None before an attempt and after a cut
        self._link: Link | None = None  # None until a server has said something for the client
        self._attempt_scope: trio.CancelScope | None = None  # the running attempt's

    # -- for the board ----------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        return self._link is not None and self._link.at_rest

    def cut(self, message: str) -> None:
        """Take the server away at once. An attempt is repeated; a running session ends."""
        self._abort_server()
        if self._link is None:
            if self._attempt_scope is not None:
                self._attempt_scope.cancel()
            return
        self._board.cut += 1
        self._board.leave(self)
        # Nobody can be waited for here: what the kernel does not take at once is not sent.
        self._link.inject(pg.error_response(SqlState.ADMIN_SHUTDOWN, message))
        self._link.close()
        self._end_writing_to_client()

    def evict(self) -> None:
        sockets.close(self._client)

    # -- the task ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until either side ends. Never raises but for cancellation.

        If cancelled, both connections are closed before this returns.
        """
        board = self._board
        board.handshake_began(self)
        try:
            first = await self._handshake()
            if isinstance(first, pg.CancelRequest):
                await self._forward_cancel(first)
            elif first is not None:
                board.handshake_ended(self)
                await self._serve(first)
        except sockets.BROKEN:
            pass  # the client is gone, or the board closed it
        except Exception as error:  # noqa: BLE001 - one session's bug must not end all the others
            board.report(session_failure(error))
        finally:
            board.handshake_ended(self)
            board.leave(self)
            if self._link is not None:
                self._link.close()
            self._close_server()
            sockets.close(self._client)

    async def _handshake(self) -> pg.Startup | pg.CancelRequest | None:
        """Return what the client wants, or None if it said nothing that can be served."""
        error: PgWireError | None = None
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as scope:
            try:
                return await self._read_first_packet()
            except PgWireError as wrong:
                error = wrong
        if scope.cancelled_caught or error is not None:
            self._board.malformed += 1
        if error is not None and not isinstance(error, pg.DirectTlsError):
            await self._say_farewell(pg.error_response(error.sqlstate, str(error)))
        return None

    async def _read_first_packet(self) -> pg.Startup | pg.CancelRequest | None:
        for _ in range(ENCRYPTION_REQUESTS_MAX + 1):
            header = await sockets.receive_exactly(self._client, 4)
            if not header:
                return None  # a port check: connected, and gone without a word
            length = pg.first_packet_length_untrusted(header)
            body = await sockets.receive_exactly(self._client, length - 4)
            packet = pg.parse_first_packet_untrusted(header + body)
            if isinstance(packet, pg.Startup | pg.CancelRequest):
                return packet
            await sockets.send_all(self._client, pg.ENCRYPTION_REFUSED)
        raise PgWireError("too many requests for encryption")

    async def _forward_cancel(self, request: pg.CancelRequest) -> None:
        """Hand the request to the server of this proxy's sessions, then close, as servers do.

        The key is not looked up: all sessions of all workers are connected to the one primary,
        and a connection for a cancel may reach another worker than the session's. The route may
        be past its validity, as the sessions to it are kept too.
        """
        route = self._board.routes.last()
        if route is None:
            return
        with trio.move_on_after(CANCEL_TIMEOUT_S), contextlib.suppress(*sockets.BROKEN):
            server = await sockets.connect(route.address)
            try:
                if self._board.routes.keeps(route):
                    await sockets.send_all(server, request.packet)
                    await sockets.receive_some(server, 1)  # the end: the server has acted
            finally:
                sockets.abort(server)

    async def _serve(self, first: pg.Startup) -> None:
        board = self._board
        if not board.admit(self):
            board.refused += 1
            await self._say_farewell(
                pg.error_response(
                    SqlState.TOO_MANY_CONNECTIONS,
                    f"too many connections: this proxy process serves {board.sessions_max}",
                )
            )
            return
        answer = await self._attach_or_notice_hangup(first)
        if isinstance(answer, _Failure):
            board.refused += 1
            board.leave(self)
            await self._refuse(answer)
        elif answer is not None:
            last = await self._relay(answer)
            board.leave(self)
            await self._say_farewell(last)

    # -- attach -----------------------------------------------------------------------------

    async def _attach_or_notice_hangup(self, first: pg.Startup) -> bytes | _Failure | None:
        """Return the server's first bytes, why there are none, or None if the client left."""
        answer: bytes | _Failure | None = None
        self._board.waiting += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_client, nursery.cancel_scope)
                answer = await self._attach(first)
                nursery.cancel_scope.cancel()
        finally:
            self._board.waiting -= 1
        return answer

    async def _watch_client(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the client hangs up: those who left must not keep a place."""
        try:
            await trio.lowlevel.wait_readable(self._client)
            gone = self._client.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            gone = False
        except sockets.BROKEN:
            gone = True
        if gone:
            scope.cancel()

    async def _attach(self, first: pg.Startup) -> bytes | _Failure:
        """Try the newest route until one answers or the queue timeout has passed."""
        board = self._board
        failure = _Failure("no primary is known")
        pause_s = RETRY_PAUSE_MIN_S
        with trio.move_on_after(board.queue_timeout_s):
            while True:
                route = board.current()
                if route is None:
                    if board.refuses():
                        return _Failure("the agent of this node is gone")
                    await board.wait_change()
                    continue
                answer = await self._attempt(route, first)
                if not isinstance(answer, _Failure):
                    return answer
                failure = answer
                # Another route ends the pause: it deserves a prompt first try.
                with trio.move_on_after(pause_s) as pause:
                    await board.wait_change()
                again_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)
                pause_s = again_s if pause.cancelled_caught else RETRY_PAUSE_MIN_S
        return failure

    async def _attempt(self, route: Route, first: pg.Startup) -> bytes | _Failure:
        """Connect and return the first bytes of the server, or why that failed.

        On success `_server` and `_link` are set. If cancelled, or on failure, nothing is left
        open.
        """
        answer: bytes | _Failure = _Failure("the primary changed while connecting")
        self.route = route
        try:
            with trio.CancelScope() as scope:
                self._attempt_scope = scope
                async with self._board.connecting:
                    with self._board.links.reactor.attentive():
                        answer = await self._login(route, first)
            if not isinstance(answer, _Failure) and not self._may_use(route):
                answer = _Failure("the primary changed or its table expired while connecting")
            if not isinstance(answer, _Failure):
                self._link = Link(self._board.links, self._client)
        finally:
            self._attempt_scope = None
            if self._link is None:
                self._abort_server()
                self.route = None
        return answer

    def _may_use(self, route: Route) -> bool:
        """Return whether `route` still is the one to take and nobody took the server away."""
        return self._server is not None and self._board.current() == route

    async def _login(self, route: Route, first: pg.Startup) -> bytes | _Failure:
        where = f"{route.node} at {route.address}"
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                server = await sockets.connect(route.address)
        except trio.TooSlowError:
            return _Failure(f"{where} did not accept the connection in {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            return _Failure(f"{where}: {error.strerror or error}")
        self._server = server
        if not self._may_use(route):
            return _Failure("the primary changed or its table expired while connecting")
        try:
            with trio.fail_after(FIRST_MESSAGE_TIMEOUT_S):
                await sockets.send_all(server, first.packet)
                return await _first_answer(server, where)
        except trio.TooSlowError:
            return _Failure(f"{where} said nothing for {FIRST_MESSAGE_TIMEOUT_S:g} s")
        except PgWireError as error:
            return _Failure(f"{where}: {error}")
        except sockets.BROKEN as error:
            return _Failure(f"{where} closed the connection: {error}")

    async def _refuse(self, failure: _Failure) -> None:
        await self._say_farewell(
            pg.error_response(
                SqlState.CANNOT_CONNECT_NOW,
                f"no primary within {self._board.queue_timeout_s:g} s",
                detail=failure.reason,
                hint="Connect again; see `metako status` for the state of the cluster.",
            )
        )

    # -- relay and the end ------------------------------------------------------------------

    async def _relay(self, answer: bytes) -> bytes:
        """Join client and server until either ends or the session is cut.

        Returns the last message for the client, b"" if there is none.
        """
        link, server = self._link, self._server
        if link is None or link.ended is not None or server is None:
            return b""  # cut before the first byte passed
        board = self._board
        link.attach(server, answer, logging_in=True)
        ended = await link.wait_end()
        error = link.violation
        if ended is Ended.GOODBYE and self._server is not None:
            with contextlib.suppress(OSError):
                self._server.send(pg.TERMINATE)
        elif ended is Ended.SERVER_VIOLATION:
            detail = (("error", str(error)),)
            board.report(WorkerEvent("ERROR", "a server broke the protocol", detail))
        elif ended is Ended.CLIENT_VIOLATION:
            board.malformed += 1
            if error is not None and link.at_boundary:
                return pg.error_response(error.sqlstate, str(error))
        return b""

    def _abort_server(self) -> None:
        if self._server is not None:
            if self._link is not None:
                self._link.detach_server()
            sockets.abort(self._server)
            self._server = None

    def _close_server(self) -> None:
        # Not a reset: what the client sent last, usually its goodbye, still has to arrive.
        if self._server is not None:
            sockets.close(self._server)
            self._server = None

    def _end_writing_to_client(self) -> None:
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    async def _say_farewell(self, message: bytes) -> None:
        """Send the last message and wait, briefly, until the client has taken it.

        Closing a socket with unread input resets the connection, and a reset overtakes the
        message; so the input is read and thrown away.
        """
        self._close_server()
        with trio.move_on_after(FAREWELL_TIMEOUT_S), contextlib.suppress(*sockets.BROKEN):
            await sockets.send_all(self._client, message)
            self._end_writing_to_client()
            while await sockets.receive_some(self._client):
                await trio.lowlevel.checkpoint()


async def _first_answer(server: socket.socket, where: str) -> bytes | _Failure:
    """Return the first bytes of the server unless they say that it takes nobody yet."""
    header = await sockets.receive_exactly(server, pg.MESSAGE_HEADER_BYTES)
    if len(header) < pg.MESSAGE_HEADER_BYTES:
        return _Failure(f"{where} closed the connection before it said anything")
    kind, length = pg.message_header_untrusted(header)
    if kind != b"E":
        return header
    body = await sockets.receive_exactly(server, length)
    fields = pg.parse_error_untrusted(body)
    if fields.get("C") == SqlState.CANNOT_CONNECT_NOW:
        return _Failure(f"{where}: {fields.get('M', '')}")
    return header + body
