"""A client without a server: watched, told of, and given another one."""

from __future__ import annotations

import socket

import pytest
from link_kit import ANSWER, CHANGE, EXTENDED, QUERY, READY, rig
from scan_kit import message
from trio.testing import wait_all_tasks_blocked

from metako.proxy.transport import Ended

NOTICE = message("N", b"SNOTICE\0C01000\0Mwait\0\0")
ROW = message("D", b"x" * 60_000)


async def exchange(client, server) -> None:
    await client.send(QUERY)
    await server.receive(QUERY)
    await server.send(ANSWER)
    await client.receive(ANSWER)


async def test_a_session_goes_on_with_another_server() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await exchange(joined.client, joined.server)
        assert joined.link.at_rest
        assert joined.link.detach_server() is joined.near
        near, server = made.pair()
        joined.link.attach(near)
        assert joined.link.at_rest
        await exchange(joined.client, server)
        assert joined.server.silent()


async def test_data_wait_in_the_kernel_are_told_of_once_and_reach_the_next_server() -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.link.detach_server()
        await joined.client.send(QUERY)
        await wait_all_tasks_blocked(0.01)
        await joined.client.send(EXTENDED)
        await wait_all_tasks_blocked(0.01)
        assert made.woken == 1
        assert made.context.up.count == 0
        near, server = made.pair()
        joined.link.attach(near)
        await server.receive(QUERY + EXTENDED)


@pytest.mark.parametrize("before", [b"", QUERY])
async def test_a_lost_connection_is_noticed(before) -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.link.detach_server()
        await joined.client.send(before)
        await wait_all_tasks_blocked(0.01)
        joined.client.abort()
        assert await joined.link.wait_end() is Ended.CLIENT


async def test_a_hangup_is_noticed() -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.link.detach_server()
        joined.client.close()
        assert await joined.link.wait_end() is Ended.CLIENT
        assert made.woken == 0


async def test_a_question_before_half_a_hangup_is_still_asked_and_costs_no_cpu() -> None:
    async with rig() as made:
        joined = await made.relaying()
        joined.link.detach_server()
        await joined.client.send(QUERY)
        joined.client.sock.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked(0.01)
        assert joined.link.ended is None
        assert made.woken == 1
        # Level-triggered, so nothing may be left that is ready and not wanted.
        assert made.context.reactor._epoll.poll(0) == []
        near, server = made.pair()
        joined.link.attach(near)
        await server.receive(QUERY)
        assert await server.at_end()
        await server.send(ANSWER)
        await joined.client.receive(ANSWER)


async def test_a_message_of_our_own_is_put_between_two_others_only() -> None:
    async with rig() as made:
        joined = await made.relaying()
        assert joined.link.inject(NOTICE)
        await joined.client.receive(NOTICE)
        await joined.server.send(ANSWER[:9])
        await joined.client.receive(ANSWER[:9])
        assert not joined.link.inject(NOTICE)
        await joined.server.send(ANSWER[9:])
        await joined.client.receive(ANSWER[9:])
        joined.link.detach_server()
        assert joined.link.inject(NOTICE)
        await joined.client.receive(NOTICE)


async def test_what_was_not_delivered_is_thrown_away_with_the_server_and_remembered() -> None:
    async with rig() as made:
        joined = await made.relaying()
        while not joined.link._pending_down:
            joined.server.sock.send(ROW)
            await wait_all_tasks_blocked(0.001)
        joined.link.detach_server()
        assert not joined.link.at_boundary
        assert not joined.link.inject(NOTICE)
        joined.link.close()
        assert not joined.link.at_boundary


async def test_another_server_is_refused_in_the_middle_of_a_conversation() -> None:
    async with rig() as made:
        joined = await made.relaying()
        await joined.client.send(EXTENDED)
        await joined.server.receive(EXTENDED)
        joined.link.detach_server()
        near, _ = made.pair()
        with pytest.raises(AssertionError):
            joined.link.attach(near)


async def test_notes_are_told_after_the_bytes_have_left() -> None:
    async with rig() as made:
        joined = await made.relaying()

        def leave(note, from_client) -> None:
            made.notes.append((note, from_client))
            joined.link.detach_server()

        joined.link._on_note = leave
        await joined.client.send(CHANGE)
        await joined.server.receive(CHANGE)
        await wait_all_tasks_blocked(0.01)
        told = [(note.kind, from_client) for note, from_client in made.notes]
        assert told == [(b"+", True), (b"Q", True)]
        await joined.server.send(READY)
        await wait_all_tasks_blocked(0.01)
        assert joined.client.silent()
