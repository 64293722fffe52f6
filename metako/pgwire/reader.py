"""Whole messages out of a stream of bytes, for the slow paths: logins, and what surrounds them.

In: the bytes of a peer, in whatever pieces they arrive. Out: one (kind, body) after the other, and
at the end the bytes that nobody has asked for, so that the relay can be given exactly what follows.

Invariant: the length that a peer announces is checked as soon as its five bytes of header are
there. A caller that asks for messages until there is none holds at most one header, one body of
`body_bytes_max` and what it received last.

Deliberately unknown here: what the messages mean. The hot path of a session does not use this.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from metako.pgwire.startup import PgWireError

HEADER_BYTES = 5

_HEADER = struct.Struct("!cI")


class Message(NamedTuple):
    """One message of either side, without its length."""

    kind: bytes  # one byte
    body: bytes


class MessageReader:
    """See the module's docstring. After a `PgWireError` the reader is of no use any more."""

    def __init__(self, *, body_bytes_max: int) -> None:
        self.body_bytes_max = body_bytes_max  # may be changed between two messages
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """How many bytes were received and belong to no message that was returned."""
        return len(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer += data

    def next_untrusted(self) -> Message | None:
        """Return the next message, or None until more bytes are received.

        Raises:
            PgWireError: what arrived is no message, or longer than allowed. Nothing was consumed.
        """
        if len(self._buffer) < HEADER_BYTES:
            return None
        kind, length = _HEADER.unpack_from(self._buffer)
        # All kinds that exist are letters or digits: anything else is another protocol.
        if not kind.isalnum() or length < HEADER_BYTES - 1:
            raise PgWireError("not a message of PostgreSQL")
        end = 1 + length
        if end - HEADER_BYTES > self.body_bytes_max:
            raise PgWireError("invalid message length")
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return Message(kind, body)

    def take_rest(self) -> bytes:
        """Return the bytes behind the last message, and forget them."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
