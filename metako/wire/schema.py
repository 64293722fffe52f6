"""The wire format as data: the kind of each message and the key of each field.

The keys are the format. They are written out here, apart from the names in the code, so that a
field can be renamed without changing a byte, and two fields can never be swapped unnoticed. Keys
are short because rumours about several members share one datagram.

Rules of change: a key is never given another meaning; a new field needs a default (an older peer
does not send it); a default never changes (a field that equals its default is not sent).

It deliberately does not know how values become bytes: that is `metako.wire.codec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from metako.model.document import (
    ClusterDocument,
    DocumentRef,
    MemberRecord,
    Restart,
    Scheduled,
    Switchover,
    SyncMember,
    SyncSet,
)
from metako.model.durable import HardState
from metako.model.ids import Address, DataId, NodeId, RecordId, TimelineId
from metako.model.lsn import Lsn, RankedPosition
from metako.model.member import MemberMeta
from metako.model.orders import Order, OrderAnswer
from metako.model.timeline import TimelineEntry, Took
from metako.wire import limits, messages

KINDS: Mapping[str, type] = MappingProxyType(
    {
        "ping": messages.Ping,
        "ping-req": messages.PingRequest,
        "ack": messages.Ack,
        "nack": messages.Nack,
        "gossip": messages.Gossip,
        "push-pull": messages.PushPull,
        "hello": messages.Hello,
        "inquiry": messages.Inquiry,
        "inquiry-reply": messages.InquiryReply,
        "heartbeat": messages.Heartbeat,
        "heartbeat-ack": messages.HeartbeatAck,
        "term-rejected": messages.TermRejected,
        "doc-offer": messages.DocumentOffer,
        "doc-copy": messages.DocumentCopy,
        "doc-short": messages.ShortDocument,
        "doc-wanted": messages.DocumentWanted,
        "doc-ack": messages.DocumentAck,
        "pre-vote": messages.PreVoteRequest,
        "pre-vote-reply": messages.PreVoteReply,
        "vote": messages.VoteRequest,
        "vote-reply": messages.VoteReply,
        "candidacy": messages.Candidacy,
        "release": messages.Release,
        "order": messages.OrderRequest,
        "order-reply": messages.OrderReply,
    }
)
"""Kinds of messages; the value of `k`."""

KIND_DOCUMENT = "document"
KIND_HARD_STATE = "hard-state"

# `v` (version) and `k` (kind) are taken at the top level of every message and record.
KEYS: Mapping[type, str] = MappingProxyType(
    {
        # ------------------------------------------------------------ parts
        Address: "h=host p=port",
        DocumentRef: "t=term n=version",
        RankedPosition: "t=wal_term l=lsn",
        SyncMember: "n=node d=data_id",
        SyncSet: "m=members q=k",
        MemberRecord: "n=node r=record_id f=since a=address",
        Switchover: "o=order_id n=target m=timeout_ms",
        Scheduled: "o=order_id n=target m=timeout_ms a=at_ms",
        Restart: "n=node o=order_id m=timeout_ms",
        Order: "o=order_id w=kind n=target m=timeout_ms v=voter l=lost a=at_ms ns=nodes",
        OrderAnswer: "o=order_id a=accepted r=reason n=target",
        TimelineEntry: "t=term i=tli p=parent_tli l=begin_lsn n=node r=reason c=confirmed"
        " w=when_ms d=took",
        Took: "s=silence d=delay v=votes o=document p=promotion c=commit",
        MemberMeta: "r=role s=state t=timeline l=lsn y=replay_lsn g=lag_ms d=data_id i=system_id"
        " f=document_ref pa=postgres_address aa=api_address xa=proxy_address o=priority w=witness"
        " sv=server_version av=agent_version c=proxy_sessions ri=record_id rs=restarted z=zone",
        messages.MemberUpdate: "n=node b=boot_epoch i=incarnation s=state a=address m=meta"
        " u=accuser",
        # ------------------------------------------------------------ gossip
        messages.Ping: "s=sequence u=updates",
        messages.PingRequest: "s=sequence t=target u=updates",
        messages.Ack: "s=sequence u=updates",
        messages.Nack: "s=sequence",
        messages.Gossip: "u=updates",
        messages.PushPull: "r=reply u=updates",
        # ------------------------------------------------------------ agreement
        messages.Hello: "p=protocol c=cluster_name a=agent_version w=wall_ms b=boot_epoch",
        messages.Inquiry: "x=nonce",
        messages.InquiryReply: "x=nonce d=has_data f=document_ref r=record_id",
        messages.Heartbeat: "t=term b=boot_epoch r=round h=hold_ms f=committed a=attachable"
        " o=active n=heir",
        messages.HeartbeatAck: "t=term b=boot_epoch r=round f=document_ref p=proven",
        messages.TermRejected: "t=rejected p=promised x=nonce",
        messages.DocumentOffer: "t=term d=document",
        messages.DocumentCopy: "d=document",
        messages.ShortDocument: "d=document c=left_out x=digest t=term",
        messages.DocumentWanted: "f=document_ref",
        messages.DocumentAck: "t=term f=document_ref",
        messages.PreVoteRequest: "t=term x=nonce f=document_ref l=position s=sounding",
        messages.PreVoteReply: "t=term x=nonce g=granted r=refusal p=promised f=document_ref"
        " h=hold_remaining_ms i=data_id l=position",
        messages.VoteRequest: "t=term f=document_ref",
        messages.VoteReply: "t=term g=granted r=refusal p=promised f=document_ref d=detached"
        " i=data_id l=position c=can_lead o=priority m=max_tli",
        messages.Candidacy: "t=term",
        messages.Release: "t=term b=boot_epoch r=last_round s=successor",
        messages.OrderRequest: "o=order t=term b=boot_epoch",
        messages.OrderReply: "a=answer",
        # ------------------------------------------------------------ records
        ClusterDocument: "id=cluster_id name=cluster_name sys=system_id t=term n=version p=primary"
        " d=primary_data_id ph=phase vo=voters le=learners wi=witnesses s=sync du=durability"
        " tl=timelines h=hold_ms pause=paused sw=switchover rec=records join=joining go=leaving"
        " at=scheduled rst=restarts pair=pair",
        HardState: "node=node_id boot=boot_epoch t=term vote=voted_for prom=promised_term"
        " rel=released_term hold=max_hold_ms doc=document asked=asked id=record_id",
    }
)
"""For each class that is encoded: `key=field` for every field."""

TEXT_RANGES: Mapping[object, tuple[int, int]] = MappingProxyType(
    {
        str: (0, limits.TEXT_MAX_CHARS),
        NodeId: (1, limits.NAME_MAX_BYTES),
        DataId: (0, limits.DATA_ID_MAX_CHARS),
        RecordId: (0, limits.RECORD_ID_MAX_CHARS),
        (Address, "host"): (1, limits.HOST_MAX_CHARS),
        (ClusterDocument, "cluster_name"): (0, limits.NAME_MAX_BYTES),
        (messages.Hello, "cluster_name"): (0, limits.NAME_MAX_BYTES),
        (messages.ShortDocument, "digest"): (0, limits.DIGEST_CHARS),
    }
)
"""Length in UTF-8 bytes by (class, field), else by type."""

INTEGER_RANGES: Mapping[object, tuple[int, int]] = MappingProxyType(
    {
        int: (0, limits.I63_MAX),
        Lsn: (0, limits.U64_MAX),
        TimelineId: (0, limits.U32_MAX),
        (Address, "port"): (0, limits.U16_MAX),
        (MemberMeta, "lag_ms"): (-1, limits.I63_MAX),
        (MemberMeta, "system_id"): (0, limits.U64_MAX),
        (ClusterDocument, "system_id"): (0, limits.U64_MAX),
        (ClusterDocument, "hold_ms"): (0, limits.HOLD_MAX_MS),
        (messages.Heartbeat, "hold_ms"): (0, limits.HOLD_MAX_MS),
        (messages.PreVoteReply, "hold_remaining_ms"): (0, limits.HOLD_MAX_MS),
        (messages.ShortDocument, "left_out"): (1, limits.ITEMS_MAX),
        (HardState, "max_hold_ms"): (0, limits.HOLD_MAX_MS),
    }
)
"""Smallest and largest value by (class, field), else by type."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field and its key on the wire."""

    key: str
    name: str


def fields_of(cls: type) -> tuple[Field, ...]:
    """Return the fields of a class with their keys, in the order of the table."""
    pairs = (entry.partition("=") for entry in KEYS[cls].split())
    return tuple(Field(key, name) for key, _, name in pairs)
