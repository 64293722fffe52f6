"""One client's connection, from its first byte to its last.

handshake → login → relay → farewell

*Handshake* reads the startup packet and answers the questions before it; if one of them was for
TLS, or the client began with it, all that follows is inside of that. *Login* asks who may judge
the client: either we log it in ourselves, with what its role may log in with, or its login is
passed on to the server. *Relay* finds a server and joins the two, again and again if the session
can be kept (`relay`). *Farewell* gives the client time to read the last message before the
connection goes.

Deliberately unknown here: servers, SQL, and which roles exist.
"""

from __future__ import annotations

import contextlib
import math
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator

import trio

from metako.pgwire import startup as pg
from metako.pgwire.login_server import LoginRefused
from metako.pgwire.negotiation import MINOR_LONG_KEYS, negotiate
from metako.pgwire.startup import PgWireError, SqlState
from metako.proxy import sockets
from metako.proxy.board import Board, session_failure
from metako.proxy.cancels import forward_cancel
from metako.proxy.clientlogin import (
    asking_of,
    log_client_in,
    replicates,
    wants_console,
    who_asks,
)
from metako.proxy.consolesession import CONSOLES_BEYOND, converse, log_admin_in
from metako.proxy.credentials import Asking
from metako.proxy.entry import Entry
from metako.proxy.handover import bequeath
from metako.proxy.legs import Leg
from metako.proxy.passing import PassOn
from metako.proxy.relay import Relay
from metako.proxy.serverlogin import LogIn, session_parameters
from metako.proxy.tls import ServerTls, TlsError, shake_hands
from metako.proxy.transport import shut
from metako.proxy.who import Who

FAREWELL_TIMEOUT_S = 0.25
# Who connects for each transaction comes again before its goodbye of before was read.
ROOM_TIMEOUT_S = 0.1
ROOM_POLL_S = 0.005
_STOPPED = "the proxy has stopped; connect again"
_NO_TLS = "this proxy serves clients with TLS only"
Start = Callable[[Callable[[], Awaitable[None]]], None]  # starts a task
ENCRYPTION_REQUESTS_MAX = 2  # TLS and GSSAPI, each asked at most once


