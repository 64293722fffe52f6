"""When to exchange whole rosters: to join, to converge, and to find the lost again.

In: the clock and the roster. Out: names to push/pull with.
Invariant: the rate is bounded for ever, whatever state the cluster is in: one exchange per
interval when joined, one round per back-off before that.
Deliberately unaware of addresses and messages.

Three schedules with one purpose each:

- join: nobody was heard yet; every configured peer is asked, with a back-off that ends at a
  ceiling and not in giving up, since a cluster may be started hours apart;
- push/pull: one random active member, repairs what lost rumours left different;
- reconnect: one random member that is dead or was never heard. Both halves of a partition hold
  each other dead, and only this lets them meet again.
"""

from __future__ import annotations

import math
import random

from metako.membership.config import MembershipConfig
from metako.membership.probe import sample
from metako.membership.roster import Roster
from metako.model.ids import NodeId
from metako.model.instant import milliseconds, seconds
from metako.model.member import MemberState

PUSH_PULL_SCALE_FROM = 32
"""Members above which the push/pull interval grows."""

RECONNECT_SCALE_FROM = 8
"""Members above which the reconnect interval grows."""

LOST_STATES = frozenset({MemberState.EXPECTED, MemberState.DEAD})


def push_pull_scale(members: int) -> int:
    """Return the factor of the push/pull interval: one more for each doubling above 32."""
    if members <= PUSH_PULL_SCALE_FROM:
        return 1
    return math.ceil(math.log2(members) - math.log2(PUSH_PULL_SCALE_FROM)) + 1


class Contacts:
    """The three schedules."""

    def __init__(self, *, config: MembershipConfig, roster: Roster, rng: random.Random) -> None:
        self._config = config
        self._roster = roster
        self._rng = rng
        self._backoff_ms = config.join_backoff_ms
        self.joined = False  # True once anybody was heard
        self._join_ns = 0
        self._push_pull_ns = 0
        self._reconnect_ns = 0

    def start(self, now_ns: int) -> None:
        self._join_ns = now_ns
        self._schedule_push_pull(now_ns)
        self._schedule_reconnect(now_ns)

    def heard(self, now_ns: int) -> None:
        """Somebody was heard: stop asking everybody."""
        if not self.joined:
            self.joined = True
            self._schedule_push_pull(now_ns)
            self._schedule_reconnect(now_ns)

    def due(self, now_ns: int) -> tuple[NodeId, ...]:
        """Return whom to exchange rosters with now, and set the next times."""
        if not self.joined:
            return self._due_join(now_ns)
        if now_ns < self._push_pull_ns and now_ns < self._reconnect_ns:
            return ()
        chosen: list[NodeId] = []
        if now_ns >= self._push_pull_ns:
            self._schedule_push_pull(now_ns)
            chosen += sample(self._rng, self._roster.active, 1)
        if now_ns >= self._reconnect_ns:
            self._schedule_reconnect(now_ns)
            lost = self._lost()
            if lost:
                chosen.append(self._rng.choice(lost))
        return tuple(dict.fromkeys(chosen))

    def wakeup(self) -> int | None:
        if not self.joined:
            return self._join_ns if self._lost() else None
        return min(self._push_pull_ns, self._reconnect_ns)

    def _due_join(self, now_ns: int) -> tuple[NodeId, ...]:
        if now_ns < self._join_ns:
            return ()
        # Jitter, because nodes started by one command would otherwise keep meeting in step.
        wait = milliseconds(self._backoff_ms * self._rng.uniform(0.75, 1.25))
        self._join_ns = now_ns + wait
        self._backoff_ms = min(2 * self._backoff_ms, self._config.join_backoff_max_ms)
        return sample(self._rng, self._lost(), self._config.join_fanout)

    def _lost(self) -> list[NodeId]:
        return sorted(entry.node for entry in self._roster if entry.state in LOST_STATES)

    def _schedule_push_pull(self, now_ns: int) -> None:
        interval = seconds(self._config.push_pull_interval_s) * push_pull_scale(self._roster.size)
        self._push_pull_ns = now_ns + round(interval * self._rng.uniform(0.75, 1.25))

    def _schedule_reconnect(self, now_ns: int) -> None:
        factor = max(1.0, self._roster.size / RECONNECT_SCALE_FROM)
        interval = seconds(self._config.reconnect_interval_s) * factor
        self._reconnect_ns = now_ns + round(interval * self._rng.uniform(0.75, 1.25))
