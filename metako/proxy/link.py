"""One client and one server, joined in the reactor: what one sends goes to the other.

How bytes pass is `pump`; here is what a link is while it lasts, and how it ends.

    detached ──attach──▶ relaying ──▶ ended
        ▲───detach_server───┘
        ▲───── on_lost ─────┘

While *detached* the client is only watched: what it sends stays in the kernel, that it sent
something is told once, and so is its hang-up. A link *ends* once: when the server has ended and
all that came of it was delivered, when the client is gone, has said goodbye or broken the
protocol, or when `close` is called. It has let go of both sockets then, and closed neither.

A server that ends while the client is at rest need not be the end: `on_lost` is asked. If the
client is to be kept, it is not given the server's last words (`pgwire.lastwords`), and the link is
detached. All else that a server says unasked is passed on, also what comes before its last words.

Invariant: after `detach_server` or `close` returns, no byte leaves through the socket that was let
go. Bytes for it that were not delivered yet are thrown away, since no other may have them.

Deliberately unknown here: why a server is taken away, and what the client is told.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from metako.pgwire.lastwords import find_last_words, is_fatal, whole_answers
from metako.pgwire.scan import QUERY_KIND, READY_KIND, STATUS_IDLE
from metako.pgwire.startup import PgWireError
from metako.pgwire.stream import Note
from metako.proxy.pump import OnNote, Pump
from metako.proxy.reactor import BROKEN, PEER_CLOSED, READ, WRITE
from metako.proxy.standing import Standing
from metako.proxy.transport import Ended, LinkContext, Transport, held, hung_up, leaving, shut


class Link(Pump):
    """See the module's docstring. A new link is detached and watches nobody yet.

    Args:
        on_data: the client sent something while there was no server; told once a detachment.
        on_lost: the server ended while the client was at rest or waited for an answer, with these
            last words or none, and the link is detached. Returns None if the client is kept; else
            what it is told, and the link ends. Not called for a client that was told of a fatal
            error. Needs `on_note`.
        on_note: a message of `pgwire.follow`, and whether it is the client's. Without it the
            session is not followed.

    All are called from within the reactor, so they must not wait.
    """

    __slots__ = ("_errors", "_event", "_on_data", "_on_lost", "on_wake", "over")

    def __init__(
        self,
        context: LinkContext,
        client: Transport,
        *,
        on_data: Callable[[], None] | None = None,
        on_lost: Callable[[bytes], bytes | None] | None = None,
        on_note: OnNote | None = None,
    ) -> None:
        assert on_note is not None or on_lost is None, "errors are known by their notes"
        super().__init__(context, client, on_note)
        self._errors = context.failed
        self.over = False  # the client was told that its session is over
        self._on_data = on_data
        self._on_lost = on_lost
        self._event: trio.Event | None = None  # tells whoever waits to look; None if nobody does
        self.on_wake: Callable[[], None] | None = None  # called instead, once, if nobody waits

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

    @property
    def standing(self) -> Standing:
        up = self._up
        # The scanner counts a Query by its header, and the server executes it when it has it all.
        half_query = not up.at_boundary and up.tail == QUERY_KIND
        return Standing(
            status=self._down.status,
            owed=max(up.owed - half_query, 0),
            delivered=self._down.tail != READY_KIND or not self.at_boundary,
            half=bool(self._pending_up) or not up.at_boundary,
            open=up.extended_open,
            copying_in=up.copying_in,
        )

    @property
    def asked(self) -> int:
        """How many requests the client has made so far, those of its login not counted."""
        return self._up.asked

    @property
    def answers(self) -> int:
        """How many of them were answered to their end."""
        return self._up.answers

    @property
    def stalled(self) -> bool:
        """Whether the client does not take what the server has sent."""
        return bool(self._pending_down)

    async def wait_end(self) -> Ended:
        """Return why the link ended, once it has. Cancelling changes nothing.

        At any time one task may wait for this or for `wait_detached`.
        """
        while self.ended is None:
            self._event = trio.Event()
            await self._event.wait()
        return self.ended

    async def wait_detached(self) -> None:
        """Return once there is no server: the link is detached, or has ended."""
        while self._server is not None:
            self._event = trio.Event()
            await self._event.wait()

    # -- for the session --------------------------------------------------------------------

    def attach(
        self,
        server: Transport,
        first: bytes = b"",
        *,
        greeting: bytes = b"",
        again: bytes = b"",
        logging_in: bool = False,
    ) -> None:
        """Relay between the client and `server` from now on.

        Args:
            first: what was already read from the server; it is delivered first.
            greeting: of ours, whole messages; it is delivered before, and not looked at.
            again: requests that the client has sent and the last server has not answered, nothing
                else of which is owed.
            logging_in: the startup packet has been sent, and not yet been answered in full. If
                False, the server must be idle, and the client at rest.
        """
        assert self.ended is None
        assert self._server is None
        assert self._up.at_rest or again
        assert self.at_boundary
        if logging_in:
            self._up.owed = 1
        self._down = self._down.successor(0 if logging_in else STATUS_IDLE)
        self._data_seen = self._hangup_seen = self._server_deaf = False
        self._server = server
        self._server_recv, self._server_send = server.recv_into, server.send
        if greeting:
            self._send_down(greeting)
        self._watch()
        if again:
            self._send_up(again)
        if first:
            try:
                self._down.scan(first, len(first))
            except PgWireError as error:
                self._violated(error, Ended.SERVER_VIOLATION)
                return
            self._send_down(first)
            self._tell(self._down.notes, from_client=False)
        self._take_held()

    def detach_server(self) -> Transport | None:
        """Let go of the server and return it, None if there is none. Watch the client from now on.

        What is on its way is thrown away on both sides. Unless the link is `at_rest`, another
        server can be attached only if it is sent `again` what was not answered.
        """
        server = self._let_go_of_server()
        self._watch()
        self._wake()
        return server

    def hold_back(self, hold: Callable[[], bool]) -> None:
        """Have `hold` decide whenever the client, at rest, begins to say something.

        It returns whether it is still wanted, and detaches the server if the client is to wait.
        Until then the client's bytes stay in its socket. Costs nothing while it is not wanted.
        """
        receive = self._client.recv_into

        def receive_unless_held(buffer: memoryview) -> int:
            if self._server is not None and self.at_rest and not hold():
                self._client_recv = receive
            if self._server is None:
                raise BlockingIOError
            return receive(buffer)

        self._client_recv = receive_unless_held

    def hold(self, *, server: bool = False) -> None:
        """Leave what the client sends in the kernel, and what the server sends too if asked.

        Until `resume`, or until the server is let go of.
        """
        if self._server is not None:
            self._client_held, self._server_held = True, server
            self._watch()

    def resume(self) -> None:
        """Go on reading from both. Harmless if nothing is held."""
        if self._client_held:
            self._client_held = self._server_held = False
            self._watch()

    @property
    def unread_body(self) -> int | None:
        """How many bytes of the server's present message have not come; None inside a header."""
        return self._down.unread_body

    def peek_server(self, size: int) -> bytes:
        """Return the first of what the server has sent and nobody has read; it stays there."""
        try:
            return b"" if self._server is None else self._server.recv(size, socket.MSG_PEEK)
        except OSError:
            return b""

    def inject(self, message: bytes) -> bool:
        """Send a message of our own to the client; False if it cannot be put there or is lost."""
        if self.ended is not None or not self.at_boundary:
            return False
        self._send_down(message)
        return self.ended is None

    def depart(self) -> None:
        """End because another process goes on with both connections."""
        self._end(Ended.DEPARTED)

    def close(self) -> None:
        """End, if the link has not ended yet."""
        self._end(Ended.CLOSED)

    # -- events ------------------------------------------------------------------------------

    def _client_event(self, events: int) -> None:
        if self._pending_down and events & (WRITE | BROKEN):
            self._send_down(self._pending_down)
            self._take_held()
        elif self._server is not None:
            # Something is wrong with the connection; reading it tells what.
            if self._client_events & READ:
                self._client_ready(READ)
        elif events & BROKEN or (events & PEER_CLOSED and hung_up(self._client)):
            self._end(Ended.CLIENT)
        elif not self._data_seen and leaving(self._client):
            self._end(Ended.GOODBYE)
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

    def _take_unasked(self, size: int) -> int:
        waits = self._up.owed > 0 and self._down.status != 0 and self.at_boundary
        if self._on_lost is None or not (waits or self.at_rest) or self._client_over:
            if size:
                self._down.scan(self._buffer, size)
            else:
                # What came before was delivered in full: until it is, the server is not read.
                self._end(Ended.SERVER)
            return size
        before, words = find_last_words(self._buffer, size)
        part = b""
        if words and waits:
            # The part of an answer that the server broke off: who has seen nothing of it can be
            # given the whole of another.
            whole = whole_answers(self._buffer, before)
            part, before = bytes(self._view[whole:before]), whole
        if before:
            self._down.scan(self._buffer, before)
            if not words:
                return size
            self._send_down(bytes(self._view[:before]))
            self._tell(self._down.notes, from_client=False)
        if self.ended is None and self._server is not None:
            self._lose_server(part, words)
        return 0

    def _failed(self, error: Note) -> None:
        self._errors.count += 1
        if is_fatal(error.body):
            self.over = True
            self._on_lost = None

    def _lose_server(self, part: bytes, words: bytes) -> None:
        """Keep the client if its session can go on elsewhere, or tell it why it ends.

        Args:
            part: of an answer, that has not been delivered; thrown away if the client is kept.
            words: the server's last.
        """
        if self._pending_down:
            # The client does not take what came before: it can follow neither gap nor move.
            self._on_lost = None
            self._pending_down += part + words
            return
        on_lost = self._on_lost
        self.detach_server()
        told = words if on_lost is None else on_lost(words)
        if told is not None:
            self.over = True
            if told:
                self._send_down(part + told)
            self._end(Ended.SERVER)

    def _server_event(self, events: int) -> None:
        if self._pending_up and events & (WRITE | BROKEN):
            self._send_up(self._pending_up)
            self._take_held()
        if self._server_events & READ:
            self._server_ready(READ)

    def _take_held(self) -> None:
        """Relay what was decrypted before it was for us, of which the kernel does not tell."""
        for _ in range(2):  # bytes, and the end behind them
            server = self._server
            if server is not None and not self._pending_down and held(server):
                self._server_ready(READ)
            waits = self._server is None or self._pending_up or self._client_over
            if not waits and held(self._client):
                self._client_ready(READ)

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
        self._wake()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None
            self._reactor.hurry()
        elif self.on_wake is not None:
            wake, self.on_wake = self.on_wake, None
            wake()

    def _let_go_of_server(self) -> Transport | None:
        self._torn = self._torn or bool(self._pending_down)
        self._pending_up = self._pending_down = b""
        self._client_held = self._server_held = False
        self._down_view = self._view
        server = self._server
        if server is not None:
            self._reactor.watch(server.fileno(), 0, self._server_ready)
            self._server_events = 0
            self._server = self._server_recv = self._server_send = None
        return server
