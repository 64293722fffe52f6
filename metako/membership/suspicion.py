"""How long a suspect may still refute.

In: the first accusation, further accusers, words heard from the suspect itself. Out: a deadline.
Invariant: floor <= wait <= ceiling, counted from the suspect's last word or the first accusation,
whichever is later. Deliberately unaware of who is accused, and of what happens at the deadline.

The wait shrinks with every independent accuser, because agreement makes it less likely that the
fault is ours (Lifeguard, LHA-Suspicion):

    wait = max(floor, ceiling - (ceiling - floor) * ln(C + 1) / ln(K + 1))

Two things differ from memberlist, whose floor is a * max(1, log10 n) * interval, the same for
every cluster of up to ten members:

- scale(n) = ln(n + 1) / ln(11) up to n = 10, log10(n) above (both are 1 at 10). A rumour crosses
  three members faster than ten.
- K = min(a - 2, n - 2), because the first accuser and the suspect do not confirm. With two
  members nobody can: silence is then neither agreement nor disagreement, and the wait is the
  geometric mean of floor and ceiling instead of the floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metako.membership.config import MembershipConfig
from metako.model.ids import NodeId
from metako.model.instant import milliseconds

SMALL_CLUSTER = 10
"""Up to this many members the floor is shaped by ln(n + 1)."""


@dataclass(frozen=True, slots=True)
class SuspicionWindow:
    """Bounds of one suspicion, fixed when it begins."""

    floor_ns: int
    ceiling_ns: int
    expected: int  # K: accusers besides the first, after which the wait is the floor


def window_for(config: MembershipConfig, members: int) -> SuspicionWindow:
    """Return the bounds for a cluster of so many members, suspect and this node included."""
    n = max(2, members)
    scale = math.log(n + 1) / math.log(SMALL_CLUSTER + 1) if n <= SMALL_CLUSTER else math.log10(n)
    floor = config.suspicion_mult * scale * config.probe_interval_ms
    ceiling = config.suspicion_max_mult * floor
    expected = max(0, min(config.suspicion_mult - 2, n - 2))
    if not expected:
        floor = ceiling = math.sqrt(floor * ceiling)
    return SuspicionWindow(milliseconds(floor), milliseconds(ceiling), expected)


def suspicion_timeout(confirmations: int, window: SuspicionWindow) -> int:
    """Return the wait in nanoseconds after so many confirmations, never below the floor.

    Source: Lifeguard (arXiv:1707.00788), LHA-Suspicion.
    """
    if window.expected <= 0:
        return window.floor_ns
    share = math.log(confirmations + 1) / math.log(window.expected + 1)
    wait = window.ceiling_ns - (window.ceiling_ns - window.floor_ns) * share
    return max(window.floor_ns, round(wait))


class Suspicion:
    """One running suspicion."""

    __slots__ = ("_accusers", "_condemned", "_since_ns", "_window")

    def __init__(self, *, now_ns: int, window: SuspicionWindow, accuser: NodeId) -> None:
        self._since_ns = now_ns  # the wait counts from here
        self._window = window
        self._accusers = {accuser}  # at most K + 1 names, the first included
        self._condemned = False  # True once some member has waited in full

    @property
    def confirmations(self) -> int:
        return len(self._accusers) - 1

    @property
    def deadline_ns(self) -> int:
        if self._condemned:
            return self._since_ns + self._window.floor_ns
        return self._since_ns + suspicion_timeout(self.confirmations, self._window)

    def confirm(self, accuser: NodeId) -> bool:
        """Count a further accuser; return whether it is news that others should hear.

        The first K are passed on, so that everybody's wait shrinks alike. One name counts once.
        """
        if accuser in self._accusers or self.confirmations >= self._window.expected:
            return False
        self._accusers.add(accuser)
        return True

    def condemn(self) -> None:
        """Some member has waited in full and declared the suspect dead: our floor is enough."""
        self._condemned = True

    def heard(self, now_ns: int) -> None:
        """The suspect itself was heard: whatever it suffers from, it was not dead just now."""
        self._since_ns = max(self._since_ns, now_ns)

    def postpone(self, delta_ns: int) -> None:
        """Give back the time in which this node was paused and could hear no refutation."""
        self._since_ns += delta_ns
