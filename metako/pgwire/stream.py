"""What a scanner of either direction needs to go on where the last piece was cut.

A header that is cut is kept and joined with the next piece; a body of which something is to be
kept is gathered up to its limit; the rest of any other body is only counted.

Deliberately unknown here: what the messages mean. That is `scan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from metako.pgwire.layout import Layout, Layouts

HEADER_BYTES = 5
LENGTH_MIN = 4  # the length field counts itself
NO_LAYOUTS: Mapping[int, Layout] = MappingProxyType({})


class Note(NamedTuple):
    """A message that somebody may want to know of, as far as it was kept."""

    kind: bytes  # its type byte
    body: bytes  # what follows the length, cut off at the limit of its kind
    whole: bool  # whether nothing was cut off

    @property
    def sqlstate(self) -> str:
        """The code of an ErrorResponse or NoticeResponse; "" if it has none."""
        for part in self.body.split(b"\0"):
            if part.startswith(b"C"):
                return part[1:6].decode("ascii", "replace")
        return ""


class Scanner:
    """What both directions need to go on where the last piece was cut.

    Args:
        layouts: shared by all scanners of the same direction.
        keeps: whether `notes` are wanted. They cost something, for every Query for example.
    """

    __slots__ = (
        *("_gathered", "_head", "_keeps", "_kind", "_layouts", "_open", "_resumes", "_skip"),
        *("_wanted", "_whole", "known", "notes", "shapes", "usual", "walked"),
    )

    def __init__(self, layouts: Layouts, *, keeps: bool) -> None:
        self.notes: list[Note] = []  # appended to by `scan`; whoever takes them clears the list
        # How many messages of the last large piece were looked at one by one.
        self.walked = 0
        self._keeps = keeps
        self._layouts = layouts
        self._open: Mapping[int, Layout] = layouts.known  # or NO_LAYOUTS, in the middle of a COPY
        # By the size of the next piece: the layout for which it need not be scanned; see `scan`.
        # Without entries in the middle of a message or of a COPY.
        self.known: Mapping[int, Layout] = layouts.known
        self.usual: Mapping[int, Layout] = layouts.known  # what that is between two messages
        self.shapes = layouts.shapes.known
        self._skip = 0  # bytes of the present body that have not come yet
        self._head = b""  # the beginning of a message whose header is not complete
        self._resumes = False  # whether there is a `_head`, or a body is being gathered
        self._gathered: bytearray | None = None  # a body that is kept and has not come in full
        self._kind = 0  # the type of the message in `_gathered`
        self._wanted = 0  # how long `_gathered` is to become, in bytes
        self._whole = True  # whether `_wanted` is the entire body

    @property
    def at_boundary(self) -> bool:
        """Whether the last piece ended where a message ends."""
        return not self._skip and not self._head

    @property
    def unread_body(self) -> int | None:
        """How many bytes of the present body have not come; None in the middle of a header."""
        return None if self._head else self._skip

    def _set_open(self, layouts: Mapping[int, Layout]) -> None:
        self._open = layouts
        self.known = layouts if self.at_boundary else NO_LAYOUTS

    def pass_body(self, size: int) -> bool:
        """Take the next `size` bytes, if all of them and the one behind are inside of one body.

        Return whether they were taken. They need not be looked at then.
        """
        if self._resumes or self._skip <= size:
            return False
        self._skip -= size
        self.walked = 0
        return True

    def scan(self, buffer: bytes | bytearray, size: int) -> int:
        raise NotImplementedError

    def _resume(self, buffer: bytes | bytearray, size: int) -> int:
        """Do what `scan` does, when the last piece ended inside of something."""
        gathered = self._gathered
        if gathered is None:
            # Copying a piece costs little, and is rare: headers are seldom cut.
            head, self._head, self._resumes = self._head, b"", False
            joined = head + buffer[:size]
            return self.scan(joined, len(joined)) - len(head)
        gathered += buffer[: min(self._wanted - len(gathered), size)]
        if len(gathered) < self._wanted:
            self._skip -= size
            return size
        self._gathered, self._resumes = None, False
        self._note(Note(bytes((self._kind,)), bytes(gathered), self._whole))
        return self.scan(buffer, size)

    def _stop_inside_header(self, buffer: bytes | bytearray, position: int, size: int) -> None:
        self._head = bytes(buffer[position:size])
        self._resumes = True
        self._skip = 0
        self.known = NO_LAYOUTS

    def _keep(
        self, kind: int, buffer: bytes | bytearray, start: int, size: int, span: int, wanted: int
    ) -> None:
        """Note the first `wanted` of the `span` bytes from `start`, now or when they have come."""
        body = bytes(buffer[start : min(start + wanted, size)])
        if len(body) == wanted:
            self._note(Note(bytes((kind,)), body, wanted == span))
            return
        self._kind, self._wanted, self._whole = kind, wanted, wanted == span
        self._gathered = bytearray(body)
        self._resumes = True

    def _note(self, note: Note) -> None:
        self.notes.append(note)
