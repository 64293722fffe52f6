"""Recognise in one step a piece of a stream whose messages lie as they lay before.

A program asks the same things again and again, so most pieces consist of the same messages of the
same lengths as an earlier one: only what is inside differs. A *layout* is the list of all headers
of such a piece. Comparing them with a piece of the same size takes two calls into C, however many
messages there are, where a scanner takes a round of its loop for each.

Invariant: a layout that matches is proof. All headers are compared, each at its place, the first at
the beginning of the piece; nothing is inferred from some of them.

Only pieces are learnt in which no message needs a closer look, and which end with the message that
gives the turn to the other side: Sync or ReadyForQuery. What they mean is the same for all, so it
need not be kept; but what the tags in a piece count for (`tally`) belongs to its layout.

Who follows a session needs to know of texts as well. Layouts that were made with `concerns` hold
the text of every Parse besides its headers, and match that text only; a text that concerns
anybody is never learnt. So for them, too, a match is proof that nobody needs to look.

Deliberately unknown here: the state of a conversation. Whoever is in the middle of a message, or
of a COPY, must not ask.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from metako.pgwire.shapes import Shapes
from metako.pgwire.tally import Mix, Tally

HEADER_BYTES = 5
MESSAGES_MIN = 2  # one alone is as fast by the scanner's own loop
MESSAGES_MAX = 64
SIZES_MAX = 512  # of pieces, of which something is remembered
TEXT_BYTES_MAX = 4096  # of a text that is remembered; so all of them take 2 MiB at most

_header = struct.Struct("!BI").unpack_from
_PARSE, _COMPLETE = b"PC"

# What a piece is recognised by, how to take the headers out and what they must be; and what is to
# be increased for each such piece, which means nothing where there are no tags.
Fields = tuple[int | bytes, ...]
Layout = tuple[Callable[[bytes | bytearray], Fields], Fields, Mix]
# Whether whoever follows a session must hear of a statement with this text. Two texts that differ
# in nothing but digits, and have no dollar sign, must be the same to it; see `shapes`.
Concerns = Callable[[bytes], bool]


class Layouts:
    """The layouts of one direction, one for each size of a piece.

    Args:
        inner: kinds that need no closer look wherever they are.
        last: the kind that a piece must end with, and may not contain otherwise.
        tags: CommandComplete is taken as well, if the first four bytes of its tag are among these.
        concerns: see the module's docstring; None if texts do not matter.
        tally: of what the tags tell; None for one of its own.
    """

    def __init__(
        self,
        inner: bytes,
        last: int,
        tags: frozenset[int] = frozenset(),
        *,
        concerns: Concerns | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.concerns = concerns
        self.tally = Tally() if tally is None else tally
        self.shapes = Shapes()
        self.known: dict[int, Layout] = {}
        self._inner = frozenset(inner)
        self._last = last
        self._tags = tags
        self._misses: dict[int, int] = {}  # pieces that were not recognised, by their size

    def learn(self, buffer: bytes | bytearray, size: int) -> None:
        """Consider a piece that was not recognised, and that begins and ends with a message.

        A layout is made at the second, fourth, eighth... of its size: making one takes longer
        than it saves for a few pieces, and sizes may be shared by layouts that take turns.
        """
        misses = self._misses.get(size, 0) + 1
        if misses == 1 and len(self._misses) >= SIZES_MAX:
            self._misses.clear()
            self.known.clear()
        self._misses[size] = misses
        if misses > 1 and not misses & (misses - 1):
            layout = self._layout(buffer, size)
            if layout is not None:
                self.known[size] = layout

    def _layout(self, buffer: bytes | bytearray, size: int) -> Layout | None:
        formats, expected = ["!"], list[int | bytes]()
        position = count = kind = reads = writes = 0
        while position < size:
            if count == MESSAGES_MAX or kind == self._last:
                return None
            count += 1
            kind, length = _header(buffer, position)
            formats.append("BI")
            expected += (kind, length)
            start, body = position + HEADER_BYTES, length + 1 - HEADER_BYTES
            position += length + 1
            if kind == _COMPLETE and self._tags:
                if body < 4:
                    return None
                tag = int.from_bytes(buffer[start : start + 4], "big")
                if tag not in self._tags:
                    return None
                formats.append(f"I{body - 4}x")
                expected.append(tag)
                mix = self.tally.of(tag, body)
                reads, writes = reads + mix.reads, writes + mix.writes
            elif kind == _PARSE and kind in self._inner:
                if body < 1 or buffer[start]:
                    return None  # a named statement is to be kept
                expected.append(0)
                if self.concerns is None:
                    formats.append(f"B{body - 1}x")
                    continue
                text, end, rest = bytes(buffer[start + 1 : position]).partition(b"\0")
                if not end or len(text) > TEXT_BYTES_MAX or self.concerns(text):
                    return None
                # With its end, or a longer text that begins like this one would be taken for it.
                formats.append(f"B{len(text) + 1}s{len(rest)}x")
                expected.append(text + end)
            elif kind in self._inner:
                formats.append(f"{body}x")
            elif kind != self._last:
                return None
        if count < MESSAGES_MIN or kind != self._last:
            return None
        get = struct.Struct("".join(formats)).unpack_from
        return get, tuple(expected), self.tally.mix(reads, writes)
