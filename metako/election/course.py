"""How long the parts of an election take, as the node that wins it sees them. For people.

In: moments. Out: durations, for the document. Nothing is decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from metako.model.instant import NS_PER_MS, Instant
from metako.model.timeline import Took


@dataclass(slots=True)
class Course:
    """The moments of the newest election that this node took part in (CLOCK_MONOTONIC, ns)."""

    cause: str = ""  # why there was one, as far as this node knows
    silent_ns: int = 0  # for so long the leader had not been heard when nobody led any more
    lost_ns: int = 0  # when that was; 0 before the first
    stood_ns: int = 0  # in the candidacy that was won
    won_ns: int = 0
    committed_ns: int = 0  # the first document of the term; 0 while it is not
    promoted_ns: int = 0

    def nobody_leads(self, now: Instant, cause: str, silent_ns: int = 0) -> None:
        """Begin anew: the last leader was not heard for a whole hold, or gave its lease up."""
        self.cause, self.silent_ns, self.lost_ns = cause, silent_ns, now.mono_ns
        self.stood_ns = self.won_ns = self.committed_ns = self.promoted_ns = 0

    def stands(self, now: Instant) -> None:
        self.stood_ns = now.mono_ns

    def won(self, now: Instant) -> None:
        self.won_ns, self.committed_ns, self.promoted_ns = now.mono_ns, 0, 0

    def committed(self, now: Instant) -> None:
        self.committed_ns = self.committed_ns or now.mono_ns

    def promoted(self, now: Instant) -> None:
        self.promoted_ns = self.promoted_ns or now.mono_ns

    def took(self, now: Instant) -> Took | None:
        """Return what it took until commits returned, which is now; None if it is not known."""
        moments = (
            *(self.lost_ns, self.stood_ns, self.won_ns, self.committed_ns, self.promoted_ns),
            now.mono_ns,
        )
        if not all(moments) or list(moments) != sorted(moments):
            return None  # the agent was restarted amid it, say
        parts = (later - before for before, later in pairwise(moments))
        return Took(*(part // NS_PER_MS for part in (self.silent_ns, *parts)))
