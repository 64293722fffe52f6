"""One client and one server, joined in the reactor: what one sends goes to the other.

The relay is made of two callbacks. Each reads what has arrived into a buffer that all links of a
worker share, has a scanner look at the headers, and hands the bytes to the kernel; nothing waits
in between, so nobody else touches the buffer meanwhile. Only what the receiver does not take at
once is copied aside, at most one buffer for each direction. Until that is gone the sender is not
read (back-pressure: its window closes). An idle link therefore costs no buffer at all.

    detached ──attach──▶ relaying ──▶ ended
        ▲───detach_server───┘

While *detached* the client is only watched: what it sends stays in the kernel, that it sent
something is told once, and so is its hang-up. A link *ends* once: when the server has ended and
all that came of it was delivered, when the client is gone, has said goodbye or broken the
protocol, or when `close` is called. It has let go of both sockets then, and closed neither.

Invariant: after `detach_server` or `close` returns, no byte leaves through the socket that was let
go. Bytes for it that were not delivered yet are thrown away, since no other may have them.

Deliberately unknown here: why a server is taken away, and what the client is told.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from metako.pgwire.scan import STATUS_IDLE, SYNC_KIND, ClientScanner, ServerScanner
from metako.pgwire.startup import PgWireError
from metako.pgwire.stream import Note
from metako.proxy.reactor import BROKEN, PEER_CLOSED, READ, WRITE
from metako.proxy.transport import Ended, LinkContext, Transport, hung_up, shut


class Link:
    """See the module's docstring. A new link is detached and watches nobody yet.

    Args:
        on_data: the client sent something while there was no server; told once a detachment.
        on_note: a message that was kept, and whether it is the client's. Without it none is kept.

    Both are called from within the reactor, so they must not wait.
    """

    __slots__ = (
        *("_buffer", "_client", "_client_events", "_client_over", "_client_recv", "_client_send"),
        *("_data_seen", "_down", "_down_meter", "_event", "_hangup_seen", "_on_data", "_on_note"),
        *("_pending_down", "_pending_up", "_reactor", "_server", "_server_deaf"),
        *("_server_events", "_server_recv", "_server_send"),
        *("_torn", "_up", "_up_meter", "_view", "ended", "violation"),
    )

    def __init__(
        self,
        context: LinkContext,
        client: Transport,
        *,
        on_data: Callable[[], None] | None = None,
        on_note: Callable[[Note, bool], None] | None = None,
    ) -> None:
        self.ended: Ended | None = None  # None while the link is in use
        self.violation: PgWireError | None = None  # what broke the protocol, if that was the end
        self._reactor = context.reactor
        self._buffer = context.buffer
        self._view = context.view
        self._up_meter = context.up
        self._down_meter = context.down
        self._on_data = on_data
        self._on_note = on_note
        self._event: trio.Event | None = None  # set at the end; None while nobody waits for it
        self._client = client
        self._client_recv = client.recv_into
        self._client_send = client.send
        self._client_events = 0  # asked of the reactor; 0 if not registered
        self._client_over = False  # nothing more will be read from the client
        self._data_seen = False  # while detached: the client has sent something
        self._hangup_seen = False  # while detached: and said that it will send nothing more
        self._server: Transport | None = None  # None while detached and after the end
        self._server_recv: Callable[[memoryview], int] | None = None
        self._server_send: Callable[[memoryview], int] | None = None
        self._server_events = 0
        self._server_deaf = False  # nothing more can be sent to the server
        keeps = on_note is not None
        self._up = ClientScanner(context.client_layouts, keeps=keeps)
        self._down = ServerScanner(self._up, context.server_layouts, keeps=keeps)
        self._pending_up = b""  # read, not yet taken by the server
        self._pending_down = b""  # read, not yet taken by the client
        self._torn = False  # a part of a message for the client was thrown away

    @property
    def at_boundary(self) -> bool:
        """Whether the client has been given whole messages only, so that one more may follow."""
        return not self._torn and not self._pending_down and self._down.at_boundary

    @property
    def at_rest(self) -> bool:
        """Whether, in addition, no transaction is open and nothing is asked, owed or under way."""
        return (
            self._down.status == STATUS_IDLE
            and self._up.at_rest
            and not self._pending_up
            and self.at_boundary
        )

    async def wait_end(self) -> Ended:
        """Return why the link ended, once it has. For one task. Cancelling changes nothing."""
        if self.ended is None:
            self._event = trio.Event()
            await self._event.wait()
        assert self.ended is not None
        return self.ended

    # -- for the session --------------------------------------------------------------------

    def attach(self, server: Transport, first: bytes = b"", *, logging_in: bool = False) -> None:
        """Relay between the client and `server` from now on.

        Args:
            first: what was already read from the server; it is delivered first.
            logging_in: the startup packet has been sent, and not yet been answered in full. If
                False, the server must be idle, and the client at rest.
        """
        assert self.ended is None
        assert self._server is None
        assert self._up.at_rest
        assert self.at_boundary
        if logging_in:
            self._up.owed = 1
        self._down = self._down.successor(0 if logging_in else STATUS_IDLE)
        self._data_seen = self._hangup_seen = self._server_deaf = False
        self._server = server
        self._server_recv, self._server_send = server.recv_into, server.send
        self._watch()
        if first:
            try:
                self._down.scan(first, len(first))
            except PgWireError as error:
                self._violated(error, Ended.SERVER_VIOLATION)
                return
            self._send_down(first)
            self._tell(self._down.notes, from_client=False)

    def detach_server(self) -> Transport | None:
        """Let go of the server and return it, None if there is none. Watch the client from now on.

        Unless the link is `at_rest`, what is on its way is thrown away on both sides, and no other
        server can be attached.
        """
        server = self._let_go_of_server()
        self._watch()
        return server

    def inject(self, message: bytes) -> bool:
        """Send a message of our own to the client; False if it cannot be put there or is lost."""
        if self.ended is not None or not self.at_boundary:
            return False
        self._send_down(message)
        return self.ended is None

    def close(self) -> None:
        """End, if the link has not ended yet."""
        self._end(Ended.CLOSED)

    # -- the relay --------------------------------------------------------------------------

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
            up = self._up
            layout = up.known.get(size)
            if layout is not None and layout[0](self._buffer) == layout[1]:
                up.owed += 1
                up.tail = SYNC_KIND
            elif not size:
                self._client_closed()
                return
            elif up.scan(self._buffer, size) != size:
                self._take_goodbye(size)
                return
            try:
                sent = send(self._view[:size])
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
                size = receive(self._view)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            down = self._down
            layout = down.known.get(size)
            if layout is not None and layout[0](self._buffer) == layout[1]:
                down.status = self._buffer[size - 1]
                self._up.owed -= 1
            elif size:
                down.scan(self._buffer, size)
            else:
                # What came before was delivered in full: until it is, the server is not read.
                self._end(Ended.SERVER)
                return
            try:
                sent = self._client_send(self._view[:size])
            except OSError as error:
                sent = self._not_sent_down(error)
            self._down_meter.count += sent
            if sent != size:
                self._keep_down(self._view[sent:size])
            if down.notes:
                self._tell(down.notes, from_client=False)
        except PgWireError as error:
            self._violated(error, Ended.SERVER_VIOLATION)
        except Exception:
            self._end(Ended.FAILED)
            raise

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
            if self._on_note is not None:
                self._on_note(note, from_client)

    # -- everything but the passing of bytes ------------------------------------------------

    def _client_event(self, events: int) -> None:
        if self._pending_down and events & (WRITE | BROKEN):
            self._send_down(self._pending_down)
        elif self._server is not None:
            # Something is wrong with the connection; reading it tells what.
            if self._client_events & READ:
                self._client_ready(READ)
        elif events & BROKEN or (events & PEER_CLOSED and hung_up(self._client)):
            self._end(Ended.CLIENT)
        else:
            tell = self._on_data if not self._data_seen else None
            self._data_seen, self._hangup_seen = True, bool(events & PEER_CLOSED)
            self._watch()
            if tell is not None:
                self._reactor.hurry()
                tell()

    def _client_closed(self) -> None:
        """The client said all it has to say, but may still listen: pass exactly that on."""
        self._client_over = True
        if self._server is not None and not self._pending_up:
            shut(self._server)
        self._watch()

    def _take_goodbye(self, size: int) -> None:
        """Handle a Terminate in what was just read.

        Who is owed nothing any more leaves the server as it is, and what is done with it is not
        decided here. Otherwise the Terminate is passed on like everything else, and the link ends
        with the server.
        """
        if self._up.at_rest and self.at_boundary:
            self._end(Ended.GOODBYE)
        else:
            self._client_over = True
            self._send_up(bytes(self._view[:size]))
        self._tell(self._up.notes, from_client=True)

    def _server_event(self, events: int) -> None:
        if self._pending_up and events & (WRITE | BROKEN):
            self._send_up(self._pending_up)
        if self._server_events & READ:
            self._server_ready(READ)

    def _violated(self, error: PgWireError, why: Ended) -> None:
        self.violation = error
        if why is Ended.SERVER_VIOLATION:
            self._torn = True  # nobody knows where its messages end
        self._end(why)

    def _end(self, why: Ended) -> None:
        if self.ended is not None:
            return
        self.ended = why
        self._let_go_of_server()
        self._watch()
        if self._event is not None:
            self._event.set()
            self._reactor.hurry()

    def _let_go_of_server(self) -> Transport | None:
        self._torn = self._torn or bool(self._pending_down)
        self._pending_up = self._pending_down = b""
        server = self._server
        if server is not None:
            self._reactor.watch(server.fileno(), 0, self._server_ready)
            self._server_events = 0
            self._server = self._server_recv = self._server_send = None
        return server

    def _watch(self) -> None:
        """Ask the reactor for exactly what can be handled now, and for nothing after the end."""
        client = server = 0
        if self._server is not None:
            if not self._client_over and not self._pending_up:
                client = READ
            if not self._pending_down:
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
