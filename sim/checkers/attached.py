"""Reads are led to standbys that follow somebody: what one has that follows nobody is old (§7).

In: what servers really receive, ten times a second, and once a second where proxies lead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.ids import NodeId
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.postgres.receiver import ReceiverPhase
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

LIMIT_NS = 8 * NS_PER_S
"""Until a sound proxy has to know, by a look of the agent there and the news of it."""
EVERY_SAMPLES = 10


class Attached(Watcher):
    """See the module's docstring."""

    name = "attached"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor
        self._samples = 0
        self._since: dict[NodeId, int] = {}  # when a server was first seen to receive nothing

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        now, before = self._world.heap.now_ns, self._since
        loose = (node.name for node in nodes if not node.witness and _is_loose(node))
        self._since = {name: before.get(name, now) for name in loose}
        self._samples += 1
        if not self._since or self._samples % EVERY_SAMPLES:
            return
        long = {name for name, since in self._since.items() if now - since > LIMIT_NS}
        if not long:
            return
        for node in nodes:
            proxy = node.proxy
            if proxy is None or not proxy.alive or proxy.frozen or not self._sound(node.name):
                continue
            for name in long.intersection(proxy.replicas()):
                # What was told while the way was cut is told again by the next exchange of rosters.
                told_ns = now - self._since[name] + NS_PER_S
                if self._sound(name) and self._monitor.way_ok(node.name, name, told_ns):
                    raise ViolationError(
                        "unattached_read",
                        f"{node.name} leads reads to {name}, which has followed nobody for "
                        f"{LIMIT_NS / NS_PER_S:g} s",
                        (node.name, name),
                    )

    def _sound(self, name: NodeId) -> bool:
        return self._monitor.agent_ok(name, LIMIT_NS)


def _is_loose(node: SimNode) -> bool:
    """Return whether a server is neither a primary nor streams from one."""
    server = node.server
    receiver = server.receiver
    streams = receiver is not None and receiver.phase is ReceiverPhase.STREAMING
    return server.primary is None and not streams
