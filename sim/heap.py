"""The event heap: virtual time in integer nanoseconds, ties broken by the order of scheduling.

In: callables with the time at which they are due. Out: their calls, in order. `now_ns` never goes
back. It knows nothing of nodes, clocks or what a call does.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
EVENTS_MAX = 2_000_000
"""Calls that may wait at one time: more is a leak in the simulator or a storm in the engine. The
world looks now and then."""

STILL_MAX = 100_000
"""Calls in a row at one moment: more is two rooms that keep waking each other up."""

Entry = list[Any]
"""`[when_ns, sequence, callable or None, arguments]`; a list so that it can be cancelled in place
and compared without a key function."""


class Heap:
    """Runs calls in the order of virtual time."""

    __slots__ = ("_entries", "_sequence", "_still", "executed", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        self._still = 0  # calls made without time going on
        self.executed = 0  # calls made so far
        self._sequence = 0
        self._entries: list[Entry] = []

    def at(self, when_ns: int, action: Callable[..., object], *args: object) -> Entry:
        """Call `action(*args)` at `when_ns`, or now if that has passed; return its entry."""
        self._sequence = sequence = self._sequence + 1
        now_ns, entries = self.now_ns, self._entries
        entry = [when_ns if when_ns > now_ns else now_ns, sequence, action, args]
        heappush(entries, entry)
        return entry

    def after(self, delay_ns: int, action: Callable[..., object], *args: object) -> Entry:
        """Call `action(*args)` after `delay_ns`; return its entry."""
        # As `at` does it, without a call: half of all entries are made here.
        self._sequence = sequence = self._sequence + 1
        now_ns, entries = self.now_ns, self._entries
        entry = [now_ns + delay_ns if delay_ns > 0 else now_ns, sequence, action, args]
        heappush(entries, entry)
        return entry

    @staticmethod
    def cancel(entry: Entry | None) -> None:
        """Let an entry never be called; one that was called, or None, does no harm."""
        if entry is not None:
            entry[2] = None

    def run_until(self, when_ns: int) -> None:
        """Make every call that is due up to and including `when_ns`."""
        # Everything that is counted is counted in locals: this loop is a tenth of a run.
        entries, now_ns, still, executed = self._entries, self.now_ns, self._still, 0
        try:
            while entries and entries[0][0] <= when_ns:
                at, _, action, args = heappop(entries)
                if action is None:
                    continue
                executed += 1
                if at != now_ns:
                    self.now_ns = now_ns = at
                    still = 0
                else:
                    still += 1
                    if still > STILL_MAX:
                        raise RuntimeError(f"time stands still at {at} ns, in {action}")
                action(*args)
        finally:
            self._still = still
            self.executed += executed
        self.now_ns = max(now_ns, when_ns)

    def __len__(self) -> int:
        return len(self._entries)
