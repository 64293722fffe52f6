"""What two byte streams say about a conversation, read from message headers only.

A scanner is told of every piece of its stream, in order, however the stream was cut. It jumps from
header to header by the announced lengths; bodies are not looked at, but for the few messages of
which something is kept, and the tags of CommandComplete, which are counted (`tally`). It creates no
object per message, because it runs for every piece that passes a proxy.

In: pieces of the stream. Out: how much of a piece may be passed on, the state of the conversation
as attributes, and `notes`, the messages that were kept.

Invariants: cutting a stream elsewhere changes neither state nor notes nor counts. What is
remembered between two pieces is bounded by `HEADER_BYTES` and the limits in `CLIENT_LIMITS` and
`SERVER_LIMITS`.

`ClientScanner.owed` is the number of ReadyForQuery that the server still has to send: one for each
Query, Sync and FunctionCall. It is the difference of two counters, of which `answers` only grows:
while that stays the same and something is owed, the server is busy with the same request.

Two things make PostgreSQL swallow a request. In the middle of COPY FROM STDIN it ignores a Sync;
that is accounted for, because every client that copies in the extended protocol sends one. After an
error in the extended protocol it skips *all* messages until a Sync, also a Query. No driver sends a
Query without a Sync before it, unless it has waited for the answer to all else; one that did would
be counted as owed more than it is, hence never be taken to be at rest, which costs a little and
breaks nothing.

Deliberately unknown here: sockets, what becomes of the notes, and the startup packet, which has no
type byte and is parsed by `startup`.

Source: PostgreSQL documentation, "Frontend/Backend Protocol"; src/backend/tcop/postgres.c
(SocketBackend, PostgresMain) and src/backend/commands/copyfromparse.c (CopyGetData).
"""

from __future__ import annotations

import struct

from metako.pgwire.actions import (
    CLIENT,
    CLIENT_COPY_IN,
    CLIENT_LIMITS,
    COPY_END,
    EXTENDED_KINDS,
    FREQUENT_TAGS,
    PARSE_PEEK_BYTES,
    READY,
    REQUEST,
    SERVER,
    SERVER_LIMITS,
    SYNC,
    TAG,
    TERMINATE,
    UNKNOWN,
)
from metako.pgwire.actions import (
    SYNC_KIND as SYNC_KIND,  # for those who look among the `known` themselves
)
from metako.pgwire.layout import Layouts
from metako.pgwire.runs import pass_over
from metako.pgwire.startup import PgWireError
from metako.pgwire.stream import HEADER_BYTES, LENGTH_MIN, NO_LAYOUTS, Note, Scanner
from metako.pgwire.tally import Tally

# PQ_LARGE_MESSAGE_LIMIT, counted as the length field counts: without the type byte.
CLIENT_MESSAGE_BYTES_MAX = 0x3FFF_FFFE
READY_LENGTH = 5
RUNS_BYTES_MIN = 2048  # of a piece in which messages are passed over many at a time
TAG_LENGTH_MIN = LENGTH_MIN + 4  # of a CommandComplete that is told by the first bytes of its tag

STATUS_IDLE = ord("I")  # of a ReadyForQuery; in a transaction it is T, in a failed one E

_header = struct.Struct("!BI").unpack_from
_first_four = struct.Struct("!I").unpack_from
_PARSE, _EXECUTE = b"PE"
_COMPLETE, _ERROR, _COPY_IN_RESPONSE, READY_KIND = b"CEGZ"
(QUERY_KIND,) = b"Q"


def client_layouts() -> Layouts:
    """Return the memory that the scanners of clients share."""
    return Layouts(b"PBDEH", SYNC_KIND)


def server_layouts(tally: Tally | None = None) -> Layouts:
    """Return the memory that the scanners of servers share, and with it what they count."""
    return Layouts(b"123ntTDsI", READY_KIND, FREQUENT_TAGS, tally=tally)


