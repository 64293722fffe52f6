"""One client and one server, joined: what passes, what is known of it, and how it ends."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
from follow_kit import BOUND, done
from link_kit import ANSWER, CHANGE, EXTENDED, LOGIN, QUERY, READY, rig
from scan_kit import message
from trio.testing import wait_all_tasks_blocked

from metako.proxy.transport import BULK_BYTES, SCRATCH_BYTES, Ended

ROW = message("D", b"x" * 60_000)
TERMINATE = message("X")
ERROR = message("E", b"SFATAL\0C57P01\0Mgone\0\0")


async def test_bytes_pass_both_ways_and_are_counted() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.client.send(QUERY)
        await joined.server.receive(QUERY)
        await joined.server.send(ANSWER)
        await joined.client.receive(ANSWER)
        assert made.context.up.count == len(QUERY)
        assert made.context.down.count == len(LOGIN + ANSWER)


async def test_reads_and_writes_are_counted_whether_or_not_a_session_is_followed() -> None:
    wrote = BOUND + done("UPDATE 1") + done("SELECT 1") + READY
    async with rig() as made:
        followed = await made.relaying()
        made.follows = False
        for joined in (followed, await made.relaying()):
            for answer in (*(ANSWER,) * 4, wrote[:20], wrote[20:], *(wrote,) * 4):
                await joined.client.send(QUERY)
                await joined.server.receive(QUERY)
                await joined.server.send(answer)
                await joined.client.receive(answer)
            assert {len(ANSWER), len(wrote)} <= joined.link._down.known.keys()
        tally = made.context.tally
        assert (tally.reads, tally.writes) == (2 * 9, 2 * 5)


async def test_rest_and_boundary_are_known_at_every_step() -> None:
    async with rig() as made:
        joined = await made.relaying()
        link, seen = joined.link, []

        async def step(sender, receiver, data: bytes) -> None:
            await sender.send(data)
            await receiver.receive(data)
            seen.append((link.at_boundary, link.at_rest))

        client, server = joined.client, joined.server
        assert (link.at_boundary, link.at_rest) == (True, True)
        await step(client, server, QUERY[:3])
        await step(client, server, QUERY[3:])
        await step(server, client, ANSWER[:20])
        await step(server, client, ANSWER[20:-6])
        await step(server, client, READY[:5])
        await step(server, client, READY[5:])
        await step(client, server, EXTENDED)
        await step(client, server, message("S"))
        await step(server, client, message("Z", b"T"))
        assert seen == [
            (True, False),
            (True, False),
            (False, False),
            (True, False),
            (False, False),
            (True, True),
            (True, False),
            (True, False),
            (True, False),
        ]


async def test_a_link_is_not_at_rest_before_the_login_is_over() -> None:
    async with rig() as made:
        link, client = made.link()
        near, server = made.pair()
        assert link.at_boundary
        link.attach(near, LOGIN[:5], logging_in=True)
        assert not link.at_boundary
        await server.send(LOGIN[5:9])
        await client.receive(LOGIN[:9])
        await client.send(message("p", b"secret\0"))
        await server.receive(message("p", b"secret\0"))
        assert (link.at_boundary, link.at_rest) == (True, False)
        await server.send(LOGIN[9:])
        await client.receive(LOGIN[9:])
        assert link.at_rest


async def test_a_client_that_does_not_read_stops_the_server_and_loses_nothing() -> None:
    async with rig() as made:
        joined = await made.relaying()
        link, rows = joined.link, 200
        sent = 0
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                nonlocal sent
                for _ in range(rows):
                    await joined.server.send(ROW)
                    sent += len(ROW)
                await joined.server.send(READY)

            await joined.client.send(QUERY)
            await joined.server.receive(QUERY)
            nursery.start_soon(answer)
            stuck = -1
            while stuck != sent:
                stuck = sent
                await wait_all_tasks_blocked(0.01)
            assert sent < rows * len(ROW)
            assert 0 < len(link._pending_down) <= BULK_BYTES
            assert not link.at_boundary
            for _ in range(rows):
                await joined.client.receive(ROW)
            await joined.client.receive(READY)
        assert link.at_rest
        assert not link._pending_down


async def test_a_server_that_does_not_read_stops_the_client_and_loses_nothing() -> None:
    async with rig() as made:
        joined = await made.relaying()
        data, sent = message("d", b"x" * 60_000), 0
        async with trio.open_nursery() as nursery:

            async def copy() -> None:
                nonlocal sent
                for _ in range(200):
                    await joined.client.send(data)
                    sent += 1
                joined.client.sock.shutdown(socket.SHUT_WR)

            nursery.start_soon(copy)
            stuck = -1
            while stuck != sent:
                stuck = sent
                await wait_all_tasks_blocked(0.01)
            assert sent < 200
            assert 0 < len(joined.link._pending_up) <= SCRATCH_BYTES
            assert not joined.link.at_rest
            # The other way is open all the while.
            await joined.server.send(message("N", b"C00000\0\0"))
            await joined.client.receive(message("N", b"C00000\0\0"))
            for _ in range(200):
                await joined.server.receive(data)
        assert await joined.server.at_end()


async def test_a_query_that_is_known_by_its_shape_is_passed_on_like_any_other() -> None:
    async with rig() as made:
        joined = await made.relaying()
        link = joined.link
        for number in range(10, 22):
            # Of a length whose last byte is a digit, as the next one is.
            query = message("Q", (b"select %d" % number).ljust(46) + b"\0")
            await joined.client.send(query)
            await joined.server.receive(query)
            assert (link.sent, link.sent_whole, link.standing.owed) == (query, True, 1)
            await joined.server.send(ANSWER)
            await joined.client.receive(ANSWER)
            assert link.at_rest
        assert link._up.shapes
        assert link.asked == link.answers == 12
        # Its bytes are known, but it is longer than that: the rest is still to come.
        half = b"Q" + struct.pack("!I", len(query)) + query[5:]
        await joined.client.send(half)
        await joined.server.receive(half)
        assert link.standing.half
        assert not made.notes


def watch_rooms(link) -> list[int]:
    """Return a list that tells how much there was room for whenever the server was read."""
    rooms: list[int] = []
    receive = link._server_recv

    def note(view: memoryview) -> int:
        rooms.append(len(view))
        return receive(view)

    link._server_recv = note
    return rooms


async def test_more_is_read_at_a_time_in_the_middle_of_a_large_answer_only() -> None:
    async with rig() as made:
        joined = await made.relaying()
        link, context = joined.link, made.context
        rows = message("D", b"x" * 95) * 20_000
        await joined.client.send(QUERY)
        await joined.server.receive(QUERY)
        rooms = watch_rooms(link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(joined.server.send, rows + READY)
            await joined.client.receive(rows)
        await joined.client.receive(READY)
        assert rooms[0] == len(context.view)
        assert len(context.bulk_view) in rooms
        assert link._down_view is context.view
        assert not context.reactor._bulk


async def test_little_is_read_at_a_time_where_every_message_has_to_be_looked_at() -> None:
    async with rig() as made:
        joined = await made.relaying()
        # In turns, so that looking ahead never pays.
        rows = b"".join(message("D", b"x" * (size % 7)) for size in range(200_000))
        await joined.client.send(QUERY)
        await joined.server.receive(QUERY)
        rooms = watch_rooms(joined.link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(joined.server.send, rows + READY)
            await joined.client.receive(rows)
        await joined.client.receive(READY)
        assert set(rooms) == {len(made.context.view)}


async def test_the_next_server_is_read_like_the_first() -> None:
    async with rig() as made:
        joined = await made.relaying()
        link = joined.link
        link._down_view = made.context.bulk_view
        link.detach_server()
        assert link._down_view is made.context.view


async def test_a_huge_result_does_not_keep_another_session_waiting() -> None:
    async with rig() as made:
        huge, small = await made.relaying(), await made.relaying()
        read = 0
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await huge.server.send(ROW * 10)

            async def drain() -> None:
                nonlocal read
                buffer = bytearray(SCRATCH_BYTES)
                while True:
                    await trio.lowlevel.wait_readable(huge.client.sock)
                    read += huge.client.sock.recv_into(buffer)

            nursery.start_soon(flood)
            nursery.start_soon(drain)
            for _ in range(50):
                before = made.context.down.count
                await small.client.send(QUERY)
                await small.server.receive(QUERY)
                await small.server.send(ANSWER)
                await small.client.receive(ANSWER)
                # Bounded by passes, not by how much there is: a handful of pieces of the other one.
                assert made.context.down.count - before < 200 * SCRATCH_BYTES
            nursery.cancel_scope.cancel()
        assert read > SCRATCH_BYTES


async def test_links_share_a_buffer_and_do_not_mix_their_bytes() -> None:
    async with rig() as made, trio.open_nursery() as nursery:

        async def check(byte: bytes) -> None:
            joined = await made.relaying()
            joined.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            data = message("d", byte * 50_000) * 20
            async with trio.open_nursery() as inner:
                inner.start_soon(joined.client.send, data)
                await joined.server.receive(data)

        for byte in (b"a", b"b", b"c"):
            nursery.start_soon(check, byte)


# -- ends -------------------------------------------------------------------------------------


async def test_the_end_of_the_server_is_the_end_once_all_is_delivered() -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.link._client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await joined.server.send(ROW * 40)
                joined.server.close()

            nursery.start_soon(answer)
            await wait_all_tasks_blocked(0.01)
            assert joined.link.ended is None
            await joined.client.receive(ROW * 40)
        assert await joined.link.wait_end() is Ended.SERVER
        assert joined.link.at_boundary


async def test_a_server_that_is_killed_in_a_message_ends_the_link_off_boundary() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.client.send(QUERY)
        await joined.server.receive(QUERY)
        await joined.server.send(ROW[:1000])
        await joined.client.receive(ROW[:1000])
        joined.server.abort()
        assert await joined.link.wait_end() is Ended.SERVER
        assert not joined.link.at_boundary
        assert not joined.link.inject(ERROR)


async def test_last_words_of_a_server_that_takes_nothing_more_are_delivered() -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.near.shutdown(socket.SHUT_WR)
        await joined.client.send(QUERY)
        await wait_all_tasks_blocked(0.01)
        assert joined.link.ended is None
        await joined.server.send(ERROR)
        await joined.client.receive(ERROR)
        joined.server.close()
        assert await joined.link.wait_end() is Ended.SERVER
        assert joined.link.at_boundary


async def test_a_client_that_hangs_up_tells_the_server_and_may_still_listen() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.client.send(QUERY)
        joined.client.sock.shutdown(socket.SHUT_WR)
        await joined.server.receive(QUERY)
        assert await joined.server.at_end()
        await joined.server.send(ANSWER)
        await joined.client.receive(ANSWER)
        assert joined.link.ended is None
        joined.server.close()
        assert await joined.link.wait_end() is Ended.SERVER


async def test_a_client_that_vanishes_ends_the_link() -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.client.abort()
        assert await joined.link.wait_end() is Ended.CLIENT


async def test_a_client_that_vanishes_while_it_is_behind_ends_the_link() -> None:
    async with rig() as made:
        joined = await made.relaying()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(joined.server.send, ROW * 100)
            await wait_all_tasks_blocked(0.01)
            assert joined.link._pending_down
            joined.client.abort()
            assert await joined.link.wait_end() is Ended.CLIENT
            nursery.cancel_scope.cancel()


async def test_terminate_at_rest_is_not_passed_on() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.client.send(TERMINATE)
        assert await joined.link.wait_end() is Ended.GOODBYE
        assert joined.server.silent()


@pytest.mark.parametrize("split", [1, 3, len(TERMINATE)])
async def test_terminate_behind_a_question_is_passed_on_and_the_answer_comes(split) -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.client.send(QUERY + TERMINATE[:split])
        await joined.server.receive(QUERY + TERMINATE[:split])
        await joined.server.send(ANSWER)
        await joined.client.receive(ANSWER)
        assert await joined.server.at_end()
        joined.server.close()
        assert await joined.link.wait_end() is Ended.SERVER


async def test_garbage_of_the_client_ends_the_link_and_does_not_reach_the_server() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert await joined.link.wait_end() is Ended.CLIENT_VIOLATION
        assert joined.link.violation is not None
        assert joined.link.at_boundary
        assert joined.server.silent()


async def test_garbage_of_the_server_ends_the_link_and_does_not_reach_the_client() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.server.send(b"D" + struct.pack("!I", 1))
        assert await joined.link.wait_end() is Ended.SERVER_VIOLATION
        assert not joined.link.at_boundary
        assert joined.client.silent()


async def test_a_bug_ends_its_own_link_and_is_reported() -> None:
    async with rig() as made:
        joined, other = await made.relaying(), await made.relaying()

        def fail(note, from_client) -> None:
            raise ValueError("planted")

        joined.link._on_note = fail
        await joined.client.send(CHANGE)
        assert await joined.link.wait_end() is Ended.FAILED
        assert [str(error) for error in made.errors] == ["planted"]
        await other.client.send(QUERY)
        await other.server.receive(QUERY)


async def test_closing_lets_go_of_both_sockets_and_is_harmless_twice() -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.link.close()
        joined.link.close()
        assert await joined.link.wait_end() is Ended.CLOSED
        assert not made.context.reactor._callbacks
        await joined.client.send(QUERY)
        await wait_all_tasks_blocked(0.01)
        assert joined.server.silent()
        assert not joined.link.inject(ERROR)
