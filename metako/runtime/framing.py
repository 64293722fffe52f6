"""One frame over a byte stream: four bytes of length, big-endian, and that many bytes."""

from __future__ import annotations

import struct

import trio

_LENGTH = struct.Struct("!I")
_CHUNK_BYTES = 64 << 10


class FrameTooLongError(Exception):
    """The frame announces more than is allowed; nothing of it was read."""


class StreamEndedError(Exception):
    """The stream ended before the frame did. `started` tells whether any byte came."""

    def __init__(self, *, started: bool) -> None:
        super().__init__("the stream ended within a frame" if started else "the stream is empty")
        self.started = started


async def send_frame(stream: trio.SocketStream, data: bytes) -> None:
    """Send one frame. If cancelled, part of it may have been sent: close the stream.

    Raises:
        trio.BrokenResourceError: the peer is gone.
    """
    await stream.send_all(_LENGTH.pack(len(data)) + data)


async def receive_frame(stream: trio.SocketStream, max_bytes: int) -> bytes:
    """Return the next frame. If cancelled, part of it was lost: close the stream.

    Memory grows with what has come, not with the length announced.

    Raises:
        FrameTooLongError: more than `max_bytes` are announced.
        StreamEndedError: the peer closed the stream too soon.
        trio.BrokenResourceError: the peer is gone.
    """
    buffer = bytearray()
    wanted = _LENGTH.size
    length: int | None = None  # None until the first four bytes have come
    while True:
        if length is None and len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > max_bytes:
                raise FrameTooLongError(f"{length} bytes, at most {max_bytes} are allowed")
            wanted = _LENGTH.size + length
        if length is not None and len(buffer) >= wanted:
            return bytes(buffer[_LENGTH.size :])
        # Never more than the frame: what follows it is not ours to take.
        chunk = await stream.receive_some(min(wanted - len(buffer), _CHUNK_BYTES))
        if not chunk:
            raise StreamEndedError(started=bool(buffer))
        buffer += chunk