class ClientScanner(Scanner):
    """From client to server, beginning behind the startup packet.

    Notes: Parse with a name, Close, and the text of Query.

    Args:
        layouts: shared by all; from `client_layouts`.
        keeps: whether `notes` are wanted.
    """

    __slots__ = (
        *("_actions", "_copy_end_early", "_copy_end_stray", "_usual"),
        *("answers", "asked", "tail"),
    )

    def __init__(self, layouts: Layouts, *, keeps: bool = True) -> None:
        super().__init__(layouts, keeps=keeps)
        self.asked = 0  # ReadyForQuery that the server has to send for what it was sent so far
        self.answers = 0  # those of them that it has sent
        # What to do by type: `_usual`, or CLIENT_COPY_IN.
        self._actions = self._usual = CLIENT
        self.tail = SYNC_KIND  # the type of the last message that is not data
        self._copy_end_early = False  # a CopyDone came before the server's CopyInResponse
        self._copy_end_stray = False  # COPY failed, and the client did not know it yet

    @property
    def owed(self) -> int:
        """How many ReadyForQuery the server still has to send."""
        return self.asked - self.answers

    @owed.setter
    def owed(self, count: int) -> None:
        # What is owed for other reasons than a request, as at the end of a login, is not counted.
        self.answers = self.asked - count

    @property
    def extended_open(self) -> bool:
        """Whether messages of the extended protocol still lack their Sync."""
        return self.tail in EXTENDED_KINDS

    @property
    def copying_in(self) -> bool:
        """Whether the server waits for the client's data, or for the end of them."""
        return self._actions is CLIENT_COPY_IN

    @property
    def at_rest(self) -> bool:
        """Whether everything that was asked in full has been answered, and nothing was begun."""
        return not self.owed and self.at_boundary and not self.extended_open and not self.copying_in

    def is_plain_query(self, _piece: bytes) -> bool:
        """Return whether a piece that begins like a Query is one, and nobody needs to know of it.

        Who is in a hurry may then count it in `asked`, set `tail` to its type, and need not `scan`.
        The same holds, without asking, while `known` is `usual` and no message of the extended
        protocol lacks its Sync, for a piece that is known by its shape (`shapes`).
        """
        return False

    def scan(self, buffer: bytes | bytearray, size: int) -> int:
        """Take the next `size` bytes; return how many come before a Terminate: all, if none does.

        After a Terminate the stream is over; nothing more may be scanned. Who is in a hurry may
        take the first step, of looking among `known`, without calling.

        Raises:
            PgWireError: PostgreSQL would end the connection. The state is of no further use.
        """
        if self._resumes:
            return self._resume(buffer, size)
        layout = self.known.get(size)
        if layout is not None and layout[0](buffer) == layout[1]:
            self.asked += 1
            self.tail = SYNC_KIND
            return size
        position = begin = self._skip
        actions = self._actions
        tail = self.tail
        length = 0
        last = size - HEADER_BYTES
        while position <= last:
            kind, length = _header(buffer, position)
            if length < LENGTH_MIN:
                break
            action = actions[kind]
            if action:
                if action == SYNC:
                    self.asked += 1
                elif action >= REQUEST:
                    if action >= TERMINATE:
                        break
                    if action == COPY_END:
                        self.tail = tail
                        actions = self._end_copy()
                        position += length + 1
                        continue
                    if action == REQUEST:
                        self.asked += 1
                    if self._keeps:
                        self._keep_message(kind, buffer, position, size, length)
                        actions = self._actions
                tail = kind
            position += length + 1
        self.tail = tail
        if position >= size:
            self._skip = position - size
            self.known = NO_LAYOUTS if self._skip else self._open
            if length > CLIENT_MESSAGE_BYTES_MAX:
                raise PgWireError("invalid message length")
            if position == size and not begin and tail == SYNC_KIND:
                self._layouts.learn(buffer, size)
            return size
        action = actions[buffer[position]]
        if action == UNKNOWN:
            raise PgWireError(f"invalid frontend message type {buffer[position]}")
        if action == TERMINATE:
            self._skip = 0
            return position
        if position <= last:
            raise PgWireError("invalid message length")
        self._stop_inside_header(buffer, position, size)
        return size

    def _keep_message(
        self, kind: int, buffer: bytes | bytearray, position: int, size: int, length: int
    ) -> None:
        limit = CLIENT_LIMITS.get(kind)
        if limit is None:
            return  # FunctionCall
        start, span = position + HEADER_BYTES, length + 1 - HEADER_BYTES
        if kind == _PARSE:
            if start < size and not buffer[start]:
                return  # The unnamed statement is replaced by the next one.
            if span > limit:
                limit = PARSE_PEEK_BYTES
        self._keep(kind, buffer, start, size, span, min(span, limit))

    def _note(self, note: Note) -> None:
        if note.kind != b"P" or not note.body.startswith(b"\0"):
            self.notes.append(note)

    # -- COPY FROM STDIN, as the server tells of it -------------------------------------------

    def _end_copy(self) -> tuple[int, ...]:
        """Note CopyDone or CopyFail; return the actions for what comes behind it."""
        if self._copy_end_stray:
            self._copy_end_stray = False
        elif not self.copying_in:
            # It may belong to a COPY whose answer has not come yet. If it belongs to none, the
            # server ignores it.
            self._copy_end_early = bool(self.owed) or self.extended_open
        self._set_copying_in(False)
        return self._usual

    def begin_copy_in(self) -> None:
        """Note that the server asks for data."""
        if self._copy_end_early:
            self._copy_end_early = False
            return
        if self.tail == SYNC_KIND:
            # The Sync went out with the Execute of this COPY: the server swallows it.
            self.asked -= 1
            self.tail = _EXECUTE
        self._set_copying_in(True)

    def end_copy_in(self, *, failed: bool) -> None:
        """Note that the server asks for data no more."""
        self._copy_end_stray = failed and self.copying_in
        self._copy_end_early = False
        self._set_copying_in(False)

    def answered(self) -> None:
        """Note a ReadyForQuery. After the last one that is owed no COPY can be under way."""
        self.answers += 1
        if self.asked == self.answers:
            self._copy_end_early = self._copy_end_stray = False

    def _set_copying_in(self, copying: bool) -> None:
        self._actions = CLIENT_COPY_IN if copying else self._usual
        self._set_open(NO_LAYOUTS if copying else self._layouts.known)