class Session:
    """See the module's docstring. `run` is its task; `end` and `evict` are for the board."""

    __slots__ = (
        *("_at_console", "_board", "_client", "_login", "_relay", "_socket", "_start", "_tls"),
        *("who",),
    )

    def __init__(self, board: Board, client: socket.socket) -> None:
        self._board = board
        self._socket = client
        self._client: sockets.Connection = client  # encrypted after a handshake
        self._tls: ServerTls | None = None  # that the client was shown; None in clear
        self._relay: Relay | None = None  # None before the login is over
        self._at_console = False
        self.who: Who | None = None  # None before the client has said it
        self._login: LogIn | None = None  # None if the client did not log in to us
        # Starts a task; None if there is one.
        self._start: Start | None = None

    @classmethod
    def inherited(
        cls, board: Board, client: socket.socket, who: Who, login: LogIn | None, relay: Relay
    ) -> Session:
        """Return a session that has begun in another process, for `go_on`."""
        session = cls(board, client)
        session.who, session._login, session._relay = who, login, relay
        return session

    # -- for the board ----------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        return self._at_console or (self._relay is not None and self._relay.at_rest)

    @property
    def relay(self) -> Relay | None:
        return self._relay

    @property
    def answers(self) -> int:
        return 0 if self._relay is None else max(self._relay.link.answers, 0)

    def end(self, message: str) -> None:
        """End the session at once, and tell the client why if it can be told."""
        if self._relay is not None:
            self._relay.end(message)
            return
        self._board.cut += 1
        # Also in the middle of a login an error may come; its task ends with the socket.
        with contextlib.suppress(OSError):
            self._client.send(pg.error_response(SqlState.ADMIN_SHUTDOWN, message))
        self.evict()

    silent = False

    def abandon(self) -> None:
        if self._start is not None and self._relay is not None:
            self._relay.abandon()
            self._close()

    def hold(self) -> None:
        if self._relay is not None:
            self._relay.hold()

    def evict(self) -> None:
        sockets.close(self._client)

    # -- the task ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until either side ends. Never raises but for cancellation.

        If cancelled, all connections are closed before this returns.
        """
        board = self._board
        with self._served():
            board.handshake_began(self)
            board.links.reactor.attend()  # it has a few words to say, one after the other
            first = await self._handshake()
            if isinstance(first, pg.CancelRequest):
                await forward_cancel(board, first)
            elif first is not None:
                board.handshake_ended(self)
                await self._serve(first)

    async def go_on(self, excuse: bytes) -> None:
        """Serve a client whose session has begun in another process; else as `run`.

        Args:
            excuse: why the session cannot go on; b"": it can.
        """
        with self._served():
            assert self._relay is not None
            # It was let in before, whatever the limit says.
            self._board.admit(self, beyond=sys.maxsize)
            await self._go_on(self._relay, b"", excuse)

    @contextlib.contextmanager
    def _served(self) -> Iterator[None]:
        board = self._board
        try:
            yield
        except sockets.BROKEN:
            pass  # the client is gone, or the board closed it
        except Exception as error:  # noqa: BLE001 - one session's bug must not end all the others
            board.report(session_failure(error))
        finally:
            board.handshake_ended(self)
            self._close()

    def _close(self) -> None:
        self._board.leave(self)
        if self._login is not None:
            self._login.wipe()
        self._board.links.reactor.forget(self._socket.fileno())
        sockets.close(self._client)

    # -- without a task ---------------------------------------------------------------------

    def begin(self, leg: Leg, granted: bytes, start: Start) -> None:
        """Relay without a task, until there is something that takes one."""
        assert self._relay is not None
        self._start = start
        self._board.admit(self)
        self._relay.begin(leg, granted, self._wake)

    def _wake(self) -> None:
        start, relay = self._start, self._relay
        assert start is not None
        assert relay is not None
        if relay.left and self._board.links.reactor.later(self._say_goodbye):
            return
        self._start = None
        self._board.links.reactor.hurry()
        start(self._resume)

    def _say_goodbye(self) -> None:
        assert self._relay is not None
        try:
            self._relay.say_goodbye()
        finally:
            self._close()

    async def _resume(self) -> None:
        """Go on in a task."""
        with self._served():
            assert self._relay is not None
            await self._end_relay(self._relay, await self._relay.rest())

    async def _handshake(self) -> pg.Startup | pg.CancelRequest | None:
        """Return what the client wants, or None if it said nothing that can be served."""
        error: PgWireError | None = None
        with trio.move_on_after(self._board.handshake_timeout_s) as scope:
            try:
                return await self._read_first_packet()
            except PgWireError as wrong:
                error = wrong
            except TlsError:
                # It was told by an alert, and would understand nothing else.
                self._board.malformed += 1
                return None
        if scope.cancelled_caught or error is not None:
            self._board.malformed += 1
        if error is not None and not isinstance(error, pg.DirectTlsError):
            await self._say_farewell(pg.error_response(error.sqlstate, str(error)))
        return None

    async def _read_first_packet(self) -> pg.Startup | pg.CancelRequest | None:
        offered = self._board.encryption.offered
        for requests in range(ENCRYPTION_REQUESTS_MAX + 1):
            header = await sockets.receive_exactly(self._client, 4)
            if not header:
                return None  # a port check: connected, and gone without a word
            if not requests and offered is not None and pg.begins_with_tls(header):
                await self._encrypt(offered, begun=header)
                continue
            length = pg.first_packet_length_untrusted(header)
            body = await sockets.receive_exactly(self._client, length - 4)
            packet = pg.parse_first_packet_untrusted(header + body)
            if isinstance(packet, pg.Startup | pg.CancelRequest):
                return packet
            if self._tls is not None:
                raise PgWireError("a request for encryption inside TLS")
            if offered is not None and isinstance(packet, pg.SslRequest):
                await sockets.send_all(self._client, pg.ENCRYPTION_ACCEPTED)
                await self._encrypt(offered)
            else:
                await sockets.send_all(self._client, pg.ENCRYPTION_REFUSED)
        raise PgWireError("too many requests for encryption")

    async def _encrypt(self, offered: ServerTls, *, begun: bytes = b"") -> None:
        """Do the handshake; `begun` is what was read of it already."""
        self._client = await shake_hands(
            self._socket, offered.context, server_side=True, direct=bool(begun), received=begun
        )
        self._tls = offered

    async def _serve(self, first: pg.Startup) -> None:
        board = self._board
        if board.encryption.required and self._tls is None:
            board.refused += 1
            hint = "Connect with sslmode=require or a stronger one."
            error = pg.error_response(SqlState.INVALID_AUTHORIZATION, _NO_TLS, hint=hint)
            await self._say_farewell(error)
            return
        at_console = wants_console(first)
        if not await self._admitted(CONSOLES_BEYOND if at_console else 0):
            board.refused += 1
            await self._say_farewell(
                pg.error_response(
                    SqlState.TOO_MANY_CONNECTIONS,
                    f"too many connections: this proxy process serves {board.sessions_max}",
                )
            )
            return
        last = await (self._serve_console(first) if at_console else self._log_in(first))
        if self._relay is None:
            board.leave(self)
            await self._say_farewell(last)
        else:
            await self._go_on(self._relay, last)

    async def _admitted(self, beyond: int) -> bool:
        """Return whether there is room, for which those who have said goodbye get a moment."""
        with trio.move_on_after(ROOM_TIMEOUT_S):
            while not self._board.admit(self, beyond=beyond):  # noqa: ASYNC110 - nobody is told
                await trio.sleep(ROOM_POLL_S)
            return True
        return False

    async def _go_on(self, relay: Relay, granted: bytes, excuse: bytes = b"") -> None:
        """Relay until the end, whichever that is."""
        await self._end_relay(relay, await relay.run(granted) or excuse)

    async def _end_relay(self, relay: Relay, last: bytes) -> None:
        if relay.departed is not None:
            # Still among the board's: the worker does not end before the last one has left.
            assert self.who is not None
            if await bequeath(self._board, self._socket, self.who, self._login, relay.departed):
                return
            last = pg.error_response(SqlState.ADMIN_SHUTDOWN, _STOPPED)
        self._board.leave(self)
        if not relay.left:
            await self._say_farewell(last)

    # -- login ------------------------------------------------------------------------------

    async def _log_in(self, first: pg.Startup) -> bytes:
        """Set `_relay`, or return the last message for a client that cannot be served."""
        board, client = self._board, self._client
        source = board.credentials
        with trio.move_on_after(board.timeouts.login_s or math.inf) as scope:
            asking = self._asking(first)
            credential = None if source is None else await source.credential(asking)
            if source is None or credential is None:
                self._relay = Relay(board, client, Entry(self._pass_on(first), asking.database))
                return b""
            spoken = negotiate(first)
            binding = None if self._tls is None else self._tls.binding
            said, outcome = await log_client_in(
                client, asking.user, credential, spoken, binding=binding
            )
            if outcome is None:
                return b""
            if isinstance(outcome, LoginRefused):
                board.refused += 1
                if outcome.reason.startswith(SqlState.INVALID_PASSWORD):
                    source.forget(asking.user)
                return said + outcome.error
            self._login = LogIn(session_parameters(first), spoken.minor, outcome.keys)
            entry = Entry.of(
                self._login,
                asking.user,
                asking.database,
                movable=not replicates(first),
                long_keys=spoken.minor >= MINOR_LONG_KEYS,
                forget=source.forget,
            )
            self._relay = Relay(board, client, entry)
            return said
        # As PostgreSQL does, whoever takes too long is not told so.
        board.refused += scope.cancelled_caught
        return b""

    def _pass_on(self, first: pg.Startup) -> PassOn:
        may_be_clear = not self._board.encryption.mode.insists
        return PassOn(first, binds=self._tls is not None, may_be_clear=may_be_clear)

    def _asking(self, first: pg.Startup) -> Asking:
        asking = asking_of(first, self._client, certifies=self._board.encryption.certifies)
        self.who = who_asks(first, asking, self._board.next_number(), trio.current_time())
        return asking

    async def _serve_console(self, first: pg.Startup) -> bytes:
        """Let an admin talk to the console; return the last message."""
        board, client = self._board, self._client
        with trio.move_on_after(board.timeouts.login_s or math.inf):
            binding = None if self._tls is None else self._tls.binding
            said, admitted = await log_admin_in(
                board, client, first, self._asking(first), binding=binding
            )
            if not admitted:
                return said
            self._at_console = True
        if self._at_console:
            return await converse(board, client, first, said)
        board.refused += 1
        return b""

    # -- the end ----------------------------------------------------------------------------

    async def _say_farewell(self, message: bytes) -> None:
        """Send the last message and wait, briefly, until the client has taken it.

        Closing a socket with unread input resets the connection, and a reset overtakes the
        message; so the input is read and thrown away.
        """
        with trio.move_on_after(FAREWELL_TIMEOUT_S), contextlib.suppress(*sockets.BROKEN):
            await sockets.send_all(self._client, message)
            shut(self._client)
            while await sockets.receive_some(self._client):
                await trio.lowlevel.checkpoint()
