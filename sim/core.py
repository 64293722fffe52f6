"""Choosing the core that is healed at the end: a majority that can legally have a primary.

In: ground truth. Out: names of nodes. The core has a majority of the voters, and either the primary
of its newest document with its data, or a data quorum of that document; so a cluster that does not
become whole inside of it has no excuse.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import TYPE_CHECKING

from metako.model.document import majority_of
from metako.model.ids import NodeId

if TYPE_CHECKING:
    from sim.world import World


def choose_core(world: World, rng: random.Random) -> tuple[NodeId, ...]:
    """Return a smallest core, drawn from those that qualify; every node if none does."""
    size = majority_of(len(world.names))
    for count in range(size, len(world.names) + 1):
        fitting = [group for group in combinations(world.names, count) if _qualifies(world, group)]
        if fitting:
            return rng.choice(fitting)
    return world.names


def _qualifies(world: World, group: tuple[NodeId, ...]) -> bool:
    document = world.document(group)
    data = [n for n in group if not world.nodes[n].witness and not world.nodes[n].wiped]
    if document is None or not data or any(world.nodes[n].wiped for n in group):
        return False
    if document.primary in data and world.nodes[document.primary].server.data is not None:
        return True
    listed = [
        member
        for member in document.sync.members
        if member.node in data
        and (held := world.nodes[member.node].server.data) is not None
        and held.data_id == member.data_id
        and not held.tainted  # a rewind that was cut short: it can vouch for nothing
    ]
    return bool(document.sync.members) and len(listed) >= document.sync.read_quorum
