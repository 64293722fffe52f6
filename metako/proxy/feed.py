"""What an agent tells its workers, the newest of it; and what it knows of each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import trio

from metako.model.routing import RoutingTable
from metako.proxy.frames import Hello, Stats
from metako.proxy.limits import Tuning
from metako.proxy.loginframes import Welcome


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What the agent knows of one worker."""

    hello: Hello
    stats: Stats
    connected: bool  # False in the last report of a connection


class RoutingFeed:
    """The newest of what all workers are told. Nobody else changes its attributes."""

    def __init__(self) -> None:
        self.latest: RoutingTable | None = None  # None before the first
        self.welcome: Welcome | None = None  # None: questions about roles are not answered
        self.tuning: Tuning | None = None  # None: commands of consoles are not answered
        self.draining: frozenset[int] = frozenset()  # pids of workers that are to go
        self._changed = trio.Event()  # replaced at each change

    def publish(self, table: RoutingTable) -> None:
        """Replace the table; every connected worker is sent it at once."""
        self.latest = table
        self._announce()

    def greet(self, welcome: Welcome) -> None:
        """Replace the welcome; every worker that asks about roles is sent it at once."""
        self.welcome = welcome
        self._announce()

    def tune(self, tuning: Tuning) -> None:
        """Replace the share of each worker; each that has a console is sent it at once."""
        self.tuning = tuning
        self._announce()

    def drain(self, pids: Iterable[int]) -> None:
        """Ask these workers to take no new connections and to exit after their last one."""
        self.draining |= frozenset(pids)
        self._announce()

    async def wait_change(self) -> None:
        """Return after the next change."""
        await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
