"""Gossip: a node that has been sound and reachable for a while is held alive by whoever reaches it.

Gossip never grants anything, so a wrong verdict is no danger to data; but it takes standbys out of
the sync set, replicas out of the routes and candidates out of their rank. A suspicion that cannot
be refuted, or a death that nobody notices is over, shows here. One that a third node has just
spread, because *it* reaches nobody, is no fault: the accused refutes it with its next message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.ids import NodeId
from metako.model.member import MemberState
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.standing import is_unheard
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

EVERY_SAMPLES = 20
SOUND_NS = 20 * NS_PER_S
"""Longer than any suspicion, and several times the interval at which the dead are tried again."""


class Gossip(Watcher):
    """See the module's docstring."""

    name = "gossip"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._samples = 0
        # Who held whom for what when last looked at, and of which incarnation.
        self._held: dict[tuple[NodeId, NodeId], tuple[MemberState | None, int]] = {}

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        self._samples += 1
        if self._samples % EVERY_SAMPLES:
            return
        monitor = self._monitor
        before, self._held = self._held, {}
        sound = [node for node in nodes if monitor.agent_ok(node.name, SOUND_NS)]
        for node in sound:
            engine = node.engine
            if engine is None:
                continue
            states = {m.node: (m.state, m.incarnation) for m in engine.members()}
            for other in sound:
                if other is node or not monitor.way_ok(node.name, other.name, SOUND_NS):
                    continue
                if is_unheard(other, node):
                    continue
                state, incarnation = states.get(other.name, (None, 0))
                if state is MemberState.ALIVE:
                    continue
                pair = node.name, other.name
                self._held[pair] = state, incarnation
                if before.get(pair, (None, -1))[1] == incarnation:
                    raise ViolationError(
                        "wrongly_dead",
                        f"{node.name} holds {other.name} to be {state}, and both have been sound "
                        f"and reached each other for {SOUND_NS / NS_PER_S:g} s",
                        pair,
                    )
