"""What a run came to: the verdict and the numbers, as plain values that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.faults import Fault


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    check: str  # name of the checker
    text: str  # what happened, for people
    at_ns: int  # virtual time
    nodes: tuple[str, ...] = ()  # who had a part in it


@dataclass(frozen=True, slots=True)
class Result:
    """One run. Everything but what a clock measured is fixed by scenario, seed and version."""

    scenario: str
    seed: int
    violation: Violation | None = None
    virtual_ns: int = 0
    elections: int = 0  # won, the first one included
    failovers: int = 0  # promotions after the first
    acknowledged: int = 0  # commits
    unknown: int = 0  # client operations whose outcome nobody knows
    messages: int = 0  # sent by agents
    events: int = 0  # on the heap
    marks: Mapping[str, int] = field(default_factory=dict)  # interesting state → times reached
    faults: tuple[Fault, ...] = ()  # concrete ones, in the order in which they were applied
    digest: str = ""  # of everything that happened, cheap; equal runs have equal digests
    outages_ms: tuple[int, ...] = ()  # gaps between acknowledged writes that followed a fault

    @property
    def ok(self) -> bool:
        return self.violation is None
