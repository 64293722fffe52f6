"""The transport on real loopback sockets: what arrives, what is dropped, and what is answered."""

import contextlib
import os
import socket
import struct

import msgpack
import pytest
import trio
import trio.testing
from gossip_nodes import KEY, LOOPBACK, OTHER, node_factory, running, until

from metako.model.document import DocumentRef
from metako.model.errors import ConfigError
from metako.model.ids import Address, NodeId, Term
from metako.model.member import MemberState
from metako.runtime.binding import bind_gossip
from metako.runtime.counters import Drop
from metako.runtime.transport import STREAMS_IN_PER_HOST_MAX, STREAMS_OUT_PER_NODE_MAX
from metako.wire.answer import AnswerReason, decode_answer_untrusted
from metako.wire.codec import encode
from metako.wire.limits import DATAGRAM_MAX_BYTES, STREAM_MAX_BYTES
from metako.wire.messages import (
    Heartbeat,
    Hello,
    MemberUpdate,
    Nack,
    PushPull,
    Received,
)

HEARTBEAT = Heartbeat(Term(5), 3, 77, 2000, DocumentRef(Term(5), 9), True, False)

node = pytest.fixture(node_factory)


async def raw_exchange(address, data, *, framed=True):
    """Send bytes over TCP and return the answer, None if there was none."""
    stream = await trio.open_tcp_stream(address.host, address.port)
    async with stream:
        await stream.send_all(struct.pack("!I", len(data)) + data if framed else data)
        received = b""
        with contextlib.suppress(trio.BrokenResourceError):
            async for chunk in stream:
                received += chunk
    return decode_answer_untrusted(received[4:]) if received else None


def raw_datagram(address, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (address.host, address.port))


def large_roster():
    updates = (MemberUpdate(NodeId(f"node-{i}"), 1, i, MemberState.ALIVE) for i in range(500))
    return PushPull(False, tuple(updates))


# ---------------------------------------------------------------- delivery


@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
@pytest.mark.parametrize("keys", [(KEY,), ()], ids=["sealed", "plain"])
async def test_a_message_arrives_with_its_sender_and_epoch(node, stream, keys):
    a, b = node("a", keys=keys, epoch=7), node("b", keys=keys)
    async with running(a, b):
        a.send(b, HEARTBEAT, stream=stream)
        assert await b.next() == Received(NodeId("a"), 7, HEARTBEAT)
        if stream:
            await until(lambda: a.transport.counters.streams_sent == 1)
            assert b.transport.counters.streams_received == 1
        else:
            assert a.transport.counters.datagrams_sent == 1
            assert b.transport.counters.datagrams_received == 1
        assert a.transport.counters.bytes_sent == b.transport.counters.bytes_received > 0
    assert (a.dropped, b.dropped) == ({}, {})


async def test_what_is_too_large_for_a_datagram_goes_by_stream(node):
    a, b = node("a"), node("b")
    async with running(a, b):
        a.send(b, large_roster())
        assert (await b.next()).message == large_roster()
    assert a.transport.counters.datagrams_sent == 0


async def test_a_burst_of_datagrams_arrives_in_both_directions(node):
    a, b = node("a", inbox_max=200), node("b", inbox_max=200)
    async with running(a, b):
        for i in range(150):
            a.send(b, Nack(i))
            b.send(a, Nack(i))
        for node in (a, b):
            assert {(await node.next()).message.sequence for _ in range(150)} == set(range(150))


async def test_an_ipv6_node_hears_ipv6_and_ipv4_peers(node):
    try:
        six = node("six", host="::")
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    four = node("four")
    async with running(six, four):
        four.send(six, Nack(1), address=Address(LOOPBACK, six.address.port))
        assert (await six.next()).message == Nack(1)
        six.send(four, Nack(2))
        assert (await four.next()).message == Nack(2)
        six.send(four, Nack(3), stream=True)
        assert (await four.next()).message == Nack(3)


async def test_a_host_name_is_looked_up_in_the_background_and_then_used(node):
    a, b = node("a"), node("b")
    by_name = Address("localhost", b.address.port)
    async with running(a, b):
        a.send(b, Nack(1), address=by_name)
        assert a.dropped == {Drop.UNRESOLVED: 1}
        await until(lambda: a.transport._resolver._known)
        a.send(b, Nack(2), address=by_name)
        assert (await b.next()).message == Nack(2)
        a.send(b, Nack(3), address=by_name, stream=True)
        assert (await b.next()).message == Nack(3)


async def test_new_keys_are_used_without_a_restart(node):
    a, b = node("a"), node("b")
    async with running(a, b):
        b.transport.replace_keys((KEY, OTHER))
        a.transport.replace_keys((OTHER,))
        a.send(b, Nack(1))
        assert (await b.next()).message == Nack(1)
        b.send(a, Nack(2))
        await until(lambda: a.dropped == {Drop.KEY: 1})


