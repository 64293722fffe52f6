"""Plays a list of concrete faults, as it was saved: nothing is chosen, nothing is waited for."""

from __future__ import annotations

from collections.abc import Sequence

from sim.faults import Fault, Injector


class Replay:
    """The faults of a run that was, each at its own virtual time."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults

    def begin(self, injector: Injector) -> None:
        """See `sim.scenario.plan.Script`."""
        for fault in self._faults:
            if fault.at_ns == 0:
                # What the world is like from the beginning, before anything has happened in it.
                injector.apply(fault)
            else:
                injector.world.heap.at(fault.at_ns, injector.apply, fault)

    def on_mark(self, name: str, node: str) -> None:
        """Marks change nothing in a replay."""

    def on_event(self, name: str, node: str) -> None:
        """Events change nothing in a replay."""

    def end(self) -> None:
        """Every fault was applied in the time of the faults, and so is now."""
