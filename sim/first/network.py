"""The simulated network: delay, loss and cuts. It decides nothing but whether and when.

A cut is one-way for messages. A stream of WAL needs both ways.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from metako.model.ids import NodeId


@dataclass(slots=True)
class Network:
    """What befalls a message; the world asks it for each one."""

    rng: random.Random
    delay_ms: tuple[float, float] = (0.2, 1.5)
    loss: float = 0.0
    cut: set[tuple[NodeId, NodeId]] = field(default_factory=set)

    def partition(self, *groups: Iterable[NodeId]) -> None:
        """Cut every pair of nodes that are in different groups, both ways."""
        sides = [set(group) for group in groups]
        for i, left in enumerate(sides):
            for right in sides[i + 1 :]:
                for a in left:
                    for b in right:
                        self.cut |= {(a, b), (b, a)}

    def heal(self) -> None:
        self.cut = set()
        self.loss = 0.0
