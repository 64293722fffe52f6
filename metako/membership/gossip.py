"""Whom to send rumours without a probe, five times a second while there are pressing ones.

In: the roster and the wishes of the view. Out: names.
Invariant: at most three fan-outs of names at one time. Deliberately unaware of what is told.

First those who accuse this node and those whom it accuses: only the accused can put it right, and
the accuser must hear it in time. Accusations get lost like all datagrams, so a suspect is told
again until it refutes or its time is over. Then a random few for everything else, the recently
dead among them: they may only have been paused.
"""

from __future__ import annotations

import random

from metako.membership.config import MembershipConfig
from metako.membership.probe import sample
from metako.membership.roster import Roster
from metako.membership.view import View
from metako.model.ids import NodeId
from metako.model.instant import seconds


class Gossiper:
    """Choose the receivers of gossip."""

    def __init__(
        self, *, config: MembershipConfig, roster: Roster, view: View, rng: random.Random
    ) -> None:
        self._config = config
        self._roster = roster
        self._view = view
        self._rng = rng

    def has_news(self) -> bool:
        """Return whether there is something to tell and somebody to tell it to."""
        view = self._view
        if view.to_tell or view.to_correct or view.suspicions:
            return True
        return view.rumours.pressing and bool(self._roster.active)

    def take_targets(self, now_ns: int) -> tuple[NodeId, ...]:
        """Return the receivers of this round; the wishes to tell somebody are used up."""
        view = self._view
        urgent = [*view.to_correct, *view.to_tell]
        view.to_tell.clear()
        urgent += [node for node in view.suspicions if view.takes_part()]
        chosen = tuple(dict.fromkeys(urgent))[: 2 * self._config.gossip_fanout]
        everybody = self._roster.active + self._recently_dead(now_ns)
        others = sample(self._rng, everybody, self._config.gossip_fanout, without=chosen)
        return chosen + others

    def _recently_dead(self, now_ns: int) -> list[NodeId]:
        if not self._roster.dead:
            return []
        limit_ns = seconds(self._config.gossip_to_dead_s)
        dead = filter(None, map(self._roster.get, self._roster.dead))
        return sorted(entry.node for entry in dead if now_ns - entry.changed_ns <= limit_ns)
