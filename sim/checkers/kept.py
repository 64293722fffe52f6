"""A standby keeps no WAL for members: nobody streams from it, and its disk would fill (§5.5).

Nor does a primary for one that is no member any more: it will never come to fetch it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.ids import NodeId
from metako.model.postgres import ProcessState
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.postgres.upkeep import slot_of
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

LIMIT_NS = 15 * NS_PER_S
"""Three looks of the agent at its slots."""
EVERY_SAMPLES = 10


class Kept(Watcher):
    """See the module's docstring."""

    name = "kept"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._samples = 0
        self._names = {slot_of(name) for name in world.names}
        self._since: dict[tuple[NodeId, str], int] = {}  # when WAL was first seen to be kept

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        self._samples += 1
        if self._samples % EVERY_SAMPLES:
            return
        now, before, self._since = self._world.heap.now_ns, self._since, {}
        for node in nodes:
            for name in self._idle(node):
                key = node.name, name
                since = self._since[key] = before.get(key, now)
                if now - since > LIMIT_NS:
                    role = "standby" if node.server.in_recovery else "primary"
                    raise ViolationError(
                        "slot_kept",
                        f"{node.name} is a {role}, and has kept WAL in vain for {name} for "
                        f"{LIMIT_NS / NS_PER_S:g} s",
                        (node.name,),
                    )

    def _idle(self, node: SimNode) -> list[str]:
        """Return the slots that keep WAL in vain on a sound server."""
        server, hard = node.server, node.hard
        if server.data is None or server.process is not ProcessState.RUNNING or hard is None:
            return []
        names = self._names
        if server.in_recovery is False and hard.document is not None:
            names = names - {slot_of(name) for name in hard.document.data_members()}
        elif server.in_recovery is not True:
            return []
        monitor = self._monitor
        if not monitor.agent_ok(node.name, 0) or not monitor.server_ok(node.name, 0):
            return []
        slots = server.data.slots.values()
        return [
            slot.name
            for slot in slots
            if slot.name in names and slot.sender is None and slot.restart_lsn
        ]
