"""How long a leader bears with its own server: one that is not promoted, one that does not answer.

In: pictures of the server, time. Out: why the server is to be ended. Ending it is like a crash: the
lease is released once it is verified gone, and whoever has the data takes over at once.

A server that answers nothing, frozen or stuck, still has its standbys and its clients wait; nothing
ends that but its own node, for a majority hears the agent and holds for it. A refusal is an answer:
one that is full, or read-only, is not ended for it. Knows nothing of leases, documents or standbys.
"""

from __future__ import annotations

from metako.election.settings import ElectionSettings
from metako.model.instant import Instant, milliseconds
from metako.model.postgres import PostgresObserved, ProcessState

PROMOTE_TIMEOUT_MS = 20_000
"""A server that is not the primary by then is stopped and the lease released."""
NEVER_NS = 2**63 - 1


class Patience:
    """Of one leadership."""

    def __init__(self, settings: ElectionSettings, now: Instant) -> None:
        self._hang_ns = milliseconds(settings.hang_timeout_ms)
        self._promoted_by_ns = now.mono_ns + milliseconds(PROMOTE_TIMEOUT_MS)
        self._silent_since_ns: int | None = None  # CLOCK_MONOTONIC; None while it answers
        self._ran_before = False  # it was a primary already when this agent began

    def adopt(self, other: Patience) -> None:
        """Go on with what an earlier leadership of the same server has seen."""
        self._silent_since_ns = other._silent_since_ns

    def resumed(self) -> None:
        """Take note that the server was a primary before this agent looked at it."""
        self._ran_before = True

    def looked(self, now: Instant, observed: PostgresObserved) -> None:
        """Take a picture of the server."""
        # To an agent that never had an answer, one that is frozen looks like one that starts.
        starts = observed.process is ProcessState.STARTING and self._ran_before
        if not observed.silent and not starts:
            self._silent_since_ns = None
        elif self._silent_since_ns is None:
            self._silent_since_ns = now.mono_ns

    def wakeup(self) -> int:
        """Return when it ends if no picture comes (CLOCK_MONOTONIC, nanoseconds)."""
        if self._silent_since_ns is None:
            return NEVER_NS
        return self._silent_since_ns + self._hang_ns

    def lost(self, now: Instant, *, promoting: bool) -> str:
        """Return why the server is to be ended; "" while it is not.

        Args:
            promoting: it was told to become the primary, and is none yet.
        """
        if promoting and now.mono_ns > self._promoted_by_ns:
            return "promotion did not finish in time"
        if now.mono_ns >= self.wakeup():
            return "PostgreSQL does not answer"
        return ""
