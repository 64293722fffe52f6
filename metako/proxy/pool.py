"""Connections to servers that nobody uses now, and who may have one next.

    acquire ──▶ a leg that was used before ─┐
            ──▶ a place, to open a leg ─────┼──▶ used ──give_back──▶ idle ──▶ the next
            ──▶ wait, first come first served                 └──give_up──▶ its place is free

A *leg* is a connection to a server on which a role has logged in. A *place* is the right to have
one more. Legs are kept by `Key`: whoever gets a used one finds it as if it had just logged in with
the same user, database and startup parameters, so only a client who has proved to be that user may
ask for it.

Limits count legs and places together, per server, user, database and key. Whoever is not within
them waits. A leg that comes back goes to the first who waits for its key; a place that becomes free
to the first, of whatever key, whose limits allow it. So nobody is overtaken by one who wants the
same. Where idle legs of other keys are all that is in the way, the oldest of them are closed.

In: keys, legs, the time. Out: legs, places, and calls of `Pooled.close` for what is not kept.

Invariant: an idle leg belongs to the newest route; `receive_route` closes all others before it
returns. A leg is lent to one at a time.

Deliberately unknown here: how a leg is opened and what passes over it, clients, and sockets.

Source: what the timeouts mean is PgBouncer's documentation (server_idle_timeout, server_lifetime).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from metako.proxy.limits import Limits
from metako.proxy.routes import Route

WAITING_MAX = 100_000  # far beyond the clients that a worker admits; a bound all the same


@dataclass(frozen=True, slots=True)
class Key:
    """Whose legs are alike."""

    user: str
    database: str
    parameters: tuple[tuple[str, str], ...]  # of the startup packet, sorted


_Scope = Key | tuple[str, str]  # what a limit is for: a key, a user, a database, the server
_SERVER: _Scope = ("server", "")


def _scopes(key: Key) -> tuple[_Scope, ...]:
    """Return all that a leg of this key counts for."""
    return key, ("user", key.user), ("database", key.database), _SERVER


class Pooled(Protocol):
    """What the pool needs of a leg. Who notices the end of an idle one calls `Pool.lost`."""

    @property
    def route(self) -> Route:
        """The server that it leads to, and the term in which that was the primary."""

    @property
    def opened_ns(self) -> int:
        """When it was opened, by the pool's clock."""

    def close(self) -> None:
        """Close the connection at once; nothing is sent through it any more but a goodbye."""


@dataclass(frozen=True, slots=True)
class Place:
    """The right to open a leg, until it is given up or the leg comes back."""

    key: Key


class QueueFullError(Exception):
    """More wait already than may. Nothing changed."""


@dataclass(slots=True, eq=False)
class _Waiter:
    key: Key
    number: int  # of arrival
    event: trio.Event = field(default_factory=trio.Event)
    got: Pooled | Place | None = None  # None while it waits


@dataclass(slots=True)
class _Idle:
    leg: Pooled
    since_ns: int


