"""Operators at their upkeep, now and then, in a swarm: pauses, restarts, switchovers by the clock.

In: a scenario, a seed. Out: orders through the injector, to whichever node. A pause is ended after
a while, by asking one node after the other until the document says so; one that is left at the end
of the faults is the peace's to end.
"""

from __future__ import annotations

from sim.faults import Value
from sim.heap import NS_PER_MS, NS_PER_S
from sim.scenario.model import Scenario
from sim.scenario.operators import RandomOperators

PART = 0.3
"""Of the seeds, those with such operators."""
ORDERS_MAX = 30
ASK_AGAIN_NS = 3 * NS_PER_S
KINDS = ("pause_cluster", "restart_servers", "cancel_restart", "switchover")


class RandomUpkeep(RandomOperators):
    """See the module's docstring. A `Script`."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        super().__init__(
            scenario,
            seed,
            purpose="random upkeep",
            kinds=KINDS,
            part=PART,
            gap_max_s=15,
            orders_max=ORDERS_MAX,
        )

    def _act(self) -> None:
        kind = self._rng.choice(self.kinds)
        args: dict[str, Value] = {}
        if kind == "switchover":
            args["delay"] = round(self._rng.uniform(0.1, 4) * NS_PER_S)
        elif kind == "pause_cluster":
            self._heap.after(round(self._rng.uniform(1, 15) * NS_PER_S), self._resume)
        self._give(kind, args)

    def _resume(self) -> None:
        document = self._injector.world.document()
        if self._over or document is None or not document.paused:
            return
        self._give("resume_cluster", {})
        self._heap.after(ASK_AGAIN_NS + self._rng.randrange(NS_PER_MS), self._resume)
