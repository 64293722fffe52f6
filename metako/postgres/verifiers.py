"""Reads from the local server what roles may log in with, primary or standby.

In: names of roles, of strangers. Out: what is stored for them, or None: it cannot be told now, for
want of a server, of time, or of room.

One connection serves everybody: what is asked while a read is under way is read together by the
next one. A server that is full keeps few connections for superusers, and the steps of a failover
need them, so there is never a second one here, and none at all while nobody asks.

Invariants: every question is over within READ_TIMEOUT_S; at most WAITING_MAX names wait. Nothing
that is read is kept.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from metako.model.rolelogin import STORED_CHARS_MAX, RoleLogin
from metako.postgres import sql
from metako.postgres.rolelogin import BY_CATALOG, BY_FUNCTION, FunctionState, look_function

READ_TIMEOUT_S = 1.0
WAITING_MAX = 256  # names
BATCH_MAX = 64  # names in one statement
IDLE_S = 30.0  # an unused connection is closed after so long
LOOK_INTERVAL_S = 10.0  # between looks for the function, while it is not there
NAME_BYTES_MAX = 63  # a server knows no longer ones


@dataclass(slots=True, eq=False)
class _Reading:
    """A name that is asked for, by one or more."""

    done: trio.Event = field(default_factory=trio.Event)
    role: RoleLogin | None = field(default=None, repr=False)
    waiters: int = 0


class VerifierReader:
    """See the module's docstring."""

    def __init__(self, connect: Callable[[], Awaitable[sql.Session]]) -> None:
        """Take what opens a session of the superuser, or raises `SqlError`."""
        self._connect = connect
        self._running = False
        self._waiting: dict[str, _Reading] = {}  # in the order of their coming
        self._asked = trio.Event()  # replaced when it was seen
        self._session: sql.Session | None = None
        self._query = BY_CATALOG
        self._look_at = math.inf  # when to look for the function again

    async def read(self, user: str) -> RoleLogin | None:
        """Return what is stored for a role, or None if it cannot be told now. Never raises."""
        if not self._running or not _may_be_a_role(user):
            await trio.lowlevel.checkpoint()
            return None
        reading = self._waiting.get(user)
        if reading is None:
            if len(self._waiting) >= WAITING_MAX:
                await trio.lowlevel.checkpoint()
                return None
            reading = self._waiting[user] = _Reading()
            self._asked.set()
        reading.waiters += 1
        try:
            with trio.move_on_after(READ_TIMEOUT_S):
                await reading.done.wait()
        finally:
            reading.waiters -= 1
            if not reading.waiters and self._waiting.get(user) is reading:
                del self._waiting[user]
        return reading.role

    async def run(self) -> None:
        """Read what is asked for until cancelled; then the connection is closed."""
        async with sql.open_sql_loop():
            self._running = True
            try:
                while True:
                    with trio.move_on_after(IDLE_S) as idle:
                        await self._asked.wait()
                    if idle.cancelled_caught:
                        self._close()
                    self._asked = trio.Event()
                    while self._waiting:
                        await self._read_batch()
            finally:
                self._running = False
                self._close()
                self._end(self._waiting, {})
                self._waiting = {}

    async def _read_batch(self) -> None:
        batch = {name: self._waiting.pop(name) for name in self._next_names()}
        found: Mapping[str, RoleLogin] = {}
        try:
            with trio.move_on_after(READ_TIMEOUT_S):
                found = await self._ask(list(batch))
        except Exception:  # noqa: BLE001 - no name of a stranger may end the node
            self._close()
        finally:
            self._end(batch, found)

    def _next_names(self) -> Sequence[str]:
        names = list(self._waiting)
        if not names[0].isascii():
            # It may be one that the server's encoding does not have, and the statement fails.
            return names[:1]
        return [name for name in names if name.isascii()][:BATCH_MAX]

    def _end(self, readings: Mapping[str, _Reading], found: Mapping[str, RoleLogin]) -> None:
        for name, reading in readings.items():
            reading.role = found.get(name)
            reading.done.set()

    async def _ask(self, names: Sequence[str]) -> Mapping[str, RoleLogin]:
        """Return what the server says; nothing if it fails over a new connection as well."""
        while True:
            was_kept = self._session is not None
            try:
                session = await self._ready_session()
                rows = await session.rows(self._query, names, timeout_s=READ_TIMEOUT_S)
                return {str(name): _role(found, stored) for name, found, stored in rows}
            except sql.SqlError:
                self._close()
                if not was_kept:  # not one whose server has ended meanwhile
                    return {}

    async def _ready_session(self) -> sql.Session:
        session = self._session
        if session is None or session.closed:
            self._close()
            session = self._session = await self._connect()
            self._look_at = -math.inf
        if trio.current_time() >= self._look_at:
            ours = await look_function(session) is FunctionState.OURS
            self._query = BY_FUNCTION if ours else BY_CATALOG
            self._look_at = math.inf if ours else trio.current_time() + LOOK_INTERVAL_S
        return session

    def _close(self) -> None:
        if self._session is not None:
            self._session.terminate()
        self._session = None


def _may_be_a_role(user: str) -> bool:
    try:
        return "\0" not in user and 1 <= len(user.encode()) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def _role(found: object, stored: object) -> RoleLogin:
    text = stored if isinstance(stored, str) and len(stored) <= STORED_CHARS_MAX else None
    return RoleLogin(found is True, text)
