"""A voter's hold and a leader's lease: two views of one promise, on two clocks.

A voter that accepts a heartbeat promises not to vote for anybody else for `hold_ms`, counted from
*receipt* on its CLOCK_MONOTONIC. The leader counts its lease from *sending* the round that a
majority answered, on its CLOCK_BOOTTIME, and shorter by the clock-rate error of both sides. So the
lease has always ended before the hold does, without anybody comparing clocks.

Source: Gray & Cheriton, "Leases" (SOSP 1989); rates instead of clocks as in DESIGN §4.4.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from metako.election.settings import ElectionSettings
from metako.model.document import ClusterDocument
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds

ROUNDS_REMEMBERED_MAX = 64
"""Rounds whose answers may still count; older ones would not lengthen any lease."""


@dataclass(slots=True)
class Hold:
    """A voter's side."""

    until_ns: int = 0  # CLOCK_MONOTONIC; 0 when nothing is held
    leader: NodeId | None = None  # on whose behalf; None after a restart (for anybody's)
    term: Term = Term(0)
    boot_epoch: int = 0  # of the leader
    round: int = -1  # newest round heard in (term, boot_epoch)

    def active(self, now: Instant) -> bool:
        return now.mono_ns < self.until_ns

    def remaining_ms(self, now: Instant) -> int:
        return max(0, -((now.mono_ns - self.until_ns) // 1_000_000))

    def extend(
        self, now: Instant, hold_ms: int, leader: NodeId, term: Term, boot_epoch: int, round_: int
    ) -> None:
        """Hold from now on. A hold only ever gets longer while it is the same leader's."""
        until = now.mono_ns + milliseconds(hold_ms)
        same = self.leader == leader and self.term == term
        self.until_ns = max(until, self.until_ns) if same else until
        if (self.leader, self.term, self.boot_epoch) != (leader, term, boot_epoch):
            self.round = -1
        self.leader, self.term, self.boot_epoch = leader, term, boot_epoch
        self.round = max(self.round, round_)

    def released_by(self, leader: NodeId, term: Term, boot_epoch: int, last_round: int) -> bool:
        """Return whether that release ends this hold. A later round heard outlives it."""
        if self.leader != leader or self.term > term:
            return False
        if self.term < term:
            return True
        return self.boot_epoch == boot_epoch and self.round <= last_round


@dataclass(slots=True)
class Lease:
    """A leader's side."""

    settings: ElectionSettings
    node: NodeId
    term: Term
    until_boot_ns: int = 0  # CLOCK_BOOTTIME; 0 before the first majority
    round: int = 0  # number of the newest round sent
    _sent: dict[int, int] = field(default_factory=dict)  # round → CLOCK_BOOTTIME of sending
    _answers: dict[int, set[NodeId]] = field(default_factory=dict)  # round → who answered
    _counted: int = 0  # newest round that a majority answered; older ones lengthen nothing
    _others_since: int = 0  # newest round that was sent under other voters

    def begin_round(self, now: Instant) -> int:
        """Start a round and return its number. The leader's own answer is implied."""
        self.round += 1
        self._sent[self.round] = now.boot_ns
        self._answers[self.round] = {self.node}
        for old in [r for r in self._sent if r <= self.round - ROUNDS_REMEMBERED_MAX]:
            del self._sent[old], self._answers[old]
        return self.round

    def would_count(self, node: NodeId, round_: int, document: ClusterDocument) -> bool:
        """Return whether that round counts once `node` has answered it, and did not before."""
        if round_ <= self._counted:
            return False
        answers = self._answers.get(round_)
        return answers is not None and document.grants(answers | {node})

    def answer(self, node: NodeId, round_: int) -> None:
        if round_ in self._answers:
            self._answers[round_].add(node)

    def renew(
        self, document: ClusterDocument, hold_ms: int, proposal: ClusterDocument | None = None
    ) -> bool:
        """Recompute the lease; return whether it became longer.

        Args:
            document: whose voters grant it.
            hold_ms: that they were asked for.
            proposal: one that is not committed. If another one of a pair decides by it, that one
                has to grant the lease from now on: it may hear of the document at any moment.
        """
        granting = [document]
        if proposal is not None and proposal.decider is not None:
            granting.append(proposal)
        for round_ in range(self.round, self._counted, -1):
            answers = self._answers.get(round_, ())
            if all(each.grants(answers) for each in granting):
                self._counted = round_
                break
        else:
            return False
        until = self._sent[self._counted] + milliseconds(self.settings.lease_ms(hold_ms))
        longer = until > self.until_boot_ns
        self.until_boot_ns = max(until, self.until_boot_ns)
        return longer

    def agreed(self, before: ClusterDocument | None, document: ClusterDocument) -> None:
        """Let rounds count no more that were sent while others had to answer them.

        Args:
            before: the version that was agreed on until now, if one of this term was.
            document: the one that is agreed on now.
        """
        if before is None:
            return
        if (before.voters, before.pair) != (document.voters, document.pair):
            self._counted = self._others_since = self.round

    @property
    def settled(self) -> bool:
        """Return whether the voters that there are now have granted it."""
        return self._counted > self._others_since

    def valid(self, now: Instant) -> bool:
        return now.boot_ns < self.until_boot_ns

    def remaining_ms(self, now: Instant) -> int:
        return max(0, (self.until_boot_ns - now.boot_ns) // 1_000_000)

    def answered_since(self, round_: int) -> Collection[NodeId]:
        """Return who answered any round from `round_` on."""
        return {node for r, nodes in self._answers.items() if r >= round_ for node in nodes}
