"""Giving up a lease for good: durable first, then told to everybody, several times.

A release is irrevocable: `released_term` is on disk before the message leaves, so this node never
leads in that term again, whatever it is restarted as.
"""

from __future__ import annotations

from dataclasses import replace

from metako.election.core import Core
from metako.model.events import EventName
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.wire.messages import Release

REPEATS = 8
"""A release is sent this often, one `retry_ms` apart: a datagram may be lost."""
REPEATS_BEFORE_STOP = 3
"""A node that stops leaves only after so many."""


class Releasing:
    """The release under way, if any."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._release: Release | None = None
        self._promised = Term(0)  # by this node when it released
        self._left = 0
        self._at_ns = 0

    def begin(
        self, now: Instant, term: Term, last_round: int, why: str, successor: NodeId | None
    ) -> None:
        """Make it durable that this node no longer leads `term`, and begin to say so.

        Args:
            now: the time of this step.
            term: that it led.
            last_round: newest round that it sent in it.
            why: for people.
            successor: who should stand at once; None if nobody is known to be fit.
        """
        core = self._core
        core.record(replace(core.hard, released_term=term))
        self._release = Release(term, core.hard.boot_epoch, last_round, successor)
        self._left, self._at_ns = REPEATS, now.mono_ns
        self._promised = core.hard.promised_term  # more than `term` if it was standing again
        core.emit(
            EventName.LEASE_RELEASED,
            f"released the lease of term {term}: the server is gone",
            term=term,
            reason=why,
            successor=successor,
        )

    def tick(self, now: Instant) -> None:
        if not self._left or now.mono_ns < self._at_ns:
            return
        assert self._release is not None
        if self._core.hard.promised_term > self._promised:
            self._left = 0  # somebody has heard it and stands already
            return
        self._core.broadcast(self._core.others(), self._release)
        self._left -= 1
        self._at_ns = now.mono_ns + milliseconds(self._core.settings.retry_ms)

    def wakeup(self) -> int | None:
        return self._at_ns if self._left else None

    @property
    def told(self) -> bool:
        """Return whether there is nothing to say, or it was said often enough to leave."""
        return self._release is None or self._left <= REPEATS - REPEATS_BEFORE_STOP
