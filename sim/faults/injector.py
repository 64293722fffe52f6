"""Applies concrete faults to one world, keeps what lasts, and ends it.

In: faults, each at the moment of its time. Out: disturbances of the world, the list of faults that
were applied, and what an observer is told. Invariant: whatever was begun is ended at most once, by
its own `for`, by a cure, or by the peace at the end; what made no sense is not in the list.

Faults must not be applied from inside a step of an engine: schedule them on the heap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from sim.faults.fault import FOR, Fault
from sim.faults.kind import FaultKind, Skipped, Undo
from sim.faults.registry import kind_of
from sim.faults.site import Site
from sim.faults.surface import FaultyWorld


class Observer(Protocol):
    """Who is told about faults: the trace, the marks."""

    def fault_began(self, number: int, fault: Fault, text: str, nodes: tuple[str, ...]) -> None: ...
    def fault_ended(self, number: int) -> None: ...


class _Nobody:
    def fault_began(self, number: int, fault: Fault, text: str, nodes: tuple[str, ...]) -> None: ...
    def fault_ended(self, number: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Active:
    """A fault that lasts."""

    number: int
    fault: Fault
    nodes: tuple[str, ...]  # whom it is about; empty: everybody
    undo: Undo


class Injector:
    """The faults of one run."""

    def __init__(self, world: FaultyWorld, observer: Observer | None = None) -> None:
        self.world = world
        self.applied: list[Fault] = []  # concrete, complete, in order
        self.skipped = 0  # faults that made no sense when their time came
        self._site = Site(world)
        self._observer: Observer = observer or _Nobody()
        self._active: dict[int, Active] = {}

    @property
    def active(self) -> tuple[Active, ...]:
        """Return what lasts now, the oldest first."""
        return tuple(self._active.values())

    def apply(self, fault: Fault) -> int | None:
        """Apply a fault now; return its number, or None if it made no sense and was left out.

        Raises:
            FaultError: there is no such kind, or an argument is wrong. Nothing was changed.
        """
        kind = kind_of(fault)
        fault = kind.complete(fault)
        number, nodes = len(self.applied), kind.nodes(fault)
        ended = self._cure(kind, fault, nodes)
        outcome = kind.effect(self._site, fault)
        if kind.cures and ended:
            outcome = None if isinstance(outcome, Skipped) else outcome
        if isinstance(outcome, Skipped):
            self.skipped += 1
            return None
        self.applied.append(fault)
        self._observer.fault_began(number, fault, kind.text(fault), nodes)
        if outcome is None:
            self._observer.fault_ended(number)
            return number
        self._active[number] = Active(number, fault, nodes, outcome)
        if fault.for_ns is not None:
            self.world.heap.after(fault.for_ns, self.end, number)
        return number

    def end(self, number: int) -> None:
        """Undo a fault that still lasts; one that has ended is left alone."""
        active = self._active.pop(number, None)
        if active is not None:
            active.undo()
            self._observer.fault_ended(number)

    def cut_short(self, number: int) -> None:
        """Undo a fault as if it had been meant to last until now, which is how it is replayed."""
        if number in self._active:
            fault = self.applied[number]
            lasted_ns = max(1, self.world.heap.now_ns - fault.at_ns)
            self.applied[number] = fault.changed(**{FOR: lasted_ns})
            self.end(number)

    def end_where(self, wanted: Callable[[Active], bool]) -> int:
        """Undo everything that `wanted` says yes to, the newest first; return how many."""
        found = [active.number for active in self.active if wanted(active)]
        for number in reversed(found):
            self.end(number)
        return len(found)

    def end_all(self) -> int:
        """Undo everything that lasts."""
        return self.end_where(lambda _: True)

    def keep_all(self) -> None:
        """Let everything that lasts now last for ever."""
        self._active.clear()

    def _cure(self, kind: FaultKind, fault: Fault, nodes: Collection[str]) -> int:
        if not kind.cures:
            return 0
        what = fault.get("what")

        def wanted(active: Active) -> bool:
            if active.fault.do not in kind.cures or active.fault.get("base") is True:
                return False
            if what is not None and active.fault.get("what") != what:
                return False
            return not nodes or any(name in nodes for name in active.nodes)

        return self.end_where(wanted)
