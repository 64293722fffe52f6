"""The probe of one member at a time: direct, then through others, then a verdict.

In: the clock, the list of active members, acks, nacks, any word heard from the target. Out: whom
to probe, when to ask for help, and how it ended.
Invariant: at most one probe runs; every one ends at its deadline, which is when the next may
begin. Deliberately unaware of messages and of what a failure means for the target.

Targets come from a shuffled round: each member is probed once in a round, so a crash is noticed
after 2n-1 intervals at the latest (SWIM §4.3). Members that somebody else suspects jump the queue:
an early second opinion either confirms, which shortens the wait for everybody, or shows the suspect
its accusation, which it then refutes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from metako.membership.roster import Roster
from metako.model.ids import NodeId

URGENT_MAX = 8
"""Suspects waiting for an early probe; further ones wait for their turn in the round."""


@dataclass(slots=True)
class Probe:
    """One running probe."""

    target: NodeId
    sequence: int
    timeout_ns: int  # when help is asked for, on the monotonic clock
    deadline_ns: int  # when it has failed
    asked: bool = False  # True once help was asked for
    relays: frozenset[NodeId] = frozenset()
    nacks: set[NodeId] = field(default_factory=set)  # relays that answered "no ack"


class Prober:
    """Choose targets and keep the running probe."""

    def __init__(self, *, roster: Roster, rng: random.Random) -> None:
        self._roster = roster
        self._rng = rng
        self._round: list[NodeId] = []  # rest of the round, next target last
        self._seen_version = -1  # roster version that `_round` was made for
        self._members: frozenset[NodeId] = frozenset()  # active members at that version
        self._urgent: deque[NodeId] = deque()
        self.current: Probe | None = None
        self.next_ns = 0  # the next probe may begin

    def hurry(self, node: NodeId) -> None:
        """Probe this member next, if there is room in the queue."""
        if node not in self._urgent and len(self._urgent) < URGENT_MAX:
            self._urgent.append(node)

    def choose(self) -> NodeId | None:
        """Return the next target; None if there is nobody to probe."""
        self._follow_roster()
        while self._urgent:
            node = self._urgent.popleft()
            if node in self._members:
                return node
        if not self._members:
            return None
        if not self._round:
            self._round = list(self._roster.active)
            self._rng.shuffle(self._round)
        return self._round.pop()

    def begin(self, probe: Probe) -> None:
        assert self.current is None
        assert probe.timeout_ns < probe.deadline_ns
        self.current = probe
        self.next_ns = probe.deadline_ns

    def choose_relays(self, count: int) -> tuple[NodeId, ...]:
        """Return members to ask for an indirect probe of the current target."""
        assert self.current is not None
        return sample(self._rng, self._roster.active, count, without=(self.current.target,))

    def heard(self, node: NodeId) -> bool:
        """A message came directly from `node`; return whether that ends the current probe well."""
        return self.current is not None and self.current.target == node and self._succeed()

    def acked(self, sender: NodeId, sequence: int) -> bool:
        """An ack came through a relay; return whether that ends the current probe well."""
        probe = self.current
        if probe is None or probe.sequence != sequence or sender not in probe.relays:
            return False
        return self._succeed()

    def nacked(self, sender: NodeId, sequence: int) -> None:
        probe = self.current
        if probe is not None and probe.sequence == sequence and sender in probe.relays:
            probe.nacks.add(sender)

    def abandon(self) -> None:
        """Forget the current probe without a verdict."""
        self.current = None

    def wakeup(self) -> int | None:
        """Return when this needs attention; None while there is nobody to probe."""
        if self.current is not None:
            return self.current.deadline_ns if self.current.asked else self.current.timeout_ns
        return self.next_ns if self._roster.active else None

    def _succeed(self) -> bool:
        self.current = None
        return True

    def _follow_roster(self) -> None:
        """Give newcomers a random place in the running round, and drop whoever is gone."""
        if self._seen_version == self._roster.version:
            return
        self._seen_version = self._roster.version
        members = frozenset(self._roster.active)
        self._round = [node for node in self._round if node in members]
        for node in self._roster.active:
            if node not in self._members:
                self._round.insert(self._rng.randint(0, len(self._round)), node)
        self._members = members


def sample(
    rng: random.Random, nodes: list[NodeId], count: int, *, without: Collection[NodeId] = ()
) -> tuple[NodeId, ...]:
    """Return up to `count` different names from `nodes`, none of them in `without`."""
    wanted = min(len(nodes), count + len(without))
    chosen = [node for node in rng.sample(nodes, wanted) if node not in without]
    return tuple(chosen[:count])
