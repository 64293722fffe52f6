"""Messages with open files, between two ends of a socket pair."""

from __future__ import annotations

import os
import socket
import struct

import pytest
import trio

from metako.proxy.descriptors import BODY_BYTES_MAX, FILES_MAX, Descriptors
from metako.proxy.jsonline import FrameError

DEADLINE_S = 20


@pytest.fixture
async def ends():
    several = socket.socketpair()
    for sock in several:
        sock.setblocking(False)
    found = [Descriptors(sock) for sock in several]
    yield (*found, several[0])
    for one in found:
        one.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_files_arrive_with_their_messages_in_order(ends) -> None:
    sender, receiver, _ = ends
    before = open_files()

    async def send_all() -> None:
        for number in range(300):
            pipes = [os.pipe() for _ in range(number % 4)]
            for _, write in pipes:
                os.write(write, b"%d" % number)
                os.close(write)
            body = b"%d:" % number + b"x" * (number * 997 % 200_000)
            await sender.send(lambda body=body, pipes=pipes: (body, [read for read, _ in pipes]))
            for read, _ in pipes:
                os.close(read)

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            for number in range(300):
                body, files = await receiver.receive()
                assert body.startswith(b"%d:" % number)
                assert len(body) == len(b"%d:" % number) + number * 997 % 200_000
                assert len(files) == number % 4
                for file in files:
                    assert not os.get_inheritable(file)
                    assert os.read(file, 100) == b"%d" % number
                    os.close(file)
    assert open_files() == before


async def test_what_nobody_has_received_is_closed(ends) -> None:
    sender, receiver, _ = ends
    read, write = os.pipe()
    await sender.send(lambda: (b"one", [write]))
    await sender.send(lambda: (b"two", [write]))
    os.close(write)
    _, (first,) = await receiver.receive()
    os.close(first)
    receiver.close()
    assert os.read(read, 1) == b"", "nobody has the other end"
    os.close(read)


async def test_several_senders_do_not_mix(ends) -> None:
    sender, receiver, _ = ends
    sizes = [400_000, 10, 300_000, 0]
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for size in sizes:
                nursery.start_soon(sender.send, lambda size=size: (b"%d" % size * size, ()))
            found = [(await receiver.receive())[0] for _ in sizes]
    assert sorted(map(len, found)) == sorted(len(b"%d" % size * size) for size in sizes)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!IB", BODY_BYTES_MAX + 1, 0),
        struct.pack("!IB", 1, FILES_MAX + 1),
        struct.pack("!IB", 1, 1) + b"x",  # its file is missing
    ],
)
async def test_what_is_no_message_is_told(ends, data) -> None:
    _, receiver, raw = ends
    raw.send(data)
    with trio.fail_after(DEADLINE_S), pytest.raises(FrameError):
        await receiver.receive()


async def test_the_end_is_told_also_in_the_middle_of_a_message(ends) -> None:
    sender, receiver, raw = ends
    raw.send(struct.pack("!IB", 10, 0) + b"half")
    sender.close()
    with trio.fail_after(DEADLINE_S), pytest.raises(FrameError):
        await receiver.receive()
