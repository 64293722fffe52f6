"""Choosing the core that is healed at the end: a majority that can legally have a primary.

In: ground truth. Out: names of nodes. The core has a majority of the voters by the newest document
that it has and by the newest one that there is, with the records by which they are members, and
either the primary of that document with its data, or a data quorum of it; so a cluster that does
not become whole inside of it has no excuse. Who is no member is in no core.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from metako.model.document import ClusterDocument, Durability
from metako.model.ids import NodeId
from metako.model.timeline import is_diverged, tip_of
from sim.standing import counts, has_majority, is_member

if TYPE_CHECKING:
    from sim.world import World


def choose_core(world: World, rng: random.Random) -> tuple[NodeId, ...]:
    """Return a smallest core, drawn from those that qualify; every node if none does."""
    newest = world.document()
    among = [n for n in world.names if newest is None or is_member(newest, n)]
    for count in range(1, len(among) + 1):
        fitting = [group for group in combinations(among, count) if qualifies(world, group)]
        if fitting:
            return rng.choice(fitting)
    return world.names


def qualifies(world: World, group: Collection[NodeId]) -> bool:
    """Return whether a group can have a primary by itself, with every acknowledged commit."""
    nodes = [world.nodes[n] for n in group]
    within, newest = world.document(group), world.document()
    if within is None or newest is None or not all(counts(node, newest) for node in nodes):
        return False
    # A newer document of somebody outside may be on its way to the group, and then counts there. So
    # does one that a node starts with though it could not be told that it was written.
    unsure = [node.unsure.document for node in nodes if node.unsure is not None]
    documents = [within, newest, *(d for d in unsure if d is not None and d.ref > within.ref)]
    return all(
        has_majority(world, version, group) and _can_lead(world, version, group)
        for document in documents
        for version in _and_next(document)
    )


def _and_next(document: ClusterDocument) -> Iterator[ClusterDocument]:
    """Yield a document, and those that may be made from it before a leader notices who is gone."""
    for gone in _subsets(document.leaving):
        rest = document.without(gone)
        for come in _subsets([name for name in rest.joining if name not in rest.voters]):
            yield replace(rest, voters=(*rest.voters, *come))


def _subsets(names: Sequence[NodeId]) -> Iterator[tuple[NodeId, ...]]:
    for count in range(len(names) + 1):
        yield from combinations(names, count)


def _can_lead(world: World, document: ClusterDocument, group: Collection[NodeId]) -> bool:
    """Return whether a group can have a primary by a document."""
    nodes = (world.nodes[name] for name in group)
    data = [node.name for node in nodes if not node.witness and counts(node, document)]
    if not any(name in document.voters for name in data):
        return False  # learners are never promoted
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
