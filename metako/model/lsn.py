"""Log sequence numbers and positions in the write-ahead log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from metako.model.ids import Term, TimelineId

Lsn = NewType("Lsn", int)
"""A byte position in the WAL; plain integer order is WAL order within one history."""

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """Return the LSN that PostgreSQL prints as `X/Y`.

    Raises:
        ValueError: the text is not of that form.
    """
    match = _LSN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an LSN: {text!r}")
    return Lsn(int(match[1], 16) << 32 | int(match[2], 16))


def format_lsn(lsn: int) -> str:
    """Return the LSN the way PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class WalPosition:
    """The end of the last valid record that a node has on its disk, and whose record that is.

    `timeline` owns the record that *ends* at `lsn`: a server that has switched to a timeline
    without writing on it is still at a position of the parent.
    """

    timeline: TimelineId
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.timeline}:{format_lsn(self.lsn)}"


@dataclass(frozen=True, slots=True, order=True)
class RankedPosition:
    """A position that can be compared across timelines: by the term that wrote it, then the LSN.

    Timeline numbers alone compare wrongly: two isolated promotions can both be "later".
    """

    wal_term: Term
    lsn: Lsn

    def __str__(self) -> str:
        return f"t{self.wal_term}@{format_lsn(self.lsn)}"
