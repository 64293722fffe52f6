"""A client that has just connected, and is let in without a task if nothing has to be waited for.

    connects ──▶ asks for encryption, is told N ──▶ says who it is ──▶ relaying
                      └──── anything else ──────────────┴──────▶ a task (`session`)

Those who connect for a single statement pay more for a task than for the statement. So a client
that is to be let in by `trust`, and for whom there is a used leg, is served by callbacks of the
reactor alone, from its first packet to its goodbye. As soon as anybody has to wait, for a password
or for a server, a task takes over: of what it has to read nothing was taken from the kernel.

Deliberately unknown here: what is done in a task.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from metako.pgwire import startup as pg
from metako.pgwire.authentication import AUTHENTICATION_OK
from metako.pgwire.negotiation import MINOR_LONG_KEYS, negotiate
from metako.pgwire.startup import PgWireError
from metako.proxy import sockets
from metako.proxy.board import Board, session_failure
from metako.proxy.clientlogin import asking_of, replicates, wants_console, who_asks
from metako.proxy.entry import Entry
from metako.proxy.reactor import READ
from metako.proxy.relay import Relay
from metako.proxy.serverlogin import LogIn, session_parameters
from metako.proxy.session import ENCRYPTION_REQUESTS_MAX, Session, Start

if TYPE_CHECKING:
    from metako.proxy.who import Who

PEEK_BYTES = 2048  # a longer first packet is a task's
_REQUESTS = frozenset((pg.ssl_request_packet(), pg.gssenc_request_packet()))


class Newcomer:
    """See the module's docstring. `begin` once; all else is for the reactor and the board.

    Args:
        start: starts a task.
    """

    __slots__ = ("_board", "_client", "_over", "_requests", "_start")

    def __init__(self, board: Board, client: socket.socket, start: Start) -> None:
        self._board = board
        self._client = client
        self._start = start
        self._requests = 0  # for encryption
        self._over = False  # it is somebody else's, or closed

    # -- for the board ----------------------------------------------------------------------

    at_rest = False
    answers = 0
    relay: Relay | None = None
    who: Who | None = None
    silent = True

    def end(self, _message: str) -> None:
        self.evict()

    def hold(self) -> None:
        """Begin no transaction: it has none."""

    def abandon(self) -> None:
        self.evict()

    def evict(self) -> None:
        if not self._over:
            self._let_go()
            sockets.close(self._client)

    # -- in the reactor ---------------------------------------------------------------------

    def begin(self) -> None:
        """Hear what the client says, now or when it says it."""
        self._board.handshake_began(self)
        self._hear(READ)
        if not self._over:
            self._board.links.reactor.watch(self._client.fileno(), READ, self._hear)

    def _hear(self, _events: int) -> None:
        try:
            self._go_on()
        except BlockingIOError:
            pass
        except OSError:
            self.evict()  # it is gone
        except Exception as error:  # noqa: BLE001 - one client's bug must not end all the others
            self._board.report(session_failure(error))
            self.evict()

    def _go_on(self) -> None:
        while True:
            data = self._client.recv(PEEK_BYTES, socket.MSG_PEEK)
            if not data:
                self.evict()  # a port check: connected, and gone without a word
                return
            plain = self._board.encryption.offered is None
            if data not in _REQUESTS or not plain or self._requests == ENCRYPTION_REQUESTS_MAX:
                break
            self._requests += 1
            self._client.recv(len(data))
            self._client.send(pg.ENCRYPTION_REFUSED)
        if self._let_in(data) is None:
            self._let_go()
            self._board.links.reactor.hurry()
            self._start(Session(self._board, self._client).run)

    def _let_go(self) -> None:
        self._over = True
        self._board.links.reactor.watch(self._client.fileno(), 0, self._hear)
        self._board.handshake_ended(self)

    def _let_in(self, packet: bytes) -> Session | None:
        """Return the session if nothing had to be waited for; nothing was done if not."""
        board, client = self._board, self._client
        source = board.credentials
        if source is None or board.encryption.required or board.departing:
            return None
        try:
            first = pg.parse_first_packet_untrusted(packet)
        except PgWireError:
            return None
        if not isinstance(first, pg.Startup) or wants_console(first) or replicates(first):
            return None
        spoken = negotiate(first)
        asking = asking_of(first, client)
        if spoken.message or board.holding.holds(asking.database) or not source.trusts(asking):
            return None
        login = LogIn(session_parameters(first), spoken.minor, None)
        entry = Entry.of(
            login,
            asking.user,
            asking.database,
            movable=True,
            long_keys=spoken.minor >= MINOR_LONG_KEYS,
            forget=source.forget,
        )
        assert entry.pool_key is not None
        if not board.has_room:
            return None
        leg = board.legs.take(entry.pool_key)
        if leg is None:
            return None
        client.recv(len(packet))
        who = who_asks(first, asking, board.next_number(), trio.current_time())
        relay = Relay(board, client, entry)
        session = Session.inherited(board, client, who, login, relay)
        try:
            session.begin(leg, AUTHENTICATION_OK, self._start)
        except Exception:
            leg.close()
            raise
        # The reactor watches the client for the link by now, and was not told to forget it before.
        self._over = True
        board.handshake_ended(self)
        return session
