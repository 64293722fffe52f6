"""New sessions wait while there is no primary; they are refused only where waiting is pointless.

A proxy refuses when its agent is gone or stands still: a client does better to try another node
then. One whose agent has been sound for a while knows nothing of that kind. An agent that has lost
its record is as good as gone: it knows of no term yet, so its proxy believes the tables of the one
before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.heap import NS_PER_S
from sim.monitor import Monitor, clocks_off
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.processes import Processes
    from sim.world import World

SOUND_NS = 5 * NS_PER_S
"""Longer than a new agent takes to hear of the others and to publish a table."""


class Refusals(Watcher):
    """See the module's docstring."""

    name = "refusals"

    def __init__(self, world: World, monitor: Monitor) -> None:
        self._world = world
        self._monitor = monitor

    def session_refused(self, node: Processes) -> None:
        if node.forgetful:
            return
        if self._monitor.agent_ok(node.name, SOUND_NS) and not clocks_off(self._world):
            raise ViolationError(
                "refused_in_vain",
                f"the proxy of {node.name} refuses a session as if its agent were gone, which has "
                f"been sound for {SOUND_NS / NS_PER_S:g} s",
                (node.name,),
            )
