"""Operators at their upkeep, now and then, in a swarm: pauses, restarts, switchovers by the clock.

In: a scenario, a seed. Out: orders through the injector, to whichever node. A pause is ended after
a while, by asking one node after the other until the document says so; one that is left at the end
of the faults is the peace's to end.

It draws from a stream of its own, as `random_members` does. Only some of the seeds have such
operators.
"""

from __future__ import annotations

from sim.faults import Fault, Injector, Value
from sim.faults.kind import Family
from sim.heap import NS_PER_MS, NS_PER_S, Heap
from sim.scenario.model import Scenario
from sim.streams import stream

PART = 0.3
"""Of the seeds, those with such operators."""
CALM_NS = 6 * NS_PER_S
"""A new cluster gets this long to form."""
ORDERS_MAX = 30
ASK_AGAIN_NS = 3 * NS_PER_S
KINDS = ("pause_cluster", "restart_servers", "cancel_restart", "switchover")


class RandomUpkeep:
    """See the module's docstring. A `Script`."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._rng = rng = stream(seed, scenario.name, "random upkeep")
        conditions = scenario.random
        wanted = str(Family.OPERATOR) in conditions.faults
        without = set(conditions.without)
        off = str(Family.OPERATOR) in without
        allowed = [k for k in KINDS if wanted or k in conditions.faults]
        self.kinds = tuple(k for k in allowed if not off and k not in without)
        self._some = rng.random() < PART
        self._gap_ns = round(rng.uniform(3, 15) * NS_PER_S)  # between two orders, on average
        self._left = ORDERS_MAX
        self._over = False
        self._injector: Injector  # from `begin` on, and so is the heap
        self._heap: Heap

    def begin(self, injector: Injector) -> None:
        """See `sim.scenario.plan.Script`."""
        self._injector, self._heap = injector, injector.world.heap
        if self.kinds and self._some:
            self._heap.after(CALM_NS + self._next_ns(), self._turn)

    def end(self) -> None:
        """See `sim.scenario.plan.Script`."""
        self._over = True

    def on_event(self, name: str, node: str) -> None:
        """See `sim.scenario.plan.Script`. Operators wait for nothing."""

    def on_mark(self, name: str, node: str) -> None:
        """See `sim.scenario.plan.Script`. Operators wait for nothing."""

    def _next_ns(self) -> int:
        return round(self._rng.expovariate(1 / self._gap_ns))

    def _turn(self) -> None:
        if self._over or not self._left:
            return
        self._left -= 1
        kind = self._rng.choice(self.kinds)
        args: dict[str, Value] = {}
        if kind == "switchover":
            args["delay"] = round(self._rng.uniform(0.1, 4) * NS_PER_S)
        elif kind == "pause_cluster":
            self._heap.after(round(self._rng.uniform(1, 15) * NS_PER_S), self._resume)
        self._give(kind, args)
        self._heap.after(self._next_ns(), self._turn)

    def _resume(self) -> None:
        document = self._injector.world.document()
        if self._over or document is None or not document.paused:
            return
        self._give("resume_cluster", {})
        self._heap.after(ASK_AGAIN_NS + self._rng.randrange(NS_PER_MS), self._resume)

    def _give(self, kind: str, args: dict[str, Value]) -> None:
        asked = self._rng.choice(list(self._injector.world.names))
        self._injector.apply(Fault.make(self._heap.now_ns, kind, {"node": asked, **args}))
