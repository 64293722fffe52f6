"""Scanners that tell everything of the stretches of a conversation in which something matters.

A session leaves something behind in its server seldom: it changes a setting, prepares a statement,
takes a lock. Which texts may do so is decided by a function that is given, `concerns`. While no
such text passes, next to nothing is told, and pieces are recognised by their layouts as ever. With
the first one an *episode* begins, which lasts until the client is at rest outside of any
transaction. During an episode every message that matters for following is a note:

    from the client   Q P B E C F S          (P of the unnamed statement too)
    from the server   1 2 3 C I s G Z        (C with every tag)

besides ErrorResponse, NoticeResponse, ParameterStatus and NotificationResponse, which are noted at
all times. Outside of an episode a CommandComplete is noted if its tag tells of a change: a change
that nobody saw coming.

What began before the episode is still to be answered first. Therefore the first note of each is an
`Opening`: how many requests are unanswered, and which messages of the extended protocol have been
sent behind the last of them. The ReadyForQuery of an episode is noted as a `Ready`, since whoever
follows must know whether more answers are to come.

A statement with a name is told of when it is prepared, hence begins an episode. A
statement whose text concerns somebody is *marked*: each Bind of it begins an episode too, and no
layout is taken while there is one. The unnamed one is marked until another takes its place outside
of an episode. (If the server skips that one because of an error, the change that executing the old
one makes is noted by its tag.)

Invariant: as for all scanners, cutting a stream elsewhere changes no note. (An episode may begin
earlier or later in relation to the other stream, as the pieces do.)

Deliberately unknown here: SQL, and what becomes of the notes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from metako.pgwire.actions import (
    CLIENT,
    CLIENT_MARKED,
    CLIENT_WATCHED,
    EXTENDED_KINDS,
    HARMLESS_TAGS,
    NO_TAGS,
    PARSE_BYTES_MAX,
    PARSE_PEEK_BYTES,
    SERVER,
    SERVER_WATCHED,
    SYNC_KIND,
)
from metako.pgwire.layout import Concerns, Layouts
from metako.pgwire.scan import STATUS_IDLE, ClientScanner, ServerScanner
from metako.pgwire.stream import HEADER_BYTES, NO_LAYOUTS, Note
from metako.pgwire.tally import Tally

TEXT_BYTES_MAX = PARSE_BYTES_MAX  # of a Query or a Parse that is kept and looked at in full
MARKED_MAX = 64  # names of statements; with more, every Bind begins an episode
EARLIER_MAX = 4096  # messages of an open unit that are told of in an `Opening`

OPENING_KIND = b"+"  # no message of the protocol has this type

_QUERY, _PARSE, _BIND, _CLOSE, _STATEMENT = b"QPBCS"
# Each has one answer, unless something fails: 1, 2, 3, and one of C, I and s.
_ANSWERED_KINDS = frozenset(b"PBCE")
_TEXT_KINDS = frozenset(b"QP")
_ENDS_UNIT = frozenset(b"SQF")
_BARE_KINDS = frozenset(b"123Is")  # their bodies are empty
_COPY_IN_RESPONSE = ord("G")
# A Bind and an Execute are told up to the names of statement and portal.
_LIMITS = {
    kind: limit
    for kinds, limit in ((b"QP", TEXT_BYTES_MAX), (b"BEC", 256), (b"F", 4), (b"S", 0))
    for kind in kinds
}
_header = struct.Struct("!BI").unpack_from
_length = struct.Struct("!I").unpack_from
_opening = struct.Struct("!I?")
_ready = struct.Struct("!BI")


class Opening(NamedTuple):
    """What the server still has to answer when an episode begins."""

    owed: int  # ReadyForQuery of earlier requests
    unnamed: bool  # whether the unnamed statement is one that was told of
    earlier: bytes  # types of the messages P, B, C and E that follow the last of those

    @classmethod
    def of(cls, note: Note) -> Opening | None:
        """Return what `note` says, None if it says something else or not all of it was kept."""
        if note.kind != OPENING_KIND or not note.whole:
            return None
        owed, unnamed = _opening.unpack_from(note.body)
        return cls(owed, unnamed, note.body[_opening.size :])


class Ready(NamedTuple):
    """A ReadyForQuery."""

    status: int
    owed: int  # that are still to come

    @classmethod
    def of(cls, note: Note) -> Ready:
        return cls(*_ready.unpack(note.body))


def following_client_layouts(concerns: Concerns) -> Layouts:
    """Return the memory that the scanners of clients share, of those that are followed."""
    return Layouts(b"PBDEH", SYNC_KIND, concerns=concerns)


def following_server_layouts(tally: Tally | None = None) -> Layouts:
    """Return the memory that the scanners of servers share, of those that are followed."""
    return Layouts(b"123ntTDsI", ord("Z"), HARMLESS_TAGS, tally=tally)


class FollowingClient(ClientScanner):
    """From client to server; see the module's docstring.

    Args:
        layouts: shared by all that follow; from `following_client_layouts`.
    """

    __slots__ = (
        *("_all_marked", "_concerns", "_earlier", "_marked", "_piece", "_piece_begin"),
        *("_position", "_server", "watching"),
    )

    def __init__(self, layouts: Layouts) -> None:
        super().__init__(layouts, keeps=True)
        if layouts.concerns is None:
            raise ValueError("these layouts are not for following")
        self._concerns = layouts.concerns
        self.watching = False  # whether an episode has begun and not ended
        self._server: FollowingServer | None = None  # None until there is one
        self._marked: set[bytes] = set()  # statements each of whose executions is to be told of
        self._all_marked = False  # there were too many of them
        # What is answered of the unit of the extended protocol that the last piece left open.
        self._earlier = b""
        self._piece: bytes | bytearray | None = None  # what is scanned; None between two pieces
        self._piece_begin = 0  # where its first header is
        self._position = 0  # where the message is that is looked at

    def scan(self, buffer: bytes | bytearray, size: int) -> int:
        if self._resumes:
            return self._resume(buffer, size)
        if self.tail not in EXTENDED_KINDS:
            self._earlier = b""
        begin = self._skip
        self._piece, self._piece_begin = buffer, begin
        taken = super().scan(buffer, size)
        self._piece = None
        if not self.watching:
            if self._gathered is not None:
                # Up to the message that goes on in the next piece; `_note` is told of that one.
                self._earlier = _unit(self._earlier, buffer, begin, self._position)
            elif self.tail in EXTENDED_KINDS:
                self._earlier = _unit(self._earlier, buffer, begin, size)
        return taken

    def is_plain_query(self, piece: bytes) -> bool:
        size = len(piece)
        plain = (
            size > HEADER_BYTES
            and self.known is self.usual
            and _length(piece, 1)[0] == size - 1
            and self.tail not in EXTENDED_KINDS
            and not self._concerns(piece[HEADER_BYTES:-1])
        )
        if plain:
            self._layouts.shapes.learn(piece)
        return plain

    def join(self, server: FollowingServer) -> None:
        """Take the scanner of the other direction."""
        self._server = server

    def know(self, statements: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take names and texts of statements that were prepared before; None: it is not known."""
        for name, text in statements:
            if text is None or self._concerns(text):
                self._mark_name(name)
        self._do_as_usual()

    # -- what is looked at ---------------------------------------------------------------------

    def _keep_message(
        self, kind: int, buffer: bytes | bytearray, position: int, size: int, length: int
    ) -> None:
        start, span = position + HEADER_BYTES, length + 1 - HEADER_BYTES
        limit = _LIMITS[kind]
        if span > limit and kind in _TEXT_KINDS:
            limit = PARSE_PEEK_BYTES
        elif not self.watching and start + span <= size:
            # By far the most frequent: no note is made if nobody needs it.
            if kind == _QUERY:
                if not self._concerns(bytes(buffer[start : start + span - 1])):
                    return
            elif kind == _PARSE and span and not buffer[start]:
                end = buffer.find(b"\0", start + 1, start + span)
                if end > 0 and not self._concerns(bytes(buffer[start + 1 : end])):
                    if self._marked:
                        self._unmark_unnamed()
                    return
        self._position = position
        self._keep(kind, buffer, start, size, span, min(span, limit))

    def _note(self, note: Note) -> None:
        kind = note.kind[0]
        kept_unnamed = b"" in self._marked
        marked = kind == _PARSE and self._mark(note)
        if not self.watching:
            if not marked and not self._matters(kind, note):
                if self._piece is None and kind in _ANSWERED_KINDS:
                    self._earlier += note.kind
                return
            self._begin_episode(kind, kept_unnamed)
        self.notes.append(note)

    def _matters(self, kind: int, note: Note) -> bool:
        body = note.body
        if kind == _QUERY:
            return not note.whole or self._concerns(body[:-1])
        if kind == _PARSE:
            return not body.startswith(b"\0")
        if kind == _CLOSE:
            return not body or body[0] == _STATEMENT
        if kind == _BIND:
            names = body.split(b"\0", 2)
            return self._all_marked or len(names) < 3 or names[1] in self._marked
        return True

    def _mark(self, note: Note) -> bool:
        """Return whether the text of a Parse concerns somebody; remember its name if so."""
        name, _, rest = note.body.partition(b"\0")
        if note.whole and not self._concerns(rest.partition(b"\0")[0]):
            if not name and not self.watching:
                self._unmark_unnamed()
            return False
        self._mark_name(name)
        return True

    def _mark_name(self, name: bytes) -> None:
        self._all_marked = self._all_marked or len(self._marked) >= MARKED_MAX
        if not self._all_marked:
            self._marked.add(name)

    def _unmark_unnamed(self) -> None:
        if b"" in self._marked:
            self._marked.discard(b"")
            self._do_as_usual()

    # -- episodes ------------------------------------------------------------------------------

    def _begin_episode(self, kind: int, kept_unnamed: bool) -> None:
        earlier = self._earlier
        if self._piece is not None:
            earlier = _unit(earlier, self._piece, self._piece_begin, self._position)
        # A server that answers more than it was asked makes it negative.
        owed = max(self.owed - (kind in _ENDS_UNIT), 0)
        body = _opening.pack(owed, kept_unnamed) + earlier[:EARLIER_MAX]
        self.notes.append(Note(OPENING_KIND, body, len(earlier) <= EARLIER_MAX))
        self.watching = True
        self._do_as_usual()
        if self._server is not None:
            self._server.watch()

    def answered(self) -> None:
        super().answered()
        server = self._server
        if not self.watching or server is None:
            return
        server.notes.append(Note(b"Z", _ready.pack(server.status, max(self.owed, 0)), True))
        if (
            server.status == STATUS_IDLE
            and not self.owed
            and not self.extended_open
            and not self.copying_in
        ):
            self.watching = False
            self._do_as_usual()
            server.unwatch()

    def _do_as_usual(self) -> None:
        """Choose actions and layouts anew."""
        copying = self.copying_in
        if self.watching:
            self._usual = CLIENT_WATCHED
        else:
            self._usual = CLIENT_MARKED if self._marked else CLIENT
        self._set_copying_in(copying)

    def _set_copying_in(self, copying: bool) -> None:
        super()._set_copying_in(copying)
        if self.watching or self._marked:
            self._set_open(NO_LAYOUTS)


