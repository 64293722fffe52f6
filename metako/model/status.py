"""The picture of the cluster that one node can show: for the API, `metako status` and the demo."""

from __future__ import annotations

from dataclasses import dataclass

from metako.model.document import NO_DOCUMENT, ClusterDocument, DocumentRef
from metako.model.ids import NodeId, Term
from metako.model.member import Member
from metako.model.postgres import PostgresObserved

HISTORY_MAX = 1000
"""Entries of its history that a node shows at once."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node's view; `members` is what gossip told it, `document` what it has on disk."""

    node: NodeId
    cluster_name: str
    boot_epoch: int
    election_role: str  # follower | pre-candidate | candidate | leader | ...
    term: Term
    promised_term: Term
    leader: NodeId | None  # whom this node holds for, or itself
    primary: NodeId | None  # the server that takes writes now, as far as this node knows
    hold_remaining_ms: int  # 0 when no hold is active
    lease_remaining_ms: int  # this node's own lease; 0 unless it leads
    blocked: str  # why there is no primary, or why commits do not return; "" when all is well
    document: ClusterDocument | None
    members: tuple[Member, ...]
    postgres: PostgresObserved
    committed: DocumentRef = NO_DOCUMENT  # newest one that is known to be on a majority
    waiting: tuple[tuple[NodeId, str], ...] = ()  # on the leader: what changes of members wait for
    can_lead_alone: bool = False  # in a pair: its own vote is enough, as far as this node knows
    primary_silent_ms: int | None = None  # since its last heartbeat; None: not known, or this node
