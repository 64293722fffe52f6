"""Who holds what was acknowledged: the sync invariant, and the copies that `strict` promises.

The sync invariant: whatever data quorum an election may find, it has every acknowledged commit.

DESIGN §4.2: R = |S| − k + 1 members of S suffice for an election, so at every acknowledgement fewer
than R members of S, with the data that the document lists, may lack the commit on disk. One whose
data were replaced since counts for no election, hence for nothing here.

It is checked for every document that an election may still find: the newest committed one, and each
newer one in existence, committed or not. This is the purpose of the orders of §4.5, asked of the
truth instead of the rules.

Strict: S never falls below k (§4.5), so from the first committed document with k on, and through
every election, an acknowledged commit is on the disks of k servers besides its primary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.document import ClusterDocument, DocumentRef, Durability, Phase
from metako.model.durable import HardState
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, Term
from sim.checkers.durability import COUNTED
from sim.standing import is_member
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.postgres.commits import Commit
    from sim.postgres.data import Data
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World


class Holders(Watcher):
    """See the module's docstring."""

    name = "holders"

    def __init__(self, world: World) -> None:
        self._world = world
        self._live: dict[DocumentRef, ClusterDocument] = {}
        self._last: Commit | None = None  # newest acknowledged one
        self._data: dict[NodeId, Data] = {}  # of each server, as last seen
        self._lost: dict[NodeId, list[Data]] = {}  # what faults took
        self._strict_k = 0  # largest k of a committed document of strict durability

    def server_changed(self, server: SimServer) -> None:
        if server.data is not None:
            self._data[server.node] = server.data
        elif server.node in self._data:
            self._lost.setdefault(server.node, []).append(self._data.pop(server.node))

    def booted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        self._learn(hard)

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        self._learn(hard)

    def _learn(self, hard: HardState) -> None:
        document = hard.document
        if document is None or document.ref in self._live:
            return
        if self._live and document.ref < min(self._live):
            return
        self._live[document.ref] = document
        if self._last is not None:
            self._check(document, self._last, f"document {document.ref} came into being")

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is EventName.COMMITS_MAY_BE_LOST:
                self._last = None  # whether that is allowed is the checker of durability's to say
            if event.name is EventName.DOCUMENT_COMMITTED:
                term, version = str(dict(event.fields)["document"]).split(".")
                ref = DocumentRef(Term(int(term)), int(version))
                committed = self._live.get(ref)
                if committed is not None and committed.durability is Durability.STRICT:
                    self._check_k(node, committed)
                for old in [r for r in self._live if r < ref]:
                    del self._live[old]

    def _check_k(self, node: Processes, committed: ClusterDocument) -> None:
        k = committed.sync.k
        if k < self._strict_k:
            raise ViolationError(
                "strict_lowered",
                f"by document {committed.ref} commits wait for {k} standbys, and for "
                f"{self._strict_k} by one before it",
                (node.name, *sorted(committed.sync.nodes())),
            )
        self._strict_k = k

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        if commit.level not in COUNTED:
            return
        self._last = commit
        if self._strict_k:
            self._count_copies(server, commit)
        for document in self._live.values():
            if document.primary == server.node:
                self._check(document, commit, f"{server.node} acknowledged it")

    def _count_copies(self, server: SimServer, commit: Commit) -> None:
        copies = []
        hard = self._world.nodes[server.node].hard
        document = hard.document if hard is not None else None
        for node in self._world.nodes.values():
            if document is not None and not is_member(document, node.name):
                continue  # nobody asks it when the next primary is chosen
            # A copy that a fault took later was one: its word of it stays with its WAL sender.
            there = [*self._lost.get(node.name, ()), node.server.data]
            if node.name != server.node and any(d and d.holds(commit.record) for d in there):
                copies.append(node.name)
        if len(copies) < self._strict_k:
            values = ", ".join(value for _, value in commit.values)
            raise ViolationError(
                "strict_copies",
                f"{server.node} acknowledged {values}, which is on {len(copies)} other servers; "
                f"strict durability promises {self._strict_k}",
                (server.node, *copies),
            )

    def _check(self, document: ClusterDocument, commit: Commit, when: str) -> None:
        sync = document.sync
        if not sync.members or document.phase is Phase.INITIALIZING:
            return
        without = []
        for member in sync.members:
            data = self._world.nodes[member.node].server.data
            counts = data is not None and data.data_id == member.data_id
            if counts and data is not None and not data.holds(commit.record):
                without.append(member.node)
        if len(without) >= sync.read_quorum:
            values = ", ".join(value for _, value in commit.values)
            raise ViolationError(
                "sync_invariant",
                f"{values} is not on {', '.join(without)} when {when}; any {sync.read_quorum} of "
                f"{', '.join(sorted(sync.nodes()))} may elect by document {document.ref}",
                (document.primary, *sorted(sync.nodes())),
            )