# ---------------------------------------------------------------- dropped on receipt


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"keys": (OTHER,)}, Drop.KEY),
        ({"keys": ()}, Drop.KEY),
        ({"cluster": "other"}, Drop.CLUSTER),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
async def test_a_strangers_message_is_counted_and_dropped(node, options, reason, stream):
    a, b = node("a"), node("b", **options)
    async with running(a, b):
        a.send(b, HEARTBEAT, stream=stream)
        await until(lambda: b.dropped)
        assert b.dropped == {reason: 1}
        assert b.inbox.statistics().current_buffer_used == 0
        if stream:
            await until(lambda: a.dropped)
            assert a.dropped == {Drop.STREAM_REFUSED: 1}


async def test_a_message_for_another_node_and_a_replay_are_dropped(node):
    a, b = node("a"), node("b")
    async with running(a, b):
        raw_datagram(b.address, a.sealer.seal(NodeId("c"), encode(HEARTBEAT)))
        await until(lambda: b.dropped == {Drop.RECIPIENT: 1})
        data = a.sealer.seal(b.name, encode(HEARTBEAT))
        raw_datagram(b.address, data)
        await b.next()
        raw_datagram(b.address, data)
        await until(lambda: b.dropped == {Drop.RECIPIENT: 1, Drop.REPLAY: 1})


async def test_garbage_is_dropped_and_the_next_message_still_arrives(node):
    a, b = node("a"), node("b")
    garbage = [b"", b"x", b"mk", b"\x00" * 1400, os.urandom(300), a.sealer.seal(b.name, b"\xc1")]
    async with running(a, b):
        for data in garbage:
            raw_datagram(b.address, data)
        await until(lambda: sum(b.dropped.values()) == len(garbage))
        a.send(b, HEARTBEAT)
        assert (await b.next()).message == HEARTBEAT
    assert b.dropped == {Drop.FORMAT: len(garbage) - 1, Drop.MESSAGE: 1}


async def test_an_oversized_datagram_is_dropped_unread(node):
    a, b = node("a"), node("b")
    async with running(a, b):
        raw_datagram(b.address, a.sealer.seal(b.name, bytes(DATAGRAM_MAX_BYTES)))
        await until(lambda: b.dropped)
    assert b.dropped == {Drop.OVERSIZE: 1}


async def test_a_full_inbox_drops_the_newest_and_counts(node):
    a, b = node("a"), node("b", inbox_max=2)
    async with running(a, b):
        for i in range(5):
            a.send(b, Nack(i))
        await until(lambda: b.dropped == {Drop.INBOX_FULL: 3})
        a.send(b, Nack(9), stream=True)
        await until(lambda: a.dropped == {Drop.STREAM_REFUSED: 1})
        assert [(await b.next()).message for _ in range(2)] == [Nack(0), Nack(1)]
        a.send(b, Nack(10))
        assert (await b.next()).message == Nack(10)


async def test_a_node_that_is_stopping_drops_what_nobody_reads(node):
    a, b = node("a"), node("b")
    async with running(a, b):
        b.inbox.close()
        a.send(b, HEARTBEAT)
        await until(lambda: b.dropped == {Drop.INBOX_FULL: 1})


async def test_a_hello_in_a_datagram_is_not_answered(node):
    a, b = node("a"), node("b")
    async with running(a, b):
        a.send(b, Hello(1, "main", "0", 0, 1))
        await until(lambda: b.dropped)
    assert b.dropped == {Drop.MESSAGE: 1}


# ---------------------------------------------------------------- streams


async def test_a_frame_too_long_is_not_read(node):
    b = node("b")
    async with running(b):
        head = struct.pack("!I", STREAM_MAX_BYTES + 1)
        assert await raw_exchange(b.address, head, framed=False) is None
    assert b.dropped == {Drop.OVERSIZE: 1}


async def test_a_stream_of_garbage_is_answered_in_the_clear(node):
    b = node("b")
    async with running(b):
        answer = await raw_exchange(b.address, b"GET / HTTP/1.1\r\n\r\n")
        assert (answer.reason, answer.cluster, answer.node) == (AnswerReason.FORMAT, "main", "b")
    assert b.dropped == {Drop.FORMAT: 1}


async def test_a_message_of_another_version_is_answered_with_version(node):
    a, b = node("a"), node("b")
    async with running(b):
        later = msgpack.packb({"v": 2, "k": "nack", "s": 1})
        answer = await raw_exchange(b.address, a.sealer.seal(b.name, later))
        assert answer.reason is AnswerReason.VERSION


async def test_a_connection_without_a_byte_is_no_fault_and_half_a_frame_is(node):
    b = node("b")
    async with running(b):
        (await trio.open_tcp_stream(LOOPBACK, b.address.port)).socket.close()
        half = await trio.open_tcp_stream(LOOPBACK, b.address.port)
        await half.send_all(b"\x00\x00\x01\x00abc")
        await half.aclose()
        await until(lambda: b.dropped)
    assert b.dropped == {Drop.INCOMPLETE: 1}


