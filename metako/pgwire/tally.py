"""How many statements have read and how many have written, by what servers say of them.

In: the tags of CommandComplete, as their first four bytes. Out: two numbers, for all scanners that
share a `Tally`.

A piece that is recognised by its layout must not cost more than one addition, however many
statements it answers. So what is counted is how often each *mix* passed, so many reads and so many
writes in one piece, and the rest is multiplied when somebody asks. A mix belongs to the tally and
not to the layouts that have it: when a layout is forgotten, its count stays.

A tag tells what a statement is, not what it does: a function that is called by a SELECT may write,
and what was written may be rolled back. CREATE TABLE AS and SELECT INTO have the tag of a SELECT.

Deliberately unknown here: what the tags mean for a session. That is told by notes, to others.

Source: src/include/tcop/cmdtaglist.h.
"""

from __future__ import annotations

from collections.abc import Mapping

from metako.pgwire.actions import COMMENT_TAG, COPY_TAG, HARMLESS_TAGS, READ_TAGS, WRITE_TAGS

COMMENT_BYTES = len(b"COMMENT\0")  # those of COMMIT and COMMIT PREPARED are not as many
COPY_OUT_RESPONSE = ord("H")


class Mix:
    """What a piece may contain, and how often one has passed."""

    __slots__ = ("count", "reads", "writes")

    def __init__(self, reads: int, writes: int) -> None:
        self.reads = reads  # statements in one piece
        self.writes = writes
        self.count = 0  # pieces; whoever passes one increases it


class Tally:
    """See the module's docstring.

    There are as many mixes as a layout may have, a few thousand at the very most.
    """

    def __init__(self) -> None:
        self._mixes: dict[tuple[int, int], Mix] = {}
        self._neither, self._read, self._write = self.mix(0, 0), self.mix(1, 0), self.mix(0, 1)
        # Of everyday's tags, for those who cannot afford a call; `of` knows all others.
        self.by_tag: Mapping[int, Mix] = {
            **dict.fromkeys(HARMLESS_TAGS - {COPY_TAG, COMMENT_TAG}, self._neither),
            **dict.fromkeys(READ_TAGS, self._read),
            **dict.fromkeys(WRITE_TAGS, self._write),
        }

    @property
    def reads(self) -> int:
        """How many statements have read so far."""
        return sum(mix.count * mix.reads for mix in self._mixes.values())

    @property
    def writes(self) -> int:
        """How many statements have written so far."""
        return sum(mix.count * mix.writes for mix in self._mixes.values())

    def mix(self, reads: int, writes: int) -> Mix:
        """Return what is to be increased for a piece with so many of both."""
        return self._mixes.setdefault((reads, writes), Mix(reads, writes))

    def of(self, tag: int, span: int, copying: int = 0) -> Mix:
        """Return what is to be increased for one CommandComplete.

        Args:
            tag: the first four bytes of its body.
            span: how many bytes the body has.
            copying: the type of the response that began a COPY; 0 without one. A COPY between the
                server and its own files has none and is taken for one that writes.
        """
        mix = self.by_tag.get(tag)
        if mix is not None:
            return mix
        if tag == COPY_TAG:
            return self._read if copying == COPY_OUT_RESPONSE else self._write
        writes = tag == COMMENT_TAG and span == COMMENT_BYTES
        return self._write if writes else self._neither
