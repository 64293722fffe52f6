"""What a guard does that no agent is connected to: stop its server after a while, then exit.

Input: when the agent went, and what there is to watch. Output: the moment at which something is
due, and what. An armed guard waits for its deadline first, as always.

Pure: knows neither clock nor processes. All times are of the monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

NS_PER_S = 1_000_000_000
IDLE_EXIT_S = 5.0
"""How long a guard with nothing to watch waits for an agent."""
FAST_STOP_S = 30.0
"""What a fast shutdown may take when no agent is there to decide; then it is ended."""


class Due(enum.Enum):
    """What an orphaned guard is to do."""

    EXIT = enum.auto()
    STOP = enum.auto()  # the server, in good order
    END = enum.auto()  # the server, whatever it takes


@dataclass(slots=True)
class Orphan:
    """Of one guard."""

    timeout_s: float  # how long a server without lease runs on
    since_ns: int | None  # when the agent went; None while one is connected
    fenced: bool = False  # the deadline passed meanwhile
    stopped_ns: int | None = None  # when the server was asked to stop

    def adopted(self) -> None:
        """Take note that an agent is connected."""
        self.since_ns = self.stopped_ns = None
        self.fenced = False

    def wakeup_ns(self, *, armed: bool, gone: bool, ending: bool) -> int | None:
        """Return when something is due; None if nothing is as things stand.

        Args:
            armed: a term is armed.
            gone: there is no server.
            ending: the server gets SIGKILL anyway.
        """
        if self.since_ns is None or (armed and not gone):
            return None
        if gone:
            # Who fenced alone is waited for longer: its agent may be about to be restarted.
            exit_s = self.timeout_s if self.fenced else min(self.timeout_s, IDLE_EXIT_S)
            return self.since_ns + round(exit_s * NS_PER_S)
        if self.stopped_ns is None:
            return self.since_ns + round(self.timeout_s * NS_PER_S)
        return None if ending else self.stopped_ns + round(FAST_STOP_S * NS_PER_S)

    def due(self, now_ns: int, *, armed: bool, gone: bool, ending: bool) -> Due | None:
        """Return what is to be done now, and take it for done."""
        wakeup_ns = self.wakeup_ns(armed=armed, gone=gone, ending=ending)
        if wakeup_ns is None or now_ns < wakeup_ns:
            return None
        if gone:
            return Due.EXIT
        if self.stopped_ns is None:
            self.stopped_ns = now_ns
            return Due.STOP
        return Due.END
