"""Messages to other agents and from them: sealed datagrams, and short streams for large ones.

Inputs: `Outbound` values through `send`, which never waits. Outputs: `Received` values in a bounded
inbox, for messages whose seal was verified, and counters for all else.

A datagram carries one envelope. A stream carries one envelope, after which the receiver says in a
short answer whether it took it; the same port speaks to strangers about why it did not (key,
cluster, version, clock), which is what a node asks before it starts.

Invariants: nothing that comes from outside raises; nothing is decoded before it was authenticated;
no reply goes to the address in a packet. Every queue and every wait is bounded: a full inbox, a
full send buffer, too many streams drop the message and count it. Best effort is all that is
promised: whoever needs an answer asks again.

It deliberately does not know what a message means, but for Hello, which it answers itself.
"""

from __future__ import annotations

import errno
import math
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from metako.model.ids import Address, NodeId
from metako.runtime.binding import GossipSockets
from metako.runtime.counters import Drop, TransportCounters, drop_of
from metako.runtime.framing import (
    FrameTooLongError,
    StreamEndedError,
    receive_frame,
    send_frame,
)
from metako.runtime.hello import (
    STREAM_DEADLINE_S,
    HelloResult,
    StreamFailedError,
    exchange,
    hello,
)
from metako.runtime.resolver import Resolver
from metako.wire.answer import AnswerReason, StreamAnswer, encode_answer, reason_of
from metako.wire.codec import decode_untrusted, encode
from metako.wire.errors import EncodingError, SealError, WireError, WireVersionError
from metako.wire.limits import DATAGRAM_MAX_BYTES, PROTOCOL_VERSION, STREAM_MAX_BYTES
from metako.wire.messages import Hello, Outbound, Received
from metako.wire.seal import Opened, Opener, Sealer

DATAGRAMS_PER_WAKE_MAX = 64
"""Datagrams taken before other tasks get their turn."""
STREAMS_IN_MAX = 64
STREAMS_IN_PER_HOST_MAX = 16
STREAMS_OUT_MAX = 32
STREAMS_OUT_PER_NODE_MAX = 4
"""One peer that swallows connections must not take the streams of all others."""
CLOCK_SKEW_MAX_S = 30.0
HEARD_RECENTLY_S = 2.0
"""A node that was heard so short a time ago runs, so a newcomer of its name is another one."""
SENDERS_HEARD_MAX = 4096

assert STREAM_MAX_BYTES < 1 << 24  # see _begins_like_http

_SEND_BUFFER_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.EINTR})


_K = TypeVar("_K")


def wall_clock_ms() -> int:
    """Return milliseconds since 1970; for people, never for a decision."""
    return time.time_ns() // 1_000_000


