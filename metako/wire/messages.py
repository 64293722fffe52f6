"""Every message that one agent sends another. Frozen values; no behaviour, no encoding.

The same message may travel as a datagram or over a stream; a stream only carries what is too
large for a datagram, or probes a peer over TCP. Each is best effort: whoever needs an answer asks
again. The sender is not part of a message: the seal authenticates it, and `Received` carries it.

Gossip messages (SWIM with Lifeguard) are advisory. Agreement messages carry a term, and a receiver
that has promised a higher one answers `TermRejected` and ignores them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, get_args

from metako.model.document import ClusterDocument, DocumentRef
from metako.model.ids import Address, DataId, NodeId, RecordId, Term, TimelineId
from metako.model.lsn import RankedPosition
from metako.model.member import MemberMeta, MemberState
from metako.model.orders import Order, OrderAnswer
from metako.model.values import value

# ---------------------------------------------------------------- gossip


@value
class MemberUpdate:
    """One rumour about a member, as SWIM's Alive, Suspect, Confirm (dead) or a graceful leave."""

    node: NodeId
    boot_epoch: int
    incarnation: int
    state: MemberState
    address: Address | None = None  # None: unchanged (suspect, dead)
    meta: MemberMeta | None = None  # None: unchanged
    accuser: NodeId | None = None  # who suspects or declared dead; None otherwise


