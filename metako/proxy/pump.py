"""Bytes from a client to its server and back, for a link.

The two callbacks are all that runs for most pieces. Each reads what has arrived into a buffer that
all links of a worker share, has a scanner look at the headers, and hands the bytes to the kernel;
nothing waits in between, so nobody else touches the buffer meanwhile. Only what the receiver does
not take at once is copied aside, at most `SCRATCH_BYTES` from the client and `BULK_BYTES` from the
server. Until that is gone the sender is not read (back-pressure: its window closes). An idle link
therefore costs no buffer at all.

Deliberately unknown here: what it means that something ended or was said unasked. That is `link`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metako.pgwire.actions import EXTENDED_KINDS
from metako.pgwire.follow import FollowingClient, FollowingServer
from metako.pgwire.scan import QUERY_KIND, SYNC_KIND, ClientScanner, ServerScanner
from metako.pgwire.shapes import DIGITS
from metako.pgwire.startup import PgWireError
from metako.pgwire.stream import Note
from metako.proxy.reactor import PEER_CLOSED, READ, WRITE
from metako.proxy.transport import SCRATCH_BYTES, Ended, LinkContext, Transport, shut

# Of what the client has sent. Longer requests are rare, and what is kept stays while it is idle.
SENT_BYTES_MAX = 4096
# How far from the end of a piece last words are looked for, by a field that they all have.
LAST_WORDS_BYTES = 1024
FATAL = b"\0VFATAL\0"
PART_BYTES_MIN = (
    4096  # of an answer, behind which the next part comes at once; PostgreSQL sends 8192
)
# On the average, of those that are looked at one by one in what is read many at a time.
MESSAGE_BYTES_MIN = 64

OnNote = Callable[[Note, bool], None]


class Pump:
    """The moving part of a `Link`, which is what others use."""

    __slots__ = (
        *("_buffer", "_client", "_client_events", "_client_over", "_client_recv", "_client_send"),
        *("_bulk_view", "_client_held", "_data_seen", "_down", "_down_meter", "_down_view"),
        *("_hangup_seen", "_on_note", "_parts"),
        *("_pending_down", "_pending_up", "_reactor", "_server", "_server_deaf"),
        *("_server_events", "_server_held", "_server_recv", "_server_send"),
        *("_torn", "_up", "_up_meter", "_view", "ended", "sent", "sent_whole", "violation"),
    )

    def __init__(self, context: LinkContext, client: Transport, on_note: OnNote | None) -> None:
        self.ended: Ended | None = None  # None while the link is in use
        self.violation: PgWireError | None = None  # what broke the protocol, if that was the end
        self._reactor = context.reactor
        self._buffer = context.buffer
        self._view = context.view
        self._parts = context.parts
        self._bulk_view = context.bulk_view
        self._down_view = context.view  # what the server is read into
        self._up_meter = context.up
        self._down_meter = context.down
        self._on_note = on_note
        self._client = client
        self._client_recv = client.recv_into
        self._client_send = client.send
        self._client_events = 0  # asked of the reactor; 0 if not registered
        self._client_over = False  # nothing more will be read from the client
        self._client_held = self._server_held = False  # not read for a while
        self._data_seen = False  # while detached: the client has sent something
        self._hangup_seen = False  # while detached: and said that it will send nothing more
        self._server: Transport | None = None  # None while detached and after the end
        self._server_recv: Callable[[memoryview], int] | None = None
        self._server_send: Callable[[memoryview], int] | None = None
        self._server_events = 0
        self._server_deaf = False  # nothing more can be sent to the server
        # What the client has sent since all was answered last, or the begin of it; None if the
        # session is not followed.
        self.sent: bytes | None = None if on_note is None else b""
        self.sent_whole = True  # whether that is all of it
        self._up: ClientScanner
        self._down: ServerScanner
        if on_note is None:
            self._up = ClientScanner(context.client_layouts, keeps=False)
            self._down = ServerScanner(self._up, context.server_layouts, keeps=False)
        else:
            self._up = up = FollowingClient(context.followed_clients)
            self._down = FollowingServer(up, context.followed_servers)
        self._pending_up = b""  # read, not yet taken by the server
        self._pending_down = b""  # read, not yet taken by the client
        self._torn = False  # a part of a message for the client was thrown away

    @property
    def status(self) -> int:
        """The byte of the last ReadyForQuery, 0 before the first."""
        return self._down.status

    def know(self, statements: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take the statements of a session that was followed elsewhere; see `FollowingClient`."""
        if isinstance(self._up, FollowingClient):
            self._up.know(statements)

    # All that most pieces need is written out in both callbacks, the look at the known layouts
    # included: a call of a function of our own costs as much as a fifth of a system call.

    def _client_ready(self, events: int) -> None:
        try:
            send = self._server_send
            if events != READ or send is None:
                self._client_event(events)
                return
            try:
                size = self._client_recv(self._view)
            except BlockingIOError:
                return
            except OSError:
                self._end(Ended.CLIENT)
                return
            part = self._parts[size]
            up = self._up
            layout = up.known.get(size)
            if layout is not None and layout[0](self._buffer) == layout[1]:
                asked = up.asked
                if self.sent is not None:
                    if asked != up.answers or size > SENT_BYTES_MAX or up.tail in EXTENDED_KINDS:
                        self._remember(size)
                    else:
                        self.sent, self.sent_whole = bytes(part), True
                up.asked = asked + 1
                up.tail = SYNC_KIND
            elif not size:
                self._client_closed()
                return
            elif (
                self._buffer[0] == QUERY_KIND
                and self.sent is not None
                and size <= SENT_BYTES_MAX
                and up.known is up.usual
                and up.asked == up.answers
                and up.tail not in EXTENDED_KINDS
                and (
                    (
                        (piece := bytes(part)).translate(DIGITS) in up.shapes
                        and piece[4] == (size - 1) & 0xFF
                    )
                    or up.is_plain_query(piece)
                )
            ):
                self.sent, self.sent_whole = piece, True
                up.asked += 1
                up.tail = QUERY_KIND
            else:
                if self.sent is not None:
                    self._remember(size)
                if up.scan(self._buffer, size) != size:
                    self._take_goodbye(size)
                    return
            try:
                sent = send(part)
            except OSError as error:
                sent = self._not_sent_up(error)
            self._up_meter.count += sent
            if sent != size:
                self._keep_up(self._view[sent:size])
            if up.notes:
                self._tell(up.notes, from_client=True)
        except PgWireError as error:
            self._violated(error, Ended.CLIENT_VIOLATION)
        except Exception:
            self._end(Ended.FAILED)
            raise

    def _server_ready(self, events: int) -> None:
        try:
            receive = self._server_recv
            if events != READ or receive is None:
                self._server_event(events)
                return
            try:
                size = receive(self._down_view)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            down = self._down
            layout = down.known.get(size)
            if layout is not None and layout[0](self._buffer) == layout[1]:
                down.status = self._buffer[size - 1]
                self._up.answers += 1
                layout[2].count += 1
            elif not (size and self._up.owed and self._follow_down(size)):
                size = self._take_unasked(size)
                if not size:
                    return
            try:
                sent = self._client_send(self._parts[size])
            except OSError as error:
                sent = self._not_sent_down(error)
            self._down_meter.count += sent
            if sent != size:
                self._keep_down(self._bulk_view[sent:size])
            if down.notes:
                self._tell(down.notes, from_client=False)
        except PgWireError as error:
            self._violated(error, Ended.SERVER_VIOLATION)
        except Exception:
            self._end(Ended.FAILED)
            raise

    def _follow_down(self, size: int) -> bool:
        """Scan what was just read, of an answer; False: not done, for they may be last words."""
        down = self._down
        if not down.pass_body(size):
            if self._may_end(size):
                return False
            down.scan(self._buffer, size)
            if SCRATCH_BYTES > size >= PART_BYTES_MIN and not down.at_boundary:
                self._reactor.note_more()
        if size >= SCRATCH_BYTES or self._down_view is not self._view:
            self._adapt(size)
        return True

    def _adapt(self, size: int) -> None:
        """Read more at a time while a large answer comes faster than it can be passed on.

        Programs on all sides then run for longer before the next has its turn, which matters when
        all processors are busy. Not so if many of its messages had to be looked at: what one
        session gets done at a time must stay bounded for the sake of the others.
        """
        in_haste = size >= SCRATCH_BYTES and self._up.owed > 0
        bulk = in_haste and self._down.walked * MESSAGE_BYTES_MIN <= size
        self._down_view = self._bulk_view if bulk else self._view
        if self._server is not None:
            self._reactor.note_bulk(self._server.fileno(), bulk=bulk)

    def _may_end(self, size: int) -> bool:
        """Return whether the server may say its last words in what was just read."""
        begin = max(size - LAST_WORDS_BYTES, 0)
        return self._on_note is not None and self._buffer.find(FATAL, begin, size) >= 0

    def _remember(self, size: int) -> None:
        """Note what was just read as the next part of what was sent, or the first."""
        up = self._up
        if self.sent is None or (
            not up.owed and up.at_boundary and not up.extended_open and not up.copying_in
        ):
            self.sent, self.sent_whole = b"", True
        room = SENT_BYTES_MAX - len(self.sent)
        self.sent += self._view[: min(size, room)]
        self.sent_whole = self.sent_whole and size <= room

    def _not_sent_up(self, error: OSError) -> int:
        if not isinstance(error, BlockingIOError):
            # It takes nothing any more, but its last words may still be on their way.
            self._server_deaf = self._client_over = True
        return 0

    def _send_up(self, data: bytes) -> None:
        assert self._server is not None
        try:
            sent = self._server.send(memoryview(data))
        except OSError as error:
            sent = self._not_sent_up(error)
        self._up_meter.count += sent
        self._keep_up(memoryview(data)[sent:])

    def _keep_up(self, rest: memoryview) -> None:
        # Copied, because the buffer belongs to whoever runs next.
        if self._server_deaf:
            rest = rest[:0]
        self._pending_up = bytes(rest)
        if self._client_over and not rest and self._server is not None:
            shut(self._server)
        self._watch()

    def _not_sent_down(self, error: OSError) -> int:
        if not isinstance(error, BlockingIOError):
            self._end(Ended.CLIENT)
        return 0

    def _keep_down(self, rest: memoryview) -> None:
        if self.ended is None:
            self._pending_down = bytes(rest)
            self._watch()

    def _send_down(self, data: bytes) -> None:
        try:
            sent = self._client_send(memoryview(data))
        except OSError as error:
            sent = self._not_sent_down(error)
        self._down_meter.count += sent
        self._keep_down(memoryview(data)[sent:])

    def _tell(self, notes: list[Note], *, from_client: bool) -> None:
        # Told after the bytes have left: whoever hears of it may take the server away.
        while notes:
            note = notes.pop(0)
            if note.kind == b"E":
                self._failed(note)
            if self._on_note is not None:
                self._on_note(note, from_client)

    # -- what the link does about it ---------------------------------------------------------

    def _client_event(self, events: int) -> None:
        """Handle anything but bytes to relay."""
        raise NotImplementedError

    def _server_event(self, events: int) -> None:
        """Handle anything but bytes to relay."""
        raise NotImplementedError

    def _client_closed(self) -> None:
        """The client has said all that it has to say."""
        raise NotImplementedError

    def _take_goodbye(self, size: int) -> None:
        """Handle a Terminate in what was just read."""
        raise NotImplementedError

    def _take_unasked(self, size: int) -> int:
        """Scan what the server said unasked, or what may be its last words; 0 is its end.

        Return how many bytes are to be passed on, 0 if there is nothing left to do.
        """
        raise NotImplementedError

    def _failed(self, error: Note) -> None:
        """The client was told an error."""
        raise NotImplementedError

    def _violated(self, error: PgWireError, why: Ended) -> None:
        raise NotImplementedError

    def _end(self, why: Ended) -> None:
        raise NotImplementedError

    def _watch(self) -> None:
        """Ask the reactor for exactly what can be handled now, and for nothing after the end."""
        client = server = 0
        if self._server is not None:
            if not self._client_over and not self._pending_up and not self._client_held:
                client = READ
            if not self._pending_down and not self._server_held:
                server = READ
            if self._pending_up:
                server |= WRITE
            if server != self._server_events:
                self._reactor.watch(self._server.fileno(), server, self._server_ready)
                self._server_events = server
        elif self.ended is None:
            client = 0 if self._hangup_seen else PEER_CLOSED
            client |= 0 if self._data_seen else READ
        if self._pending_down:
            client |= WRITE
        if client != self._client_events:
            self._reactor.watch(self._client.fileno(), client, self._client_ready)
            self._client_events = client