class Transport:
    """The gossip port of one node.

    Args:
        sockets: bound by `bind_gossip`; closed when `run` ends.
        sealer: of this node.
        opener: of this node, with the same keys.
        inbox: where messages go; its bound is the caller's.
        agent_version: shown to peers.
        clock_skew_max_s: difference of wall clocks from which a Hello is refused.
        exchange_timeout_s: for a message over TCP, from the connection to the answer.
        wall_ms: the wall clock, in milliseconds since 1970.
        http: takes connections that begin like HTTP, where one TCP port serves both; their new
            owner closes them. None: there is no such thing at this port.
    """

    def __init__(
        self,
        sockets: GossipSockets,
        sealer: Sealer,
        opener: Opener,
        inbox: trio.MemorySendChannel[Received],
        *,
        agent_version: str = "",
        clock_skew_max_s: float = CLOCK_SKEW_MAX_S,
        exchange_timeout_s: float = STREAM_DEADLINE_S,
        wall_ms: Callable[[], int] = wall_clock_ms,
        http: trio.MemorySendChannel[trio.SocketStream] | None = None,
    ) -> None:
        assert (sealer.cluster, sealer.node) == (opener.cluster, opener.node)
        self.counters = TransportCounters()
        self._sockets = sockets
        self._sealer = sealer
        self._opener = opener
        self._inbox = inbox
        self._agent_version = agent_version
        self._clock_skew_max_ms = round(clock_skew_max_s * 1000)
        self._exchange_timeout_s = exchange_timeout_s
        self._wall_ms = wall_ms
        self._http = http
        self._resolver = Resolver(sockets.family)
        self._nursery: trio.Nursery | None = None  # None unless running
        self._streams_in: dict[str, int] = {}  # open ones by the peer's host
        self._streams_out: dict[NodeId, int] = {}  # open ones by the peer
        self._heard: dict[NodeId, tuple[int, float]] = {}  # boot epoch and when, by the sender

    @property
    def address(self) -> Address:
        """Return where this transport listens, with the real port."""
        return self._sockets.address

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """Seal with the first of `keys` and open with any of them from now on."""
        self._sealer.replace_keys(keys)
        self._opener.replace_keys(keys)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive, and carry streams, until cancelled.

        If cancelled, open streams are cut and both sockets are closed before this returns.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sockets.tcp))
                nursery.start_soon(self._receive_datagrams)
                nursery.start_soon(partial(trio.serve_listeners, self._serve_stream, [listener]))
                task_status.started()
        finally:
            self._nursery = None
            self._sockets.close()

    # ------------------------------------------------------------ sending

    def send(self, outbound: Outbound) -> None:
        """Send a message, or drop and count it. Never waits and never raises for the network.

        What does not fit a datagram goes by a stream, which ends in the background.
        """
        assert outbound.to != self._sealer.node, "a message to ourselves"
        assert self._nursery is not None, "the transport does not run"
        shown = f"{outbound.to} {type(outbound.message).__name__}"
        try:
            data = self._sealer.seal(outbound.to, encode(outbound.message))
        except EncodingError as error:
            self.counters.drop(Drop.ENCODING, f"{shown}: {error}")
            return
        if outbound.stream or len(data) > DATAGRAM_MAX_BYTES:
            self._start_stream(outbound, data, shown)
            return
        host = self._resolver.lookup(outbound.address.host, self._nursery)
        if host is None:
            self.counters.drop(Drop.UNRESOLVED, f"{outbound.to} {outbound.address.host}")
            return
        try:
            self._sockets.udp.sendto(data, (host, outbound.address.port))
        except (OSError, OverflowError) as error:
            number = error.errno if isinstance(error, OSError) else None
            reason = Drop.BLOCKED if number in _SEND_BUFFER_FULL else Drop.UNREACHABLE
            self.counters.drop(reason, f"{outbound.to} {outbound.address}: {error}")
            return
        self.counters.datagrams_sent += 1
        self.counters.bytes_sent += len(data)

    def _start_stream(self, outbound: Outbound, data: bytes, shown: str) -> None:
        assert self._nursery is not None
        mine = self._streams_out.get(outbound.to, 0)
        total = sum(self._streams_out.values())
        if mine >= STREAMS_OUT_PER_NODE_MAX or total >= STREAMS_OUT_MAX:
            self.counters.drop(Drop.STREAMS_BUSY, shown)
            return
        self._streams_out[outbound.to] = mine + 1
        self._nursery.start_soon(self._send_stream, outbound, data, shown)

    async def _send_stream(self, outbound: Outbound, data: bytes, shown: str) -> None:
        try:
            with trio.move_on_after(self._exchange_timeout_s) as deadline:
                await self._exchange(outbound, data, shown)
            if deadline.cancelled_caught:
                self.counters.drop(Drop.STREAM_FAILED, f"{shown}: no answer in time")
        finally:
            _decrement(self._streams_out, outbound.to)

    async def _exchange(self, outbound: Outbound, data: bytes, shown: str) -> None:
        host = await self._resolver.resolve(outbound.address.host)
        if host is None:
            self.counters.drop(Drop.UNRESOLVED, f"{outbound.to} {outbound.address.host}")
            return
        self.counters.bytes_sent += len(data)
        try:
            answer = await exchange(host, outbound.address.port, self._sockets.family, data)
        except (StreamFailedError, WireError) as error:
            self.counters.drop(Drop.STREAM_FAILED, f"{shown}: {error}")
            return
        if answer.ok:
            self.counters.streams_sent += 1
        else:
            self.counters.drop(Drop.STREAM_REFUSED, f"{shown}: {answer.reason}")

    async def hello(
        self, address: Address, node: NodeId, *, timeout_s: float = STREAM_DEADLINE_S
    ) -> HelloResult:
        """Greet the agent of `node` and return what it thinks of us; see `hello.hello`.

        Works before `run` as well. If cancelled, the connection is closed.
        """
        return await hello(
            address,
            node,
            sealer=self._sealer,
            resolver=self._resolver,
            family=self._sockets.family,
            agent_version=self._agent_version,
            wall_ms=self._wall_ms,
            timeout_s=timeout_s,
        )

    # ------------------------------------------------------------ receiving

    async def _receive_datagrams(self) -> None:
        udp = self._sockets.udp
        while True:
            await trio.lowlevel.wait_readable(udp)
            for _ in range(DATAGRAMS_PER_WAKE_MAX):
                try:
                    # One byte more than allowed shows what was longer; the rest is cut off.
                    data, peer = udp.recvfrom(DATAGRAM_MAX_BYTES + 1)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError as error:
                    # The kernel's word about an earlier datagram of ours; reading clears it.
                    self.counters.drop(Drop.UNREACHABLE, str(error))
                    break
                self._receive_datagram(data, str(peer[0]))

    def _receive_datagram(self, data: bytes, peer: str) -> None:
        self.counters.bytes_received += len(data)
        if len(data) > DATAGRAM_MAX_BYTES:
            self.counters.drop(Drop.OVERSIZE, peer)
            return
        answer = self._take(data, peer, is_stream=False)
        if answer.ok:
            self.counters.datagrams_received += 1

    async def _serve_stream(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                peer = str(stream.socket.getpeername()[0])
            except OSError:
                return  # gone before we looked
            open_here = self._streams_in.get(peer, 0)
            total = sum(self._streams_in.values())
            if open_here >= STREAMS_IN_PER_HOST_MAX or total >= STREAMS_IN_MAX:
                self.counters.drop(Drop.CONNECTIONS, peer)
                return
            self._streams_in[peer] = open_here + 1
            try:
                with trio.move_on_after(self._exchange_timeout_s) as deadline:
                    if self._http is not None and await _begins_like_http(stream):
                        _pass_on(stream, self._http)
                    else:
                        await self._receive_stream(stream, peer)
                if deadline.cancelled_caught:
                    self.counters.drop(Drop.INCOMPLETE, peer)
            finally:
                _decrement(self._streams_in, peer)

    async def _receive_stream(self, stream: trio.SocketStream, peer: str) -> None:
        try:
            data = await receive_frame(stream, STREAM_MAX_BYTES)
        except FrameTooLongError:
            self.counters.drop(Drop.OVERSIZE, peer)
            return
        except (StreamEndedError, trio.BrokenResourceError) as error:
            # A connection without a byte is how ports are probed: not worth counting.
            if not (isinstance(error, StreamEndedError) and not error.started):
                self.counters.drop(Drop.INCOMPLETE, peer)
            return
        self.counters.bytes_received += len(data)
        answer = self._take(data, peer, is_stream=True)
        if answer.ok:
            self.counters.streams_received += 1
        try:
            await send_frame(stream, encode_answer(answer))
        except trio.BrokenResourceError:
            self.counters.drop(Drop.INCOMPLETE, peer)

    def _take(self, data: bytes, peer: str, *, is_stream: bool) -> StreamAnswer:
        """Verify, decode and deliver; return what to say of it, and count it if it was dropped."""
        try:
            # Greetings are the only streams that are not to be remembered, and streams are rare.
            if is_stream and (greeting := self._greeting(self._opener.examine_untrusted(data))):
                return greeting
            opened = self._opener.open_untrusted(data)
        except SealError as error:
            self.counters.drop(drop_of(error.reason), f"{peer}: {error}")
            return self._answer(reason_of(error.reason))
        shown = f"{opened.sender} at {peer}"
        try:
            message = decode_untrusted(opened.payload)
        except WireError as error:
            self.counters.drop(Drop.MESSAGE, f"{shown}: {error}")
            is_version = isinstance(error, WireVersionError)
            return self._answer(AnswerReason.VERSION if is_version else AnswerReason.FORMAT)
        if isinstance(message, Hello):
            self.counters.drop(Drop.MESSAGE, f"{shown}: a hello in a datagram")
            return self._answer(AnswerReason.FORMAT)
        return self._deliver(Received(opened.sender, opened.boot_epoch, message), shown)

    def _greeting(self, opened: Opened) -> StreamAnswer | None:
        """Return the answer to a greeting; None if it is none, or nothing that we understand."""
        try:
            message = decode_untrusted(opened.payload)
        except WireError:
            return None
        if not isinstance(message, Hello):
            return None
        epoch, heard_at = self._heard.get(opened.sender, (0, -math.inf))
        # A node that is started again counts its epoch on by one; it need not wait.
        is_next = opened.boot_epoch == epoch + 1
        if not is_next and trio.current_time() - heard_at < HEARD_RECENTLY_S:
            return self._answer(AnswerReason.NAME)
        return self._compare(message)

    def _deliver(self, received: Received, shown: str) -> StreamAnswer:
        if len(self._heard) >= SENDERS_HEARD_MAX:
            self._heard.clear()
        self._heard[received.sender] = (received.boot_epoch, trio.current_time())
        try:
            self._inbox.send_nowait(received)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            # Full, or nobody reads any more because the node is stopping.
            self.counters.drop(Drop.INBOX_FULL, shown)
            return self._answer(AnswerReason.BUSY)
        return self._answer(None)

    def _compare(self, message: Hello) -> StreamAnswer:
        if message.protocol != PROTOCOL_VERSION:
            return self._answer(AnswerReason.VERSION)
        if message.cluster_name != self._sealer.cluster:
            return self._answer(AnswerReason.CLUSTER)
        skew_ms = self._wall_ms() - message.wall_ms
        if abs(skew_ms) > self._clock_skew_max_ms:
            return self._answer(AnswerReason.CLOCK, skew_ms)
        return self._answer(None)

    def _answer(self, reason: AnswerReason | None, skew_ms: int = 0) -> StreamAnswer:
        return StreamAnswer(reason, self._sealer.cluster, self._sealer.node, skew_ms)


async def _begins_like_http(stream: trio.SocketStream) -> bool:
    """Return whether the first byte is none of ours, without taking it.

    A frame begins with its length in four bytes, of which the first is always zero.
    """
    try:
        first = await stream.socket.recv(1, socket.MSG_PEEK)
    except OSError:
        return False  # whoever reads next will be told
    return first not in (b"", b"\0")


def _pass_on(stream: trio.SocketStream, to: trio.MemorySendChannel[trio.SocketStream]) -> None:
    """Give the connection a second descriptor and a new owner; the first is closed as ever."""
    copy = trio.SocketStream(stream.socket.dup())
    try:
        to.send_nowait(copy)
    except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
        copy.socket.close()


def _decrement(counts: dict[_K, int], key: _K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
