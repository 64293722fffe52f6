"""The pump between two sockets, and what it knows about message boundaries."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from metako.proxy import sockets
from metako.proxy.relay import SCRATCH_BYTES, Meter, Pump, Turn, make_scratch

READY = b"Z\0\0\0\5I"
OPEN = b"Z\0\0\0\5T"
ROW = b"D\0\0\0\4"


@contextlib.contextmanager
def pairs():
    """Give (far source, source, sink, far sink), all non-blocking."""
    far_source, source = socket.socketpair()
    sink, far_sink = socket.socketpair()
    ends = (far_source, source, sink, far_sink)
    try:
        for end in ends:
            end.setblocking(False)
        yield ends
    finally:
        for end in ends:
            end.close()


async def pumped(chunks: list[bytes]) -> Pump:
    """Return the pump after it delivered each chunk by itself."""
    pump = Pump(Turn(), upward=False)
    with pairs() as (far_source, source, sink, far_sink):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run, source, sink, make_scratch(), Meter())
            for chunk in chunks:
                await sockets.send_all(far_source, chunk)
                assert await sockets.receive_exactly(far_sink, len(chunk)) == chunk
            far_source.close()
    return pump


@pytest.mark.parametrize(
    ("chunks", "boundary", "rest"),
    [
        ([], True, False),
        ([READY], True, True),
        ([ROW + READY], True, True),
        ([ROW + READY[:2], READY[2:]], True, True),
        ([bytes((byte,)) for byte in READY], True, True),
        ([OPEN], True, False),
        ([READY, ROW], False, False),
        ([ROW + READY[:4]], False, False),
        ([READY + b"D"], False, False),
    ],
)
async def test_boundary_is_seen_however_the_bytes_are_cut(chunks, boundary, rest) -> None:
    pump = await pumped(chunks)
    assert (pump.at_boundary, pump.at_rest) == (boundary, rest)


async def test_no_boundary_while_a_chunk_is_delivered_in_part() -> None:
    pump = Pump(Turn(), upward=False)
    with pairs() as (far_source, source, sink, far_sink):
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run, source, sink, make_scratch(), Meter())
            await sockets.send_all(far_source, b"x" * 40_000 + READY)
            await wait_all_tasks_blocked()
            assert not pump.at_boundary
            assert len(await sockets.receive_exactly(far_sink, 40_006)) == 40_006
            await wait_all_tasks_blocked()
            assert pump.at_boundary
            nursery.cancel_scope.cancel()


async def test_receiver_that_does_not_read_stops_the_sender() -> None:
    pump, meter = Pump(Turn(), upward=False), Meter()
    with pairs() as (far_source, source, sink, _far_sink):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run, source, sink, make_scratch(), meter)
            sent = 0
            with trio.move_on_after(0.05):
                while True:
                    await sockets.send_all(far_source, b"x" * SCRATCH_BYTES)
                    sent += SCRATCH_BYTES
            nursery.cancel_scope.cancel()
    # What the kernel's buffers of two socket pairs and one copied chunk can hold.
    assert 0 < sent < 4_000_000
    assert pump.pending


async def test_pumps_sharing_a_scratch_buffer_do_not_mix_their_bytes() -> None:
    scratch = make_scratch()
    with pairs() as first, pairs() as second:
        async with trio.open_nursery() as nursery:

            async def check(ends, byte: bytes) -> None:
                far_source, source, sink, far_sink = ends
                sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                nursery.start_soon(Pump(Turn(), upward=True).run, source, sink, scratch, Meter())
                async with trio.open_nursery() as inner:
                    inner.start_soon(sockets.send_all, far_source, byte * 1_000_000)
                    assert await sockets.receive_exactly(far_sink, 1_000_000) == byte * 1_000_000
                far_source.close()

            nursery.start_soon(check, first, b"a")
            nursery.start_soon(check, second, b"b")


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=10))
def test_boundary_depends_on_the_stream_and_not_on_its_chunks(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    pump = trio.run(pumped, parts)
    tail = stream[-6:]
    assert pump.at_boundary == (not stream or (tail.startswith(READY[:5]) and len(tail) == 6))


async def test_closed_socket_wakes_the_pump() -> None:
    pump = Pump(Turn(), upward=False)
    with pairs() as (_far_source, source, sink, _far_sink):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await pump.run(source, sink, make_scratch(), Meter())

            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            sockets.abort(source)
    assert source.fileno() == -1
