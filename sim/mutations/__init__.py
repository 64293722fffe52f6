"""Planted bugs: each takes one rule away, to see whether the checkers notice.

A mutation is a small named patch of a rule in the production code, or of the driver's part that a
model stands for. It is planted for one run and taken out again. A rule whose absence nobody notices
is either not needed or not tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from sim.mutations.base import Mutation, Patch
from sim.mutations.blind import BLIND
from sim.mutations.drivers import DRIVERS
from sim.mutations.elections import ELECTIONS
from sim.mutations.handovers import HANDOVERS
from sim.mutations.leases import LEASES
from sim.mutations.members import MEMBERS
from sim.mutations.models import MODELS
from sim.mutations.pair import PAIR
from sim.mutations.slips import SLIPS
from sim.mutations.syncing import SYNCING
from sim.mutations.upkeep import UPKEEP

__all__ = ["MUTATIONS", "Mutation", "planted"]

TABLES = (
    ELECTIONS,
    LEASES,
    SYNCING,
    MEMBERS,
    DRIVERS,
    MODELS,
    SLIPS,
    HANDOVERS,
    UPKEEP,
    PAIR,
    BLIND,
)

MUTATIONS: Mapping[str, Mutation] = MappingProxyType({m.name: m for table in TABLES for m in table})


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant a bug for the length of the context; None plants nothing.

    Raises:
        KeyError: there is no mutation of that name.
    """
    if name is None:
        yield
        return
    patch = Patch()
    try:
        MUTATIONS[name].plant(patch)
        yield
    finally:
        patch.undo()