@value
class Ping:
    """Direct probe."""

    sequence: int
    updates: tuple[MemberUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Ask the receiver to probe `target` for the sender. It names a member, never an address."""

    sequence: int
    target: NodeId
    updates: tuple[MemberUpdate, ...] = ()


@value
class Ack:
    """Answer to a Ping or, relayed, to a PingRequest of the same sequence."""

    sequence: int
    updates: tuple[MemberUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class Nack:
    """A relay's word that it got no ack in its own time: the relay is reachable."""

    sequence: int


@value
class Gossip:
    """Rumours without a probe."""

    updates: tuple[MemberUpdate, ...]


@value
class PushPull:
    """The sender's whole roster; with `reply` the receiver sends its own back."""

    reply: bool
    updates: tuple[MemberUpdate, ...]


# ---------------------------------------------------------------- agreement


class Refusal(enum.StrEnum):
    """Why a pre-vote or a vote was refused."""

    HOLD = "hold"  # the hold on a leader's lease has not ended
    TERM = "term"  # a higher term was promised, or the vote in this one was given away
    DOCUMENT = "document"  # the candidate's document is older than the voter's
    WAL = "wal"  # the voter could lead and has more WAL
    WRITABLE = "writable"  # the voter's own server is not verified gone yet
    NOT_VOTING = "not_voting"  # lost its durable record, or is no member
    DETACHING = "detaching"  # granted, but the WAL receiver is not verified gone yet


@dataclass(frozen=True, slots=True)
class Hello:
    """Asked before a node starts: does the peer use our key, cluster, protocol and clock?"""

    protocol: int
    cluster_name: str
    agent_version: str
    wall_ms: int  # sender's wall clock, milliseconds since 1970; only ever shown to people
    boot_epoch: int


@dataclass(frozen=True, slots=True)
class Inquiry:
    """First bootstrap: do you hold a document or data?"""

    nonce: int


@dataclass(frozen=True, slots=True)
class InquiryReply:
    nonce: int
    has_data: bool
    document_ref: DocumentRef  # NO_DOCUMENT when blank; else the document follows by DocumentCopy
    record_id: RecordId = RecordId("")  # of the sender's durable record


@value
class Heartbeat:
    """The leader's round. A voter that accepts holds for `hold_ms` from receipt."""

    term: Term
    boot_epoch: int  # of the leader: rounds count within (term, boot_epoch)
    round: int
    hold_ms: int
    committed: DocumentRef
    attachable: bool  # the leader's server is promoted; standbys may connect
    active: bool  # applications are admitted
    heir: NodeId | None = None  # who is to prove that it could lead; None: nobody is asked


@value
class HeartbeatAck:
    term: Term
    boot_epoch: int  # of the leader, echoed
    round: int  # echoed
    document_ref: DocumentRef  # durable at the sender of this ack
    proven: bool = False  # the sender, which the round names as heir, could lead


@dataclass(frozen=True, slots=True)
class TermRejected:
    """The receiver of a message has promised a higher term."""

    rejected: Term
    promised: Term
    nonce: int = 0


@value
class DocumentOffer:
    """A document, to be made durable and acknowledged. `term` is the sender's term as leader."""

    term: Term
    document: ClusterDocument


@dataclass(frozen=True, slots=True)
class DocumentCopy:
    """A newer document, for whoever showed an older reference. Adopted if newer; not a vote."""

    document: ClusterDocument


@dataclass(frozen=True, slots=True)
class ShortDocument:
    """An offer or a copy whose oldest timelines the receiver adds from its own document.

    `metako.wire.short` says how, and that it is refused whole unless the digest is right. Nothing
    of it counts before that.
    """

    document: ClusterDocument  # without its first `left_out` timelines
    left_out: int
    digest: str  # of the timelines that were left out
    term: Term | None = None  # as in a DocumentOffer; None: as a DocumentCopy


@dataclass(frozen=True, slots=True)
class DocumentWanted:
    """The sender could not make a ShortDocument whole. It is answered by all of the document."""

    document_ref: DocumentRef  # of the one that was short


@value
class DocumentAck:
    term: Term
    document_ref: DocumentRef


@dataclass(frozen=True, slots=True)
class PreVoteRequest:
    """Would you vote for me in `term`? Changes nothing at the receiver."""

    term: Term  # the one that would be stood in
    nonce: int
    document_ref: DocumentRef
    position: RankedPosition | None  # None: the candidate holds no data
    sounding: bool = False  # the leader has asked whether the sender could lead; nobody stands


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    term: Term
    nonce: int
    granted: bool
    refusal: Refusal | None
    promised: Term
    document_ref: DocumentRef
    hold_remaining_ms: int = 0
    data_id: DataId = DataId("")  # "" without data
    position: RankedPosition | None = None  # believed; nothing is promised by it


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """Vote for me in `term`, and promise: detach, and reject everything below."""

    term: Term
    document_ref: DocumentRef


@dataclass(frozen=True, slots=True)
class VoteReply:
    """A vote, or a refusal. `position` and `data_id` count only when `detached`."""

    term: Term
    granted: bool
    refusal: Refusal | None
    promised: Term
    document_ref: DocumentRef  # held after the promise; sent by DocumentCopy if it is newer
    detached: bool  # the replication promise is kept: nothing can be acknowledged upstream
    data_id: DataId
    position: RankedPosition | None
    can_lead: bool
    priority: int
    max_tli: TimelineId


@dataclass(frozen=True, slots=True)
class Candidacy:
    """The sender gives up its candidacy: the receiver has more WAL and stands at once."""

    term: Term  # the sender's; the receiver stands in a higher one


@dataclass(frozen=True, slots=True)
class Release:
    """The leader's server is gone and it will never lead again in this term."""

    term: Term
    boot_epoch: int
    last_round: int
    successor: NodeId | None = None  # who stands at once; the others wait a moment for it


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An operator's order, from the node where it was given to the one that leads.

    It is for one leadership: another one does not know whether it was done already.
    """

    order: Order
    term: Term
    boot_epoch: int  # of the leader


@dataclass(frozen=True, slots=True)
class OrderReply:
    """The leader's answer to an order."""

    answer: OrderAnswer


GossipMessage = Ping | PingRequest | Ack | Nack | Gossip | PushPull
AgreementMessage = (
    Inquiry
    | InquiryReply
    | Heartbeat
    | HeartbeatAck
    | TermRejected
    | DocumentOffer
    | DocumentCopy
    | ShortDocument
    | DocumentWanted
    | DocumentAck
    | PreVoteRequest
    | PreVoteReply
    | VoteRequest
    | VoteReply
    | Candidacy
    | Release
    | OrderRequest
    | OrderReply
)
Message = GossipMessage | AgreementMessage | Hello

GOSSIP_KINDS: frozenset[type] = frozenset(get_args(GossipMessage))
"""Classes of gossip: `type(message) in GOSSIP_KINDS` costs less than asking for each of them."""


class Outbound(NamedTuple):
    """A message to be sent. `stream` asks for TCP; otherwise it must fit a datagram."""

    to: NodeId
    address: Address
    message: Message
    stream: bool = False


class Received(NamedTuple):
    """A message whose seal was verified. `boot_epoch` is the sender's."""

    sender: NodeId
    boot_epoch: int
    message: Message
