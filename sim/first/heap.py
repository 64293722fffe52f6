"""The event heap: virtual time in nanoseconds, ties broken by the order of scheduling."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from metako.model.instant import Instant


class Heap:
    """Runs callbacks in the order of virtual time. `now` never goes back."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._sequence = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []

    def at(self, when_ns: int, action: Callable[[], None]) -> None:
        """Run `action` at `when_ns`, or now if that has passed."""
        self._sequence += 1
        heapq.heappush(self._events, (max(when_ns, self.now_ns), self._sequence, action))

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self.at(self.now_ns + delay_ns, action)

    def run_until(self, when_ns: int) -> None:
        """Run everything due up to and including `when_ns`."""
        while self._events and self._events[0][0] <= when_ns:
            at, _, action = heapq.heappop(self._events)
            self.now_ns = at
            action()
        self.now_ns = when_ns

    def instant(self) -> Instant:
        return Instant(self.now_ns, self.now_ns)
