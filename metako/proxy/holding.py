"""Whose transactions may not begin now, and who waits for that to be over.

While a primary hands over, its server is about to be shut down, and that cuts off whatever is in
the middle of a transaction. So from the moment when a switchover is known no client begins another
one: those that run have the time until the shutdown to end, and what comes meanwhile goes on at
the next primary. An administrator can ask for the same with PAUSE.

In: the tables' word that a switchover is under way, an administrator's commands. Out: whether a
database is held, and the wait for its release.

Invariant: for a switchover nobody is held for longer than `SWITCHOVER_HOLD_S`, and once for each:
one whose target still has to catch up takes its time, and stands in nobody's way meanwhile.

Deliberately unknown here: sessions, and how they are held.
"""

from __future__ import annotations

import math

import trio

SWITCHOVER_HOLD_S = 2.0


class Holding:
    """See the module's docstring. All methods but the `wait` ones are synchronous."""

    def __init__(self) -> None:
        self._order = ""  # of the switchover that was held for last
        self._until = -math.inf  # when that hold ends, by trio's clock
        self._everybody = False  # paused
        self._databases: set[str] = set()  # paused
        self._changed = trio.Event()  # replaced whenever it is set

    @property
    def active(self) -> bool:
        """Whether anybody is held."""
        return self._everybody or bool(self._databases) or trio.current_time() < self._until

    def holds(self, database: str) -> bool:
        """Return whether nobody may begin a transaction in a database."""
        if self._everybody or database in self._databases:
            return True
        return trio.current_time() < self._until

    def paused(self) -> tuple[str, ...]:
        """Return the databases that are paused, "*" for all."""
        return ("*",) if self._everybody else tuple(sorted(self._databases))

    def begin(self, order: str) -> bool:
        """Hold everybody for a switchover; False if that was done for this one already."""
        if order == self._order:
            return False
        self._order, self._until = order, trio.current_time() + SWITCHOVER_HOLD_S
        self._tell()
        return True

    def end(self) -> None:
        """Release those who are held for a switchover."""
        if self._until > trio.current_time():
            self._until = -math.inf
            self._tell()

    def pause(self, database: str | None) -> None:
        """Hold a database, or all, until `resume`."""
        if database is None:
            self._everybody = True
        else:
            self._databases.add(database)
        self._tell()

    def resume(self, database: str | None) -> bool:
        """Release a database, or all; False if it was not paused by itself."""
        if database is None:
            found = self._everybody or bool(self._databases)
            self._everybody = False
            self._databases.clear()
        else:
            found = database in self._databases
            self._databases.discard(database)
        self._tell()
        return found

    async def wait(self, database: str) -> None:
        """Return once a database is not held. The caller sets the deadline."""
        while self.holds(database):
            await self._wait_change()

    async def _wait_change(self) -> None:
        until = self._until if self._until > trio.current_time() else math.inf
        with trio.move_on_at(until):
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
