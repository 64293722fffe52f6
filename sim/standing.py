"""Who counts by a document, by the truth: what is on the disks, and what faults have done to it.

In: documents, nodes. Out: whether a node is a member with the very record that it has. Production
decides the same in `Core.standing_in` and `ClusterDocument.admits`; nothing of that is asked here,
so that a mistake there does not excuse itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from metako.model.document import ClusterDocument, PairMode
from metako.model.ids import NodeId, RecordId

if TYPE_CHECKING:
    from sim.processes import Processes
    from sim.world import World


def record_named(document: ClusterDocument, name: NodeId) -> RecordId:
    """Return the record by which a document takes a node for a member; "" if it names none."""
    named = [record.record_id for record in document.records if record.node == name]
    return named[0] if named else RecordId("")


def is_member(document: ClusterDocument, name: NodeId) -> bool:
    return name in document.voters or name in document.learners


def counts(node: Processes, document: ClusterDocument) -> bool:
    """Return whether a node is a member by a document, and has all that it promised as one."""
    return not node.forgetful and votes(node, document)


def votes(node: Processes, document: ClusterDocument) -> bool:
    """Return whether a node is a member by a document, also one that has forgotten promises.

    It does not know that its record was rolled back, and votes.
    """
    hard = node.hard
    if hard is None or hard.document is None or not is_member(document, node.name):
        return False
    return record_named(document, node.name) == hard.record_id


def is_unheard(node: Processes, listener: Processes) -> bool:
    """Return whether a node has an older record than one that a listener has heard it with.

    Whatever it says is dropped as a replay of what its former agent has said.
    """
    speaks, hears = node.agent, listener.agent
    if speaks is None or hears is None:
        return False
    return speaks.boot_epoch < hears.epochs.get(node.name, 0)


def voters_among(
    world: World,
    document: ClusterDocument,
    group: Collection[NodeId],
    *,
    who: Callable[[Processes, ClusterDocument], bool] = counts,
) -> tuple[NodeId, ...]:
    """Return who of a group has a vote by a document, of those that `who` is true of."""
    nodes = (world.nodes[name] for name in document.voters if name in group)
    return tuple(node.name for node in nodes if who(node, document))


def has_majority(
    world: World,
    document: ClusterDocument,
    group: Collection[NodeId],
    *,
    who: Callable[[Processes, ClusterDocument], bool] = counts,
) -> bool:
    """Return whether those of a group that `who` is true of have a majority of the votes."""
    return 2 * len(voters_among(world, document, group, who=who)) > len(document.voters)


def decides(document: ClusterDocument) -> NodeId | None:
    """Return who of a pair may be elected alone, and without whom nothing is agreed on."""
    data = [name for name in document.voters if name not in document.witnesses]
    if document.pair is None or len(data) != 2 or len(document.voters) != 2:
        return None
    listed = [m.node for m in document.sync.members if m.node in document.voters]
    standby = [name for name in listed if name != document.primary]
    takes_over = document.pair is PairMode.TAKEOVER and standby
    return standby[0] if takes_over else document.primary


def agree(document: ClusterDocument, nodes: Collection[NodeId]) -> bool:
    """Return whether a version or a lease stands by what those nodes have answered."""
    decisive = decides(document)
    if decisive is None:
        return 2 * len([name for name in document.voters if name in nodes]) > len(document.voters)
    return {document.primary, decisive} <= set(nodes)
