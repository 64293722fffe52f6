"""The checkers: what must never be, seen with the eyes of no node.

They are told ground truth as it happens and raise `ViolationError` at the exact event. They know
nothing of how decisions are made, so a wrong decision cannot talk them out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metako.model.ids import NodeId, TimelineId


class ViolationError(AssertionError):
    """A promise was broken. The text says which, when and how."""


@dataclass(frozen=True, slots=True)
class Ack:
    """A commit that was acknowledged to a client."""

    at_ns: int
    node: NodeId
    tli: int
    value: str


class Checks:
    """Everything that was promised to hold at every moment of a run."""

    def __init__(self, seed: int) -> None:
        self.acked: list[Ack] = []
        self._seed = seed
        self._elected: dict[object, NodeId] = {}  # term → winner
        self._minted: dict[TimelineId, NodeId] = {}  # timeline → whose promotion made it

    def acknowledged(self, ack: Ack) -> None:
        """At most one server acknowledges: a later acknowledgement is never of an older line."""
        last = self.acked[-1] if self.acked else None
        if last is not None and ack.tli < last.tli:
            raise ViolationError(
                f"{ack.node} acknowledged {ack.value} on timeline {ack.tli} at "
                f"{ack.at_ns / 1e9:.3f} s, after {last} (seed {self._seed})"
            )
        if last is not None and ack.tli == last.tli and ack.node != last.node:
            raise ViolationError(f"two servers on one timeline: {ack} and {last}")
        self.acked.append(ack)

    def writable(self, now_ns: int, nodes: Sequence[NodeId]) -> None:
        """At most one server is writable and admits, while its guard works and clocks run true."""
        if len(nodes) > 1:
            raise ViolationError(
                f"{' and '.join(nodes)} are both writable at {now_ns / 1e9:.3f} s "
                f"(seed {self._seed})"
            )

    def elected(self, node: NodeId, term: object) -> None:
        """At most one node wins the election of a term."""
        other = self._elected.setdefault(term, node)
        if other != node:
            raise ViolationError(
                f"{other} and {node} both won the election of term {term} (seed {self._seed})"
            )

    def minted(self, node: NodeId, tli: TimelineId) -> None:
        """Every timeline number is promoted to once, by whomever."""
        if tli in self._minted:
            raise ViolationError(
                f"{node} promoted to timeline {tli}, which {self._minted[tli]} had made already "
                f"(seed {self._seed})"
            )
        self._minted[tli] = node

    def nothing_lost(self, stored: Sequence[str]) -> None:
        """Every acknowledged value is among the stored ones, once."""
        present = set(stored)
        if len(stored) != len(present):
            raise ViolationError("a value is stored twice")
        lost = [ack for ack in self.acked if ack.value not in present]
        if lost:
            raise ViolationError(
                f"lost {len(lost)} acknowledged values, first {lost[0]} (seed {self._seed})"
            )
