"""Choosing the core that is healed at the end: a majority that can legally have a primary.

In: ground truth. Out: names of nodes. The core has a majority of the voters, and either the primary
of its newest document with its data, or a data quorum of that document; so a cluster that does not
become whole inside of it has no excuse.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from itertools import combinations
from typing import TYPE_CHECKING

from metako.model.document import ClusterDocument, Durability, majority_of
from metako.model.ids import NodeId
from metako.model.timeline import is_diverged, tip_of

if TYPE_CHECKING:
    from sim.world import World


def choose_core(world: World, rng: random.Random) -> tuple[NodeId, ...]:
    """Return a smallest core, drawn from those that qualify; every node if none does."""
    size = majority_of(len(world.voters))
    for count in range(size, len(world.names) + 1):
        fitting = [group for group in combinations(world.names, count) if _qualifies(world, group)]
        if fitting:
            return rng.choice(fitting)
    return world.names


def _qualifies(world: World, group: tuple[NodeId, ...]) -> bool:
    data = [n for n in group if not world.nodes[n].witness and not world.nodes[n].wiped]
    votes = sum(n in world.voters for n in group)
    within, newest = world.document(group), world.document()
    if (
        within is None
        or newest is None
        or not data
        or votes < majority_of(len(world.voters))
        or any(world.nodes[n].wiped for n in group)
    ):
        return False
    # A newer document of somebody outside may be on its way to the group, and then counts there.
    return all(_can_lead(world, document, data) for document in (within, newest))


def _can_lead(world: World, document: ClusterDocument, data: Collection[NodeId]) -> bool:
    """Return whether these nodes with data can have a primary by a document."""
    if document.durability is Durability.STRICT and len(data) <= document.sync.k:
        return False  # no commit would ever return
    if document.primary in data and world.nodes[document.primary].server.data is not None:
        return True
    return bool(document.sync.members) and (
        len(vouching(world, document, data)) >= document.sync.read_quorum
    )


def vouching(
    world: World, document: ClusterDocument, group: Collection[NodeId]
) -> tuple[NodeId, ...]:
    """Return who of a group counts for a data quorum, by what is on the disks."""
    tip = tip_of(document.timelines)
    return tuple(
        member.node
        for member in document.sync.members
        if member.node in group
        and (data := world.nodes[member.node].server.data) is not None
        and data.data_id == member.data_id
        # A former primary that still runs writes on, if only that it is shut down, beyond the fork.
        and world.nodes[member.node].server.primary is None
        # Nor does one stay that was told to be promoted in an earlier term, and was held up.
        and not world.nodes[member.node].server.promoting
        and not data.tainted  # a rewind that was cut short: it can vouch for nothing
        # Off the document's history a promise counts for nothing (DESIGN §4.3.5).
        and not is_diverged(document.timelines, tip, data.history, data.position)
    )