class FollowingServer(ServerScanner):
    """From server to client; see the module's docstring.

    Args:
        client: the other direction, which tells when episodes begin and end.
        layouts: shared by all that follow; from `following_server_layouts`.
        status: 0 if the login is still to come.
    """

    __slots__ = ("_follower",)

    def __init__(self, client: FollowingClient, layouts: Layouts, *, status: int = 0) -> None:
        super().__init__(client, layouts, keeps=True, status=status)
        self._follower = client
        self._tags = HARMLESS_TAGS
        client.join(self)
        if client.watching:
            self.watch()

    def successor(self, status: int) -> FollowingServer:
        return FollowingServer(self._follower, self._layouts, status=status)

    def watch(self) -> None:
        """Note every answer from now on."""
        self._actions, self._tags = SERVER_WATCHED, NO_TAGS
        self._set_open(NO_LAYOUTS)

    def unwatch(self) -> None:
        """Note what is unusual only."""
        self._actions, self._tags = SERVER, HARMLESS_TAGS
        self._set_open(NO_LAYOUTS if self.copy else self._layouts.known)

    def _report(
        self, kind: int, buffer: bytes | bytearray, start: int, size: int, span: int
    ) -> None:
        if kind in _BARE_KINDS:
            self.notes.append(Note(bytes((kind,)), b"", True))
            return
        super()._report(kind, buffer, start, size, span)
        if kind == _COPY_IN_RESPONSE and self._follower.watching:
            self.notes.append(Note(b"G", b"", True))

    def _end_copy(self, *, failed: bool) -> None:
        super()._end_copy(failed=failed)
        if self._follower.watching:
            self._set_open(NO_LAYOUTS)


def _unit(earlier: bytes, buffer: bytes | bytearray, begin: int, end: int) -> bytes:
    """Return what is answered of the unit that is open at `end`, whose begin is `earlier`."""
    found = bytearray(earlier)
    while begin + HEADER_BYTES <= end:
        kind, length = _header(buffer, begin)
        if kind in _ENDS_UNIT:
            found.clear()
        elif kind in _ANSWERED_KINDS:
            found.append(kind)
        begin += length + 1
    return bytes(found[: EARLIER_MAX + 1])
