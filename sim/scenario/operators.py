"""Operators who give orders now and then, in a swarm: what those of every kind have in common.

In: a scenario, a seed. Out: turns, each of which may be an order. They draw from a stream of their
own, so that a seed's other random faults are what they would be without them, and only some of the
seeds have them. It does not know what is ordered.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.faults import Fault, Injector, Value
from sim.faults.kind import Family
from sim.heap import NS_PER_S, Heap
from sim.scenario.model import Scenario
from sim.streams import stream

CALM_NS = 6 * NS_PER_S
"""A new cluster gets this long to form."""


class RandomOperators:
    """See the module's docstring. A `Script`."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        purpose: str,
        kinds: Sequence[str],
        part: float,
        gap_max_s: float,
        orders_max: int,
    ) -> None:
        """Draw whether this seed has such operators, and how busy they are.

        Args:
            scenario: whose conditions say which of `kinds` are allowed.
            seed: of everything that is drawn.
            purpose: names the stream that is drawn from.
            kinds: of faults that they apply.
            part: of the seeds, those that have them.
            gap_max_s: between two orders, on average, at most.
            orders_max: of one run.
        """
        self._rng = rng = stream(seed, scenario.name, purpose)
        conditions = scenario.random
        wanted = str(Family.OPERATOR) in conditions.faults
        without = set(conditions.without)
        allowed = [k for k in kinds if wanted or k in conditions.faults]
        off = str(Family.OPERATOR) in without
        self.kinds = tuple(k for k in allowed if not off and k not in without)
        self._some = rng.random() < part
        self._gap_ns = round(rng.uniform(3, gap_max_s) * NS_PER_S)  # between two, on average
        self._left = orders_max
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
        self._act()
        self._heap.after(self._next_ns(), self._turn)

    def _act(self) -> None:
        """Take one turn: give an order, or leave it."""
        raise NotImplementedError

    def _give(self, kind: str, args: dict[str, Value], *, not_to: object = None) -> None:
        """Give an order to any node, but for one."""
        asked = self._rng.choice([n for n in self._injector.world.names if n != not_to])
        self._injector.apply(Fault.make(self._heap.now_ns, kind, {"node": asked, **args}))