class Pool:
    """See the module's docstring. All but `acquire` is synchronous. Legs compare by identity."""

    def __init__(self, limits: Limits, clock: Callable[[], int]) -> None:
        self.limits = limits
        self._clock = clock
        self._route: Route | None = None  # None while no server may be used
        # Of each key, the one that came back last at the end: it is lent first, so that those
        # which are too many grow old.
        self._idle: dict[Key, deque[_Idle]] = {}
        self._waiting: OrderedDict[Key, deque[_Waiter]] = OrderedDict()
        self._arrivals = 0
        self._counts: Counter[_Scope] = Counter()  # legs, idle ones included, and places

    # -- for who wants a leg ----------------------------------------------------------------

    def take(self, key: Key) -> Pooled | None:
        """Return an idle leg, None if there is none or others wait for one."""
        return None if key in self._waiting else self._pop(key)

    async def acquire(self, key: Key) -> Pooled | Place:
        """Return a leg that is as good as new, or the place for one. The caller sets the deadline.

        A leg has to be given back, or given up; so has a place. If cancelled, nothing was taken.

        Raises:
            QueueFullError: too many wait.
        """
        got = None if self._waiting.get(key) else self._take(key)
        if got is not None:
            return got
        if self.waiting >= WAITING_MAX:
            raise QueueFullError
        self._arrivals += 1
        waiter = _Waiter(key, self._arrivals)
        self._waiting.setdefault(key, deque()).append(waiter)
        try:
            await waiter.event.wait()
        except trio.Cancelled:
            self._leave(waiter)
            raise
        assert waiter.got is not None
        return waiter.got

    def give_back(self, key: Key, leg: Pooled) -> None:
        """Take a leg that is as good as new back for the next, or close it if it is not kept."""
        now_ns = self._clock()
        if leg.route != self._route or self._is_old(leg, now_ns) or self._exceeds(key):
            self.give_up(key)
            leg.close()
            return
        waiters = self._waiting.get(key)
        if waiters:
            self._hand(waiters[0], leg)
            return
        self._idle.setdefault(key, deque()).append(_Idle(leg, now_ns))
        self._serve()  # it may be closed for somebody who wants another key

    def give_up(self, key: Key) -> None:
        """Note that a leg which was lent, or a place, is no more."""
        self._count(key, -1)
        self._serve()

    def lost(self, key: Key, leg: Pooled) -> bool:
        """Forget an idle leg that has noticed its own end; False if it is not idle here."""
        row = self._idle.get(key, deque())
        for idle in row:
            if idle.leg is leg:
                self._discard(key, idle)
                self._serve()
                return True
        return False

    def adopt(self, key: Key) -> None:
        """Count a leg that another process has opened, as one that was lent, whatever the limits.

        What is too much goes when it comes back.
        """
        self._count(key, 1)

    # -- for the board ----------------------------------------------------------------------

    def receive_route(self, route: Route | None) -> None:
        """Lend legs to this server only, from now on. Idle ones that lead elsewhere are closed."""
        if route == self._route:
            return
        self._route = route
        for key, row in list(self._idle.items()):
            for idle in list(row):
                if idle.leg.route != route:
                    self._discard(key, idle)
        self._serve()

    def set_limits(self, limits: Limits) -> None:
        """Go by other limits; what exceeds them goes when it comes back."""
        self.limits = limits
        self._serve()

    def close_old(self) -> int:
        """Close what has been idle or alive for too long; return how many were."""
        now_ns = self._clock()
        count = 0
        for key, row in list(self._idle.items()):
            for idle in list(row):
                unused = self.limits.idle_ns and now_ns - idle.since_ns >= self.limits.idle_ns
                if unused or self._is_old(idle.leg, now_ns) or self._exceeds(key):
                    self._discard(key, idle)
                    count += 1
        if count:
            self._serve()
        return count

    def close_idle(self) -> int:
        """Close all idle legs; return how many there were."""
        rows = [(key, idle) for key, row in self._idle.items() for idle in row]
        for key, idle in rows:
            self._discard(key, idle)
        self._serve()
        return len(rows)

    # -- to look at -------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def idle(self) -> int:
        return sum(map(len, self._idle.values()))

    @property
    def total(self) -> int:
        """Legs, idle ones included, and places."""
        return self._counts[_SERVER]

    def rows(self) -> list[tuple[Key, int, int, int]]:
        """Return, for every key: how many legs and places are lent, are idle, are waited for."""
        taken = (scope for scope in self._counts if isinstance(scope, Key))
        return [
            (
                key,
                self._counts[key] - len(self._idle.get(key, ())),
                len(self._idle.get(key, ())),
                len(self._waiting.get(key, ())),
            )
            for key in dict.fromkeys((*taken, *self._waiting))
        ]

    # -- inside -----------------------------------------------------------------------------

    def _pop(self, key: Key) -> Pooled | None:
        """Return the leg that was idle for the shortest time, None if none is."""
        row = self._idle.get(key)
        if not row:
            return None
        idle = row.pop()
        if not row:
            del self._idle[key]
        return idle.leg

    def _take(self, key: Key) -> Pooled | Place | None:
        """Return what can be had at once, None if nothing can."""
        leg = self._pop(key)
        if leg is not None:
            return leg
        if self._route is None or not self._make_room(key):
            return None
        self._count(key, 1)
        return Place(key)

    def _make_room(self, key: Key) -> bool:
        """Return whether the limits allow one more, closing idle legs if that is all it takes."""
        limited = self._limited(key)
        full = [(scope, limit) for scope, limit in limited if self._counts[scope] >= limit]
        if any(self._oldest(scope) is None for scope, _ in full):
            return False
        for scope, limit in full:
            while self._counts[scope] >= limit and (found := self._oldest(scope)) is not None:
                self._discard(*found)
        return all(self._counts[scope] < limit for scope, limit in limited)

    def _limited(self, key: Key) -> list[tuple[_Scope, int]]:
        """Return what a leg of this key counts for and is limited in."""
        limits = self.limits
        of_each = (limits.key, limits.user, limits.database, limits.server)
        return [row for row in zip(_scopes(key), of_each, strict=True) if row[1]]

    def _oldest(self, scope: _Scope) -> tuple[Key, _Idle] | None:
        """Return the leg that has been idle for longest, of those that count for the scope."""
        rows = ((key, row[0]) for key, row in self._idle.items() if scope in _scopes(key))
        return min(rows, key=lambda found: found[1].since_ns, default=None)

    def _discard(self, key: Key, idle: _Idle) -> None:
        row = self._idle[key]
        row.remove(idle)
        if not row:
            del self._idle[key]
        self._count(key, -1)
        idle.leg.close()

    def _is_old(self, leg: Pooled, now_ns: int) -> bool:
        return bool(self.limits.life_ns) and now_ns - leg.opened_ns >= self.limits.life_ns

    def _exceeds(self, key: Key) -> bool:
        return any(self._counts[scope] > limit for scope, limit in self._limited(key))

    def _serve(self) -> None:
        """Give what is there to those who wait, the first first."""
        while self._waiting:
            # The heads of all keys, since those behind them want the same.
            heads = sorted((row[0] for row in self._waiting.values()), key=lambda w: w.number)
            for waiter in heads:
                got = self._take(waiter.key)
                if got is not None:
                    self._hand(waiter, got)
                    break
            else:
                return

    def _hand(self, waiter: _Waiter, got: Pooled | Place) -> None:
        self._remove(waiter)
        waiter.got = got
        waiter.event.set()

    def _leave(self, waiter: _Waiter) -> None:
        """Let one go who does not want to wait any more."""
        if waiter.got is None:
            self._remove(waiter)
        elif isinstance(waiter.got, Place):
            self.give_up(waiter.key)  # it was handed over in the very same moment
        else:
            self.give_back(waiter.key, waiter.got)

    def _remove(self, waiter: _Waiter) -> None:
        row = self._waiting[waiter.key]
        row.remove(waiter)
        if not row:
            del self._waiting[waiter.key]

    def _count(self, key: Key, change: int) -> None:
        for scope in _scopes(key):
            self._counts[scope] += change
            assert self._counts[scope] >= 0, scope
            if not self._counts[scope]:
                del self._counts[scope]
