"""Copy bytes from one socket to another, in bulk, with bounded memory.

One scratch buffer serves all pumps of a worker: between filling it and handing it to the kernel
there is no checkpoint, so nobody else can touch it in between. Only what the receiver does not
take at once is copied aside; nothing more is read until that is gone (back-pressure: the sender's
window closes). An idle session therefore costs no buffer at all.

The pump looks at nothing but the last bytes of what it delivered, to know whether the receiver is
between two messages of PostgreSQL. Messages of our own may be put there and nowhere else.

Deliberately unknown here: why a connection ends, and what is done about it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import trio

SCRATCH_BYTES = 65_536
# Chunks in a row without a checkpoint. One huge result must not starve the other sessions.
ROUNDS_MAX = 16

_READY_BYTES = 6
_READY_PREFIX = b"Z\x00\x00\x00\x05"  # ReadyForQuery, followed by one byte: I, T or E
_READY_IDLE = _READY_PREFIX + b"I"


@dataclass(slots=True)
class Meter:
    """Bytes that passed in one direction, over all sessions of a worker."""

    count: int = 0


@dataclass(slots=True)
class Turn:
    """Which direction of a session moved last."""

    upward: bool = False  # the client did: it is being served, or about to be


def make_scratch() -> memoryview:
    """Return the buffer that all pumps of one thread share."""
    return memoryview(bytearray(SCRATCH_BYTES))


class Pump:
    """One direction of one session."""

    __slots__ = ("_tail", "_turn", "_upward", "pending")

    def __init__(self, turn: Turn, *, upward: bool) -> None:
        self.pending = False  # a chunk has been taken and not yet delivered in full
        self._turn = turn  # shared with the other direction
        self._upward = upward
        self._tail = b""  # the last bytes delivered, at most _READY_BYTES of them

    @property
    def at_boundary(self) -> bool:
        """Whether the receiver has read complete messages only and waits for none.

        True before the first byte; later judged by a ReadyForQuery as the very last bytes. A row
        that ends in the same six bytes can deceive this only if the chunk ended there too; the
        connection is being given up whenever this is asked, so the worst is a less polite end.
        """
        ready = len(self._tail) == _READY_BYTES and self._tail.startswith(_READY_PREFIX)
        return not self.pending and (ready or not self._tail)

    @property
    def at_rest(self) -> bool:
        """Whether, in addition, no transaction is open."""
        return not self.pending and self._tail == _READY_IDLE

    async def run(
        self,
        source: socket.socket,
        sink: socket.socket,
        scratch: memoryview,
        meter: Meter,
        first: bytes = b"",
    ) -> None:
        """Deliver `first` and then everything until `source` ends. Closes nothing.

        Raises `OSError` or `trio.ClosedResourceError` as soon as one of the sockets is broken or
        closed. If cancelled, a chunk may have been delivered in part.
        """
        if first:
            await self._deliver(memoryview(first), sink, meter)
        rounds = 0
        while True:
            try:
                count = source.recv_into(scratch)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(source)
                rounds = 0
                continue
            if count == 0:
                return
            await self._deliver(scratch[:count], sink, meter)
            rounds += 1
            if rounds >= ROUNDS_MAX:
                await trio.lowlevel.checkpoint()
                rounds = 0

    async def _deliver(self, chunk: memoryview, sink: socket.socket, meter: Meter) -> None:
        size = len(chunk)
        last = bytes(chunk[-_READY_BYTES:])
        self.pending = True
        self._turn.upward = self._upward
        try:
            sent = sink.send(chunk)
        except BlockingIOError:
            sent = 0
        if sent < size:
            # The scratch buffer belongs to whoever runs next: keep our own copy before waiting.
            rest = memoryview(bytes(chunk[sent:]))
            while rest:
                await trio.lowlevel.wait_writable(sink)
                try:
                    rest = rest[sink.send(rest) :]
                except BlockingIOError:
                    continue
        self._tail = last if size >= _READY_BYTES else (self._tail + last)[-_READY_BYTES:]
        self.pending = False
        meter.count += size