async def test_connections_that_say_nothing_are_bounded_and_time_out(node):
    b = node("b", exchange_timeout_s=0.2)
    async with running(b):
        idle = [
            await trio.open_tcp_stream(LOOPBACK, b.address.port)
            for _ in range(STREAMS_IN_PER_HOST_MAX + 2)
        ]
        await until(lambda: b.dropped.get(Drop.CONNECTIONS) == 2)
        await until(lambda: b.dropped.get(Drop.INCOMPLETE) == STREAMS_IN_PER_HOST_MAX)
        assert b.transport._streams_in == {}
        for stream in idle:
            await stream.aclose()
        answer = await raw_exchange(b.address, b"anything")
        assert answer.reason is AnswerReason.FORMAT


async def test_streams_to_a_peer_that_never_answers_are_bounded_and_given_up(node):
    a, silent, b = node("a", exchange_timeout_s=0.2), node("silent"), node("b")
    # `silent` listens but does not run: the kernel accepts, nobody answers.
    async with running(a, b):
        for i in range(STREAMS_OUT_PER_NODE_MAX + 3):
            a.send(silent, Nack(i), stream=True)
        assert a.dropped == {Drop.STREAMS_BUSY: 3}
        a.send(b, Nack(1), stream=True)
        assert (await b.next()).message == Nack(1)
        await until(lambda: a.dropped.get(Drop.STREAM_FAILED) == STREAMS_OUT_PER_NODE_MAX)
        assert a.transport._streams_out == {}


async def test_stopping_cuts_open_streams_and_frees_the_port(node):
    a, silent = node("a"), node("silent")
    async with running(a):
        a.send(silent, HEARTBEAT, stream=True)
        await trio.testing.wait_all_tasks_blocked()
    rebound = bind_gossip(LOOPBACK, a.address.port)
    assert rebound.address == a.address
    rebound.close()


# ---------------------------------------------------------------- dropped on sending


async def test_failures_of_the_network_are_counted_never_raised(node):
    a, b = node("a"), node("b")
    closed = bind_gossip(LOOPBACK, 0)
    closed.close()
    async with running(a):
        a.send(b, HEARTBEAT, address=closed.address)  # nobody there: sent all the same
        a.send(b, HEARTBEAT, address=closed.address, stream=True)
        await until(lambda: a.dropped.get(Drop.STREAM_FAILED) == 1)
        a.send(b, HEARTBEAT, address=Address("::1", 7946))  # not of our socket's family
        a.send(b, HEARTBEAT, address=Address("255.255.255.255", 7946))  # broadcast: refused
        a.send(b, HEARTBEAT, address=Address(LOOPBACK, 99_999))  # no such port
        a.send(b, Nack(-1))  # cannot be encoded
        dropped = a.dropped
    assert dropped[Drop.UNREACHABLE] == 2
    assert dropped[Drop.UNRESOLVED] == 1
    assert dropped[Drop.ENCODING] == 1


async def test_a_full_send_buffer_drops_and_counts(node):
    a, b = node("a"), node("b")

    class Full:
        def sendto(self, data, where):
            raise BlockingIOError(11, "Resource temporarily unavailable")

    class Sockets:
        udp = Full()
        family = socket.AF_INET

    async with running(a):
        real, a.transport._sockets = a.transport._sockets, Sockets()
        a.send(b, HEARTBEAT)
        a.transport._sockets = real
    assert a.dropped == {Drop.BLOCKED: 1}


async def test_a_message_to_ourselves_is_a_mistake(node):
    a = node("a")
    async with running(a):
        with pytest.raises(AssertionError):
            a.send(a, HEARTBEAT)


async def test_where_http_shares_the_port_it_is_passed_on_untouched(node):
    send, http = trio.open_memory_channel(1)
    a, b = node("a"), node("b", http=send)
    async with running(a, b):
        async with await trio.open_tcp_stream(LOOPBACK, b.address.port) as client:
            await client.send_all(b"GET /status HTTP/1.1\r\n")
            stream = await http.receive()
            assert await stream.receive_some(100) == b"GET /status HTTP/1.1\r\n"
            await stream.send_all(b"HTTP/1.1 200 OK\r\n")
            assert await client.receive_some(100) == b"HTTP/1.1 200 OK\r\n"
            await stream.aclose()
        a.send(b, Nack(1), stream=True)
        assert (await b.next()).message == Nack(1)
    assert b.dropped == {}


async def test_http_that_nobody_takes_is_closed(node):
    send, _http = trio.open_memory_channel(0)
    b = node("b", http=send)
    async with running(b), await trio.open_tcp_stream(LOOPBACK, b.address.port) as client:
        await client.send_all(b"GET / HTTP/1.1\r\n")
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            assert await client.receive_some(100) == b""
