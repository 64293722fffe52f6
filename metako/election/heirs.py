"""Who could take over from a leader: the standbys that are fit to be the next primary.

In: pictures of the leader's running server, gossip's roster, the document. Out: the best one, or in
words why a node cannot. It is advice: an election finds out for itself who has what, and a wrong
answer costs time and no commit. Knows nothing of orders, leases and stops.
"""

from __future__ import annotations

from collections.abc import Sequence

from metako.election.core import Core
from metako.model.document import ClusterDocument
from metako.model.ids import NodeId
from metako.model.lsn import Lsn
from metako.model.member import MemberState
from metako.model.postgres import PostgresObserved, ProcessState, StandbySeen

LAG_MAX_BYTES = 16 << 20
"""Who has more than one segment of WAL yet to flush would be waited for by every application."""


class Heirs:
    """Of one leadership."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._standbys: Sequence[StandbySeen] = ()  # while the server last ran as a primary
        self._lsn = Lsn(0)  # its end of WAL then; 0 while it was not seen
        self._checkpointed = ""  # the handover for which it had written a checkpoint then

    def looked(self, observed: PostgresObserved) -> None:
        """Take a picture of the leader's server; one that says nothing leaves the newest before.

        To one that takes no connections, be it full or shutting down, the end of its WAL is 0, and
        its standbys are those of the picture before.
        """
        runs = observed.process is ProcessState.RUNNING and observed.in_recovery is False
        if runs and not observed.silent and observed.lsn:
            self._standbys, self._lsn = observed.standbys, observed.lsn
            self._checkpointed = observed.checkpointed

    def adopt(self, other: Heirs) -> None:
        """Go on with what an earlier leadership of the same server has seen."""
        self._standbys, self._lsn = other._standbys, other._lsn
        self._checkpointed = other._checkpointed

    @property
    def lsn(self) -> Lsn:
        """Where the WAL of the leader's server ended when it was last looked at; 0 before that."""
        return self._lsn

    @property
    def checkpointed(self) -> str:
        """For which handover it had written a checkpoint then."""
        return self._checkpointed

    def flushed(self, node: NodeId) -> Lsn:
        """Return what a standby was last seen to have on its disk."""
        return next((s.flush_lsn for s in self._standbys if s.node == node), Lsn(0))

    def _streams(self, node: NodeId) -> bool:
        return any(seen.node == node and seen.streaming for seen in self._standbys)

    def behind(self, node: NodeId) -> str:
        """Return in words why a standby has not caught up; "" if it has."""
        if not self._streams(node):
            return "it does not stream from the primary"
        behind = self._lsn - self.flushed(node)
        return f"it is {behind >> 20} MiB of WAL behind" if behind > LAG_MAX_BYTES else ""

    def bar(self, document: ClusterDocument, node: NodeId) -> str:
        """Return in words why a node could not take over at any time; "" if it might."""
        if node not in document.members():
            return "it is no member of the cluster"
        if node == self._core.node:
            return "it is the primary already"
        if node in document.witnesses:
            return "it is a witness and has no data"
        return ""

    def obstacle(self, document: ClusterDocument, node: NodeId) -> str:
        """Return in words why a node cannot take over now; "" if it can."""
        core = self._core
        if bar := self.bar(document, node):
            return bar
        if node not in document.voters:
            return "it is a learner and has no vote"
        member = core.members.get(node)
        if member is None or member.meta is None or member.state is not MemberState.ALIVE:
            return "it is not alive"
        if member.meta.priority == 0:
            return "its priority is 0, or its watchdog is required and cannot be armed"
        if node in document.leaving:
            return "it is being removed"
        if document.sync.members and self._streams(node):
            listed = document.sync.data_id_of(node)
            if listed is None:
                return "it is not a synchronous standby yet"
            if listed != member.meta.data_id:
                return "it has other data than those that are listed as synchronous"
        return self.behind(node)

    def best(self, document: ClusterDocument, *, planned: bool) -> NodeId | None:
        """Return who should take over; None if nobody can.

        Args:
            document: the newest committed one.
            planned: everybody gets all WAL before the server ends, so rank alone decides. After a
                crash whoever has more WAL goes first: it would be handed the candidacy anyway. And
                without synchronous standbys nobody is known to have what this server had.
        """
        if not planned and not document.sync.members:
            return None
        fit = [node for node in document.voters if not self.obstacle(document, node)]
        flushed = {standby.node: standby.flush_lsn for standby in self._standbys}

        def key(node: NodeId) -> tuple[int, int, bool, int, NodeId]:
            meta = self._core.members[node].meta
            priority = meta.priority if meta is not None else 0
            wal, elsewhere = flushed.get(node, 0), self._core.is_elsewhere(node, document.primary)
            if planned:
                return (-priority, 0, elsewhere, -wal, node)
            return (-wal, -priority, elsewhere, 0, node)

        return min(fit, key=key, default=None)

    def why_nobody(self, document: ClusterDocument) -> str:
        """Return in words what speaks against each of the others."""
        others = [node for node in document.data_members() if node != self._core.node]
        told = "; ".join(f"{node}: {self.obstacle(document, node)}" for node in others)
        return told or "there is no other node with data"
