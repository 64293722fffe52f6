"""What the transport counts: everything that came, went, or was dropped, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from metako.wire.errors import SealReason


class Drop(enum.StrEnum):
    """Why something was not delivered or not sent."""

    # received: the seal's reasons
    FORMAT = "format"
    VERSION = "version"
    CLUSTER = "cluster"
    RECIPIENT = "recipient"
    KEY = "key"
    EPOCH = "epoch"
    REPLAY = "replay"
    # received: the rest
    OVERSIZE = "oversize"  # longer than a datagram or a stream may be
    MESSAGE = "message"  # authentic, and not a message that we know
    INBOX_FULL = "inbox_full"
    CONNECTIONS = "connections"  # more streams at a time than allowed
    INCOMPLETE = "incomplete"  # a stream that ended or stalled within its frame
    # sending
    ENCODING = "encoding"  # the message breaks a limit of the format
    UNRESOLVED = "unresolved"  # the host's address is not known (yet)
    BLOCKED = "blocked"  # the kernel's send buffer is full
    UNREACHABLE = "unreachable"  # the kernel refused: no route, filtered
    STREAMS_BUSY = "streams_busy"  # more streams to send at a time than allowed
    STREAM_FAILED = "stream_failed"  # no connection, or no answer in time
    STREAM_REFUSED = "stream_refused"  # the peer answered that it did not take it


@dataclass(slots=True)
class TransportCounters:
    """Totals since the start; they only grow."""

    datagrams_received: int = 0  # authentic and delivered
    datagrams_sent: int = 0
    streams_received: int = 0  # authentic and delivered, or answered
    streams_sent: int = 0  # taken by the peer
    bytes_received: int = 0  # of everything that came, good or bad
    bytes_sent: int = 0
    dropped: dict[Drop, int] = field(default_factory=lambda: dict.fromkeys(Drop, 0))
    # For each reason the last peer and detail, for a log line; bounded by the reasons.
    last_dropped: dict[Drop, str] = field(default_factory=dict)

    def drop(self, reason: Drop, detail: str) -> None:
        """Count one drop and remember the last of its kind."""
        self.dropped[reason] += 1
        self.last_dropped[reason] = detail


def drop_of(reason: SealReason) -> Drop:
    """Return how a refusal by the seal is counted."""
    return Drop(reason.value)
