"""Connections of our own to servers: opening one, and what an open one is.

    route known ── Dial: connect, converse ──► Leg ── closed by its owner, or cut by the board
                          pool ── as new ──────┘ └── as new again ──► pool

A *leg* is one connection to one server, on which somebody is logged in or is about to be. How the
first words go is the business of an `Opening`: a login of our own (`serverlogin`), or a startup
packet that is passed on (`passing`).

In: the board's routes, an opening, and how long to try. Out: a leg, the server's refusal for the
client, or why no server could be had in time. What may pass by itself (a server that starts, stops
or is full; a connection that breaks) is tried again with the newest route; another route ends the
pause between two attempts.

Invariant: whatever has a socket to a server is known to the board, from before the socket is
connected until it is closed, so that `Board.receive_table` can close it. A leg takes the place of
its dial without a checkpoint in between, and only while its route is the one to take.

A leg on which we have logged in ourselves counts within the limits of the pool for as long as it is
open, and is given back to it by an owner who leaves it as it was after the login.

Deliberately unknown here: clients, and how a leg is made as good as new.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from metako.pgwire import startup as pg
from metako.pgwire.login_client import Refusal, ServerReady
from metako.pgwire.messages import BackendKey
from metako.pgwire.startup import TERMINATE, PgWireError, SqlState
from metako.proxy import sockets
from metako.proxy.encryption import ServerTlsError
from metako.proxy.limits import Limits
from metako.proxy.pool import Key, Place, Pool, Pooled, QueueFullError
from metako.proxy.reactor import READ
from metako.proxy.routes import Route
from metako.proxy.transport import held, speaks

if TYPE_CHECKING:
    from metako.proxy.board import Board

CONNECT_TIMEOUT_S = 2.0
SWEEP_INTERVAL_S = 1.0
RETRY_PAUSE_MIN_S = 0.05
RETRY_PAUSE_MAX_S = 0.5

_CHANGED = "the primary changed or its table expired while connecting"


@dataclass(frozen=True, slots=True)
class Failure:
    """There is no leg, but there may be one later."""

    reason: str
    error: bytes = b""  # what the server said, if the client is to be told just that at last
    in_clear: bool = False  # the next attempt is not to be encrypted, if that may be


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no leg, and trying again would not help."""

    error: bytes  # the server's last word, for the client
    message: str  # the sentence in it
    reason: Refusal


@dataclass(frozen=True, slots=True)
class Opened:
    """What the first words on a connection came to."""

    said: bytes  # by the server, and not looked at yet
    ready: ServerReady | None = None  # None if the login is the client's own business

    @property
    def key(self) -> BackendKey | None:
        """What cancels the session's statements; None if the server told nothing, or not us."""
        ready = self.ready
        if ready is None or not ready.secret_key:
            return None
        return BackendKey(ready.process_id, ready.secret_key)


class Opening(Protocol):
    """The first words on a new connection."""

    async def converse(self, server: sockets.Connection, where: str) -> Opened | Refused | Failure:
        """Say and hear them. Sets its own deadlines; closes nothing. Raises `sockets.BROKEN`,
        `PgWireError` and `trio.TooSlowError`. If cancelled, the connection is of no use.

        Args:
            where: names the server in what a person reads.
        """


