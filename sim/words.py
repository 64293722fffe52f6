"""What messages of agreement say, in words for people who look at a trace."""

from __future__ import annotations

from metako.model.lsn import RankedPosition, format_lsn
from metako.model.orders import Order
from metako.wire.messages import (
    Candidacy,
    DocumentAck,
    DocumentCopy,
    DocumentOffer,
    DocumentWanted,
    Message,
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


def said_by(message: Message) -> str:
    """Return what a message says beside its kind and term; "" of gossip and heartbeats."""
    match message:
        case PreVoteRequest():
            return f"document {message.document_ref}, {_at(message.position)}"
        case PreVoteReply():
            return "granted" if message.granted else f"refused: {message.refusal}"
        case VoteRequest():
            return f"document {message.document_ref}"
        case VoteReply():
            return _vote(message)
        case DocumentOffer() | DocumentCopy():
            document = message.document
            sync = document.sync
            listed = ", ".join(sorted(sync.nodes())) or "nobody"
            return f"document {document.ref}: primary {document.primary}, {sync.k} of {listed}"
        case ShortDocument():
            kind = "copy" if message.term is None else "offer"
            return f"{kind} of document {message.document.ref}, less {message.left_out} timelines"
        case DocumentWanted():
            return f"has no whole document {message.document_ref}"
        case DocumentAck():
            return f"has document {message.document_ref}"
        case Release():
            heir = f", {message.successor} stands" if message.successor else ""
            return f"up to round {message.last_round}{heir}"
        case OrderRequest():
            return _order(message.order)
        case OrderReply():
            answer = message.answer
            return f"{'accepted' if answer.accepted else 'refused'}: {answer.reason}"
        case TermRejected():
            return f"promised term {message.promised}"
        case Candidacy():
            return "stand instead"
        case _:
            return ""


def _order(order: Order) -> str:
    return f"{order.kind} to {order.target}" if order.target else str(order.kind)


def _vote(reply: VoteReply) -> str:
    if not reply.granted:
        return f"refused: {reply.refusal}"
    if not reply.detached:
        return "granted, not detached yet"
    return f"granted and detached, {_at(reply.position)}, document {reply.document_ref}"


def _at(position: RankedPosition | None) -> str:
    if position is None:
        return "no WAL that counts"
    return f"WAL until {format_lsn(position.lsn)} of term {position.wal_term}"
