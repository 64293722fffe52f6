"""Pass over the messages of a large piece in which nothing needs a closer look.

A large result consists of rows, and rows are often of one length. Where a few of them were, the
headers that would come next if all were are compared at once: each of the five bytes of a header
for all messages, as one slice. So thousands of headers take a few calls into C.

Invariant: a header that is compared is known to be one, since all before it are; nothing is taken
for granted of bodies. What is found is the same as message by message.

Looking further ahead than it was worth so far is limited, so no stream makes this slower than
going message by message by more than a small factor.

Deliberately unknown here: what the messages mean, and where the last one of them ends.
"""

from __future__ import annotations

import struct

from metako.pgwire.stream import HEADER_BYTES, LENGTH_MIN

# Messages that have the length of the one before, until those behind them are looked at; twice as
# many each time that it was not worth it.
ALIKE_MIN = 2
WORTH = 16
AHEAD = 128  # messages, at first
AHEAD_GROWTH = 8

_header = struct.Struct("!BI").unpack_from
_COLUMNS = (4, 3, 0, 2, 1)  # of a header; what tells apart most comes first


def pass_over(
    buffer: bytes | bytearray, position: int, size: int, actions: tuple[int, ...]
) -> tuple[int, int, int]:
    """Pass over messages that ask for no action, beginning with the header at `position`.

    Returns where the next message begins, which may be behind the end of the piece; the type of the
    last one that was passed, 0 without one; and how many were looked at one by one. It ends before
    a header that has not come in full, asks for something, or has a length that none has.
    """
    last = size - HEADER_BYTES
    before = again = kind = walked = 0
    enough = ALIKE_MIN
    for walked in range(size):  # noqa: B007 - counts, and costs less than adding
        if position > last:
            break
        next_kind, length = _header(buffer, position)
        if actions[next_kind] or length < LENGTH_MIN:
            break
        kind = next_kind
        position += length + 1
        if length != before:
            before, again = length, 0
        elif again < enough:
            again += 1
        else:
            again = 0
            found = _repeated(buffer, position, last, length + 1)
            enough = enough * 2 if found < WORTH else ALIKE_MIN
            position += found * (length + 1)
    return position, kind, walked


def _repeated(buffer: bytes | bytearray, position: int, last: int, stride: int) -> int:
    """Return how often the header of the message that ends at `position` follows again.

    Args:
        last: where the last header could begin.
        stride: how long the messages are, with their headers.
    """
    header = buffer[position - stride : position - stride + HEADER_BYTES]
    ahead, found = AHEAD, 0
    while position <= last:
        count = looked = min((last - position) // stride + 1, ahead)
        for column in _COLUMNS:
            begin = position + column
            part = buffer[begin : begin + (count - 1) * stride + 1 : stride]
            byte = header[column : column + 1]
            if part != byte * count:
                count -= len(part.lstrip(byte))
                if not count:
                    return found
        found += count
        if count < looked:
            break
        position += count * stride
        ahead *= AHEAD_GROWTH
    return found
