"""The local health score: how much this node trusts its own ears.

In: how probes ended, whether we had to refute. Out: a factor for the probe interval.
Invariant: 0 <= score < limit. The score never judges another member; it only slows this node's
own accusations down. Source: Lifeguard, LHA-Probe.
"""

from __future__ import annotations


class Awareness:
    """Count evidence against this node's own health."""

    __slots__ = ("_limit", "_score")

    def __init__(self, *, limit: int) -> None:
        self._limit = limit  # score stays below this
        self._score = 0

    @property
    def score(self) -> int:
        return self._score

    def probe_succeeded(self) -> None:
        self._add(-1)

    def probe_failed(self, *, nacks_expected: int, nacks_received: int) -> None:
        """Blame ourselves for every relay that stayed silent as well.

        A relay's nack shows that the relay is reachable, so the missing ack speaks about the
        target. Without a relay there is no second opinion, and the failure counts once.
        """
        assert 0 <= nacks_received <= nacks_expected
        self._add(nacks_expected - nacks_received if nacks_expected else 1)

    def refuted(self) -> None:
        """Others could not hear us: count that as one."""
        self._add(1)

    def stalled(self) -> None:
        """This process was paused: count that as one."""
        self._add(1)

    def scale(self, duration_ns: int) -> int:
        """Return the duration stretched by the score."""
        return duration_ns * (self._score + 1)

    def _add(self, delta: int) -> None:
        self._score = max(0, min(self._limit - 1, self._score + delta))