class ServerScanner(Scanner):
    """From server to client, beginning with the first message of the server.

    Notes: ErrorResponse, NoticeResponse, ParameterStatus, NotificationResponse, and
    CommandComplete unless its tag is one of everyday's. Every CommandComplete is counted in the
    tally of the layouts, when it has come in full; also if `notes` are not wanted.

    Args:
        client: the other direction, whose `owed` is counted down here.
        layouts: shared by all; from `server_layouts`.
        keeps: whether `notes` are wanted.
        status: 0 if the login is still to come.

    `tail` is the type of the last message that began, or READY_KIND if nothing did since an answer
    ended; where a known layout passed, it may still be that of a message before.
    """

    __slots__ = ("_actions", "_client", "_tags", "_tally", "copy", "status", "tail")

    def __init__(
        self, client: ClientScanner, layouts: Layouts, *, keeps: bool = True, status: int = 0
    ) -> None:
        super().__init__(layouts, keeps=keeps)
        self.status = status  # of the last ReadyForQuery; 0 before the first
        self.copy = 0  # the type of the response that began a COPY; 0 while there is none
        self._client = client
        self.tail = READY_KIND
        self._actions = SERVER
        self._tags = FREQUENT_TAGS  # of which no note is taken
        self._tally = layouts.tally

    def successor(self, status: int) -> ServerScanner:
        """Return a scanner for another server of the same client."""
        return ServerScanner(self._client, self._layouts, keeps=self._keeps, status=status)

    def scan(self, buffer: bytes | bytearray, size: int) -> int:
        """Take the next `size` bytes; return `size`, since all of them may be passed on.

        Who is in a hurry may take the first step, of looking among `known`, without calling.

        Raises:
            PgWireError: this is not the protocol of PostgreSQL. The state is of no further use.
        """
        if self._resumes:
            return self._resume(buffer, size)
        layout = self.known.get(size)
        if layout is not None and layout[0](buffer) == layout[1]:
            self.status = buffer[size - 1]
            self._client.answers += 1
            layout[2].count += 1
            return size
        position = begin = self._skip
        actions = self._actions
        kind = 0
        if size >= RUNS_BYTES_MIN:
            position, kind, self.walked = pass_over(buffer, position, size, actions)
        last = size - HEADER_BYTES
        while position <= last:
            kind, length = _header(buffer, position)
            if length < LENGTH_MIN:
                raise PgWireError("invalid message length")
            action = actions[kind]
            if action:
                start = position + HEADER_BYTES
                if action == READY:
                    if length != READY_LENGTH:
                        raise PgWireError("invalid message length")
                    if start >= size:
                        break  # without its status it is as good as not there
                    self.status = buffer[start]
                    if self.copy:
                        self._end_copy(failed=False)
                    self._client.answered()
                    actions = self._actions
                elif action == TAG:
                    if length < TAG_LENGTH_MIN or position + length >= size:
                        self._report(kind, buffer, start, size, length - LENGTH_MIN)
                    else:
                        (tag,) = _first_four(buffer, start)
                        if self._keeps and tag not in self._tags:
                            self._report(kind, buffer, start, size, length - LENGTH_MIN)
                        elif (mix := self._tally.by_tag.get(tag)) is not None:
                            mix.count += 1
                        else:
                            self._tally.of(tag, length - LENGTH_MIN, self.copy).count += 1
                else:
                    self._report(kind, buffer, start, size, length - LENGTH_MIN)
            position += length + 1
        self.tail = kind
        if position >= size:
            self._skip = position - size
            self.known = NO_LAYOUTS if self._skip else self._open
            if position == size and not begin and kind == READY_KIND:
                self._layouts.learn(buffer, size)
        else:
            self._stop_inside_header(buffer, position, size)
        return size

    def _report(
        self, kind: int, buffer: bytes | bytearray, start: int, size: int, span: int
    ) -> None:
        limit = SERVER_LIMITS.get(kind)
        if limit is None:
            self.copy = kind
            self._set_open(NO_LAYOUTS)
            if kind == _COPY_IN_RESPONSE:
                self._client.begin_copy_in()
            return
        if kind == _ERROR and self.copy:
            self._end_copy(failed=True)
        if self._keeps or kind == _COMPLETE:
            self._keep(kind, buffer, start, size, span, min(span, limit))

    def _end_copy(self, *, failed: bool) -> None:
        self.copy = 0
        self._set_open(self._layouts.known)
        self._client.end_copy_in(failed=failed)

    def _note(self, note: Note) -> None:
        if note.kind == b"C":
            tag = int.from_bytes(note.body[:4], "big")
            self._tally.of(tag, len(note.body), self.copy).count += 1
            if tag in self._tags or not self._keeps:
                return
        self.notes.append(note)
