"""What a node tells the others about itself by gossip. All of it is advisory."""

from __future__ import annotations

import enum
from dataclasses import fields
from operator import attrgetter

from metako.model.document import NO_DOCUMENT, DocumentRef
from metako.model.ids import Address, DataId, NodeId, RecordId, TimelineId
from metako.model.lsn import Lsn
from metako.model.values import value


class MemberState(enum.StrEnum):
    """SWIM's verdict on a member, in the order in which one overrides another."""

    EXPECTED = "expected"  # configured, never heard of
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


class ServerRole(enum.StrEnum):
    """What a node's PostgreSQL is doing, as shown to people and to the proxies."""

    NONE = "none"  # no data, or a witness
    STANDBY = "standby"
    PRIMARY = "primary"
    UNKNOWN = "unknown"


class ServerState(enum.StrEnum):
    """State of a node's PostgreSQL, as shown to people."""

    ABSENT = "absent"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STREAMING = "streaming"
    CLONING = "cloning"
    REWINDING = "rewinding"
    PROMOTING = "promoting"
    STOPPING = "stopping"
    FAILED = "failed"


@value
class MemberMeta:
    """Metadata of a member; the newest incarnation's is the valid one."""

    role: ServerRole = ServerRole.UNKNOWN
    state: ServerState = ServerState.ABSENT
    timeline: TimelineId = TimelineId(0)
    lsn: Lsn = Lsn(0)  # newest WAL on this node: insert on a primary, received on a standby
    replay_lsn: Lsn = Lsn(0)  # 0 on a primary
    lag_ms: int = -1  # replay lag as the standby sees it; -1 when unknown
    data_id: DataId = DataId("")
    system_id: int = 0
    document_ref: DocumentRef = NO_DOCUMENT
    postgres_address: Address | None = None  # where other nodes and proxies reach the server
    api_address: Address | None = None
    proxy_address: Address | None = None
    priority: int = 100  # higher is preferred among equals in an election; 0 never stands
    witness: bool = False
    server_version: int = 0  # PostgreSQL's server_version_num; 0 when unknown
    agent_version: str = ""
    proxy_sessions: int = 0
    record_id: RecordId = RecordId("")  # of its durable record
    restarted: str = ""  # the order by which its server was restarted last; "" if by none
    zone: str = ""  # where it is, as configured; "" says nothing


MEASURES = frozenset({"lsn", "replay_lsn", "lag_ms", "proxy_sessions", "document_ref"})
"""Fields that nothing is decided by, and that change all the time while nothing happens.

The document's reference among them: it is shown to people, and a new version of the document
changes it on every node at once. As news, each of those would be told to every other node.
"""

_standing = attrgetter(*(f.name for f in fields(MemberMeta) if f.name not in MEASURES))


def only_measures_differ(old: MemberMeta, new: MemberMeta) -> bool:
    """Return whether two metadata say the same but for `MEASURES`."""
    return bool(_standing(old) == _standing(new))


@value
class Member:
    """One entry of the roster. Identity is (node, boot_epoch); the address is only data."""

    node: NodeId
    boot_epoch: int  # 0 while only configured
    incarnation: int
    state: MemberState
    address: Address  # gossip address, UDP and TCP
    meta: MemberMeta | None = None  # None until first heard of
