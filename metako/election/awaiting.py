"""Letting whoever a release names go first: the others stand later, and the old server stays down.

A server that has just ended would have to be stopped again to follow, and its recovery would take
from the heir what the machine has to give; its position is found all the same. So it is left
stopped for the heir's head start, and, if somebody does stand then, until a candidacy would have
been given up. That is an end in any case: an heir that cannot win may need just this server.

Once it is invited to follow it stays down a little longer, if the others are enough for the new
primary's first commits. They may have trouble that nobody knows of, so that is not for long.
"""

from __future__ import annotations

from dataclasses import dataclass

from metako.election.settings import ElectionSettings
from metako.model.ids import NodeId
from metako.model.instant import Instant, milliseconds

HEIR_STAGGERS = 2
"""Whoever is not named as successor in a release stands so many staggers later."""
INVITED_MS = 300
"""From the invitation to the primary's first commits, if nothing is wrong."""


def head_start_ms(settings: ElectionSettings, successor: NodeId | None) -> int:
    """Return how much later than the successor everybody else stands; 0 if there is none."""
    return HEIR_STAGGERS * settings.stagger_ms if successor is not None else 0


@dataclass(slots=True)
class Awaited:
    """The heir of this node, while its own server stays down for it."""

    until_ns: int = 0  # CLOCK_MONOTONIC; 0: nobody is awaited
    latest_ns: int = 0  # to which it is prolonged, once
    is_invited: bool = False  # to follow: it is not prolonged any more

    def begin(self, now: Instant, settings: ElectionSettings, heir: NodeId) -> None:
        """Wait for an heir that was just named."""
        self.until_ns = now.mono_ns + milliseconds(head_start_ms(settings, heir))
        self.latest_ns = self.until_ns + milliseconds(settings.candidacy_timeout_ms)
        self.is_invited = False

    def stands(self, now: Instant) -> None:
        """Wait for longer: somebody has this node's vote, or leads already."""
        if self.active(now) and not self.is_invited:
            self.until_ns = self.latest_ns

    def invited(self, now: Instant) -> None:
        """Wait for little longer: whoever leads has let this node follow."""
        if self.active(now) and not self.is_invited:
            self.is_invited = True
            self.until_ns = min(self.latest_ns, now.mono_ns + milliseconds(INVITED_MS))

    def active(self, now: Instant) -> bool:
        return now.mono_ns < self.until_ns

    def tick(self, now: Instant) -> None:
        """Notice that it has been long enough."""
        if not self.active(now):
            self.end()

    def end(self) -> None:
        """Wait no longer, whether or not anybody came."""
        self.until_ns = 0

    def wakeup(self) -> int | None:
        """Return when the server is started again (CLOCK_MONOTONIC); None: it is not waited."""
        return self.until_ns or None
