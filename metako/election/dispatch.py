"""Which part of an election takes which message.

In: one authenticated message. Out: calls of the voter, the candidate, the leader and the others.
It decides nothing; what was said, and what comes of it, is theirs to judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from metako.election.candidate import TERM_MAX
from metako.model.ids import NodeId
from metako.model.instant import Instant
from metako.wire.messages import (
    AgreementMessage,
    Candidacy,
    DocumentAck,
    DocumentCopy,
    DocumentOffer,
    DocumentWanted,
    Heartbeat,
    HeartbeatAck,
    Inquiry,
    InquiryReply,
    OrderReply,
    OrderRequest,
    PreVoteReply,
    PreVoteRequest,
    Release,
    ShortDocument,
    TermRejected,
    VoteReply,
    VoteRequest,
)

if TYPE_CHECKING:
    from metako.election.election import Election
    from metako.election.leader import Leader


def dispatch(election: Election, now: Instant, sender: NodeId, message: AgreementMessage) -> None:
    """Pass a message of another member on."""
    match message:
        case Heartbeat():
            election.heard_heartbeat(now, sender, message)
        case HeartbeatAck() | DocumentAck():
            if election.leader:
                _acknowledged(election.leader, now, sender, message)
        case DocumentOffer():
            election.voter.heard_offer(now, sender, message)
        case DocumentCopy():
            election.voter.heard_copy(sender, message)
        case ShortDocument():
            election.voter.heard_short(now, sender, message)
        case DocumentWanted():
            election.heard_wanted(sender, message)
        case PreVoteRequest():
            election.heard_pre_vote(now, sender, message)
        case PreVoteReply():
            if message.promised < TERM_MAX:
                election.candidate.heard_pre_vote_reply(now, sender, message)
                election.prover.heard_reply(sender, message)
        case VoteRequest():
            election.heard_vote_request(now, sender, message)
        case VoteReply():
            election.candidate.heard_vote_reply(now, sender, message)
        case TermRejected():
            election.heard_rejected(message)
        case Candidacy():
            election.heard_candidacy(now, message)
        case Release():
            if election.voter.heard_release(now, sender, message):
                election.lease_released(now, message.successor)
        case Inquiry():
            election.voter.heard_inquiry(sender, message)
        case InquiryReply():
            election.bootstrap.heard_reply(sender, message)
        case OrderRequest() | OrderReply():
            election.orders.hear(now, sender, message, election.leader)
        case _:
            assert_never(message)


def _acknowledged(
    leader: Leader, now: Instant, sender: NodeId, ack: HeartbeatAck | DocumentAck
) -> None:
    if isinstance(ack, HeartbeatAck) and ack.proven and ack.term == leader.term:
        leader.handover.blocked.heard_proof(sender, ack)
    leader.heard_ack(now, sender, ack)