@dataclass(eq=False, slots=True)
class Leg:
    """An open connection. Its socket is closed by `close`, `abort` and `cut` alone."""

    board: Board = field(repr=False)
    sock: sockets.Connection = field(repr=False)
    route: Route
    # None while it is used.
    opened: Opened | None = field(repr=False)
    # Cancels what is done here; None if not known.
    cancel_key: BackendKey | None = field(repr=False)
    pool_key: Key | None = None  # whose legs are like it; None: it is for nobody else
    opened_ns: int = 0  # by the board's clock
    # Called by `cut`, while the socket is still open: whoever uses it has to let go of it.
    on_cut: Callable[[], None] | None = None
    closed: bool = False
    parked: bool = False  # in the pool, where the reactor watches it

    def take_opened(self) -> Opened:
        """Return what was said at the begin, and forget it: legs are many, and live long."""
        assert self.opened is not None, "a leg is joined for the first time once"
        opened, self.opened = self.opened, None
        return opened

    def cut(self) -> None:
        """Close, because the route is deposed: nothing that is on its way to the server leaves."""
        try:
            if self.on_cut is not None:
                self.on_cut()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close with a reset; see `sockets.abort`. Harmless if closed."""
        if self._leave():
            sockets.abort(self.sock)

    def close(self, *, goodbye: bool = False) -> None:
        """Close; what was sent before still arrives, and Terminate behind it if `goodbye`."""
        if self._leave():
            if goodbye:
                with contextlib.suppress(OSError):
                    self.sock.send(TERMINATE)
            sockets.close(self.sock)

    def park(self, settings: Mapping[str, str]) -> None:
        """Give the leg back to the pool, as good as new; it is closed if it is not kept.

        It is not given back, and not closed, if the server has said something by now.

        A server that says anything on a parked leg makes it useless: mostly it says that it ends.

        Args:
            settings: as the server has reported them last.
        """
        assert self.pool_key is not None
        if held(self.sock):
            return
        self.opened = Opened(b"", ServerReady(dict(settings), 0, b"", 0, ()))
        self.parked, self.on_cut = True, self._wither
        self.board.links.reactor.watch(self.sock.fileno(), READ, self._hear)
        self.board.legs.pool.give_back(self.pool_key, self)

    def unpark(self, *, watched: bool = False) -> None:
        """Take the leg that the pool has lent; `watched` by somebody else at once, or by nobody."""
        if not watched:
            self.board.links.reactor.watch(self.sock.fileno(), 0, self._hear)
        self.parked, self.on_cut = False, None

    def _hear(self, _events: int) -> None:
        if speaks(self.sock):
            self._wither()

    def _wither(self) -> None:
        """Leave the pool, which closes this leg."""
        if self.pool_key is not None:
            self.board.legs.pool.lost(self.pool_key, self)

    def _leave(self) -> bool:
        first, self.closed, self.on_cut = not self.closed, True, None
        self.board.links.reactor.forget(self.sock.fileno())
        self.board.release(self)
        if self.parked:
            self.unpark()  # the pool itself counts those that it has
        elif first and self.pool_key is not None:
            self.board.legs.pool.give_up(self.pool_key)
        return first


class _Dial:
    """One attempt to reach one server."""

    def __init__(self, board: Board, route: Route, *, in_clear: bool) -> None:
        self.route = route
        self._board = board
        self._in_clear = in_clear
        self._scope = trio.CancelScope()
        self._sock: sockets.Connection | None = None  # None before it is connected and after a cut

    def cut(self) -> None:
        self._close()
        self._scope.cancel()

    async def run(self, opening: Opening) -> Leg | Refused | Failure:
        """Return what came of it. If cancelled, or without a leg, nothing is left open."""
        found: Opened | Refused | Failure = Failure(_CHANGED)
        board = self._board
        board.hold(self)
        try:
            with self._scope:
                async with board.connecting:
                    with board.links.reactor.attentive():
                        found = await self._connect_and_converse(opening)
            if isinstance(found, Failure):
                return found
            # From here to the leg nothing waits.
            if self._sock is None or board.current() != self.route:
                return Failure(_CHANGED)
            if isinstance(found, Refused):
                return found
            leg = Leg(board, self._sock, self.route, found, found.key)
            board.hold(leg)
            self._sock = None
            return leg
        finally:
            board.release(self)
            self._close()

    async def _connect_and_converse(self, opening: Opening) -> Opened | Refused | Failure:
        address = self.route.address
        where = f"{self.route.node} at {address}"
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                self._sock = sock = await sockets.connect(address)
        except trio.TooSlowError:
            return Failure(f"{where} did not accept the connection in {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            return Failure(f"{where}: {error.strerror or error}")
        if self._board.current() != self.route:
            return Failure(_CHANGED)
        try:
            towards = self._board.encryption.towards
            self._sock = server = await towards(sock, self.route, in_clear=self._in_clear)
            return await opening.converse(server, where)
        except (PgWireError, ServerTlsError) as error:
            return Failure(f"{where}: {error}")
        except sockets.BROKEN as error:
            return Failure(f"{where} closed the connection: {error}")

    def _close(self) -> None:
        if self._sock is not None:
            sockets.abort(self._sock)
            self._sock = None


class Legs:
    """Finds legs to the primary: used ones in the pool, or new ones."""

    def __init__(self, board: Board, limits: Limits, clock: Callable[[], int]) -> None:
        self.pool = Pool(limits, clock)
        # What closes a leg with which something is done in the reactor, and when it is to be.
        self.unfinished: dict[Callable[[], None], float] = {}
        self._board = board
        self._clock = clock

    @property
    def discards_always(self) -> bool:
        """Whether everything is discarded between two users of a leg, seen or not."""
        return not self.pool.limits.lenient

    def take(self, key: Key) -> Leg | None:
        """Return a used leg if there is one at once, for a link that takes it at once."""
        got = self.pool.take(key)
        return None if got is None else self._lent(got, watched=True)

    async def open(
        self, opening: Opening, key: Key | None, patience: trio.CancelScope, *, fresh: bool = False
    ) -> Leg | Refused | Failure:
        """Return a leg, of those that try the newest route, or why there is none.

        Tried for as long as `patience` lasts. If cancelled, nothing is left open.

        Args:
            opening: for when there is no used leg.
            key: who may use whose legs; None: the leg is for nobody else, and not counted.
            fresh: it has to be a new one, opened by `opening`.
            patience: entered here. Its deadline may be moved meanwhile; as long as it is infinite
                nobody waits for the leg, so it is not worth a word that there is none.
        """
        failure = Failure("no primary is known")
        in_clear = False
        pause_s = RETRY_PAUSE_MIN_S
        board = self._board
        with patience:
            while True:
                route = board.current()
                if route is None:
                    if board.refuses() and patience.deadline != math.inf:
                        return Failure("the agent of this node is gone")
                    await board.wait_change()
                    continue
                place: Place | None = None
                if key is not None:
                    before, failure = failure, _no_place(key, failure)
                    got = await self._acquire(key, fresh=fresh)
                    failure = before
                    if isinstance(got, Leg):
                        return got
                    if got is None:
                        continue
                    place = got
                found = await self._dial(place, opening, in_clear=in_clear)
                if not isinstance(found, Failure):
                    return found
                failure, in_clear = found, in_clear or found.in_clear
                # Another route ends the pause: it deserves a prompt first try.
                with trio.move_on_after(pause_s) as pause:
                    await board.wait_change()
                again_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)
                pause_s = again_s if pause.cancelled_caught else RETRY_PAUSE_MIN_S
        return failure

    async def _acquire(self, key: Key, *, fresh: bool) -> Leg | Place | None:
        """Return a used leg, or a place for a new one; None: it has to be tried again."""
        try:
            got = await self.pool.acquire(key)
        except QueueFullError:
            await trio.sleep(RETRY_PAUSE_MAX_S)
            return None
        if isinstance(got, Place):
            return got
        assert isinstance(got, Leg)
        if not fresh:
            return self._lent(got)
        got.unpark()
        got.pool_key = None  # its place is taken over
        got.close(goodbye=True)
        return Place(key)

    def _lent(self, got: Pooled, *, watched: bool = False) -> Leg | None:
        """Return a leg from the pool, None if its route is not the one to take any more."""
        assert isinstance(got, Leg)
        if got.route != self._board.current():
            got.unpark()
            got.abort()
            return None
        got.unpark(watched=watched)
        return got

    async def _dial(
        self, place: Place | None, opening: Opening, *, in_clear: bool
    ) -> Leg | Refused | Failure:
        """Return a new leg in this place, which is given up if there is none."""
        leg: Leg | Refused | Failure = Failure(_CHANGED)
        try:
            # Not the route from before the place was waited for.
            route = self._board.current()
            if route is not None:
                leg = await _Dial(self._board, route, in_clear=in_clear).run(opening)
        finally:
            if place is not None:
                if isinstance(leg, Leg):
                    leg.pool_key, leg.opened_ns = place.key, self._clock()
                else:
                    self.pool.give_up(place.key)
        return leg

    async def run(self) -> None:
        """Close legs that are too old, until cancelled; then all that nobody uses."""
        try:
            while True:
                await trio.sleep(SWEEP_INTERVAL_S)
                self.pool.close_old()
                self._give_up(trio.current_time())
        finally:
            self._give_up(math.inf)
            self.pool.close_idle()

    def _give_up(self, now: float) -> None:
        for give_up, deadline in list(self.unfinished.items()):
            if deadline <= now:
                give_up()


def _no_place(key: Key, failure: Failure) -> Failure:
    """Return what is said if nobody gets a place in time, unless there is something better."""
    if failure.error:
        return failure
    reason = f'none is free for user "{key.user}", database "{key.database}"'
    error = pg.error_response(
        SqlState.TOO_MANY_CONNECTIONS,
        "too many connections: none to the server came free in time",
        detail=reason,
        hint="See `proxy.pool` in the configuration, and SHOW POOLS.",
    )
    return Failure(reason, error)
