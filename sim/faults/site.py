"""What the faults of one run share: the world, and which switches are held.

Knows nothing of time, of kinds, or of why a fault ends.
"""

from __future__ import annotations

from metako.model.ids import NodeId
from sim.faults.fault import Fault
from sim.faults.surface import FaultyNode, FaultyWorld

Pair = tuple[str, str]
"""The direction from one host to another."""
Switch = tuple[str, str, str]
"""Node, `disk` or `server`, attribute."""


class Site:
    """One run, as the effects of faults see it."""

    def __init__(self, world: FaultyWorld) -> None:
        self.world = world
        self.held: dict[Switch, Fault] = {}  # switches that a fault has turned

    def node(self, name: str) -> FaultyNode:
        return self.world.nodes[NodeId(name)]

    @property
    def places(self) -> tuple[str, ...]:
        """Return every host: nodes, then clients."""
        return (*self.world.names, *(client.name for client in self.world.clients))
