"""A server that ends by itself: what the client hears of it, and when it may be kept."""

from __future__ import annotations

import socket

import pytest
from link_kit import ANSWER, EXTENDED, QUERY, READY, Joined, Rig, rig
from scan_kit import message
from trio.testing import wait_all_tasks_blocked

from metako.pgwire.startup import error_response
from metako.proxy.transport import Ended

SHUTDOWN = error_response("57P01", "terminating connection due to administrator command")
TIMED_OUT = error_response("57P05", "terminating connection due to idle-session timeout")
NOTICE = message("N", b"SNOTICE\0C01000\0Mwait\0\0")
SETTING = message("S", b"TimeZone\0UTC\0")
CHANNEL = message("A", b"\0\0\0\1news\0\0")
PART = ANSWER[: ANSWER.rindex(READY)]  # its whole messages, without the last
IN_TRANSACTION = message("C", b"BEGIN\0") + message("Z", b"T")


async def test_last_words_are_kept_from_a_client_at_rest_that_goes_on() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        await joined.server.send(SHUTDOWN)
        joined.server.close()
        await wait_all_tasks_blocked(0.01)
        assert (made.lost, joined.link.ended) == (1, None)
        assert joined.client.silent()
        near, server = made.pair()
        joined.link.attach(near)
        await joined.client.send(QUERY)
        await server.receive(QUERY)
        await server.send(ANSWER)
        await joined.client.receive(ANSWER)


async def test_what_comes_before_the_last_words_is_passed_on() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        await joined.server.send(NOTICE + SETTING + CHANNEL + SHUTDOWN)
        await joined.client.receive(NOTICE + SETTING + CHANNEL)
        await wait_all_tasks_blocked(0.01)
        assert made.lost == 1
        assert joined.client.silent()
        assert [note.kind for note, _ in made.notes] == [b"N", b"S", b"A"]


@pytest.mark.parametrize("piece", [NOTICE, SETTING, CHANNEL])
async def test_what_a_server_says_unasked_is_passed_on_at_once(piece) -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        await joined.server.send(piece)
        await joined.client.receive(piece)
        assert made.lost == 0


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_an_end_without_a_word_is_a_loss_too(end) -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        getattr(joined.server, end)()
        await wait_all_tasks_blocked(0.01)
        assert (made.lost, joined.link.ended) == (1, None)
        joined.client.close()
        assert await joined.link.wait_end() is Ended.CLIENT


async def test_a_client_that_is_not_kept_hears_the_last_words() -> None:
    async with rig(keeps=False) as made:
        joined = await made.relaying()
        await joined.server.send(NOTICE + SHUTDOWN)
        await joined.client.receive(NOTICE + SHUTDOWN)
        assert await joined.link.wait_end() is Ended.SERVER


async def test_an_error_about_the_session_ends_it() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        await joined.server.send(TIMED_OUT)
        await joined.client.receive(TIMED_OUT)
        joined.server.close()
        assert await joined.link.wait_end() is Ended.SERVER
        assert made.lost == 0


async def test_last_words_in_two_pieces_are_passed_on_and_end_the_session() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        await joined.server.send(SHUTDOWN[:20])
        await joined.client.receive(SHUTDOWN[:20])
        await joined.server.send(SHUTDOWN[20:])
        await joined.client.receive(SHUTDOWN[20:])
        joined.server.close()
        assert await joined.link.wait_end() is Ended.SERVER
        assert made.lost == 0


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(("asked", "answered"), [(QUERY, IN_TRANSACTION), (EXTENDED, b"")])
async def test_a_client_in_the_middle_of_something_hears_of_it(asked, answered, apart) -> None:
    async with rig(keeps=False) as made:
        joined = await made.relaying()
        await joined.client.send(asked)
        await joined.server.receive(asked)
        if apart:
            await joined.server.send(answered)
            await joined.client.receive(answered)
            await joined.server.send(SHUTDOWN)
        else:
            await joined.server.send(answered + SHUTDOWN)
            await joined.client.receive(answered)
        await joined.client.receive(SHUTDOWN)
        joined.server.close()
        assert await joined.link.wait_end() is Ended.SERVER


async def answered_by_the_next(made: Rig, joined: Joined) -> None:
    """Another server is sent the request, answers it, and the client is at rest."""
    near, server = made.pair()
    joined.link.attach(near, again=QUERY)
    await server.receive(QUERY)
    await server.send(ANSWER)
    await joined.client.receive(ANSWER)
    assert joined.link.at_rest


@pytest.mark.parametrize("words", [SHUTDOWN, b""])
async def test_a_request_that_was_not_answered_may_be_sent_to_the_next_server(words) -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        for request in (QUERY, QUERY):
            await joined.client.send(request)
            await joined.server.receive(request)
        # The first is answered, in one piece with the end of the session.
        await joined.server.send(ANSWER + words)
        joined.server.close()
        await joined.client.receive(ANSWER)
        await wait_all_tasks_blocked(0.01)
        assert (made.lost, joined.link.ended) == (1, None)
        assert (joined.link.standing.owed, joined.link.standing.delivered) == (1, False)
        assert joined.link.sent == QUERY * 2
        await answered_by_the_next(made, joined)


async def test_last_words_behind_an_answer_are_kept_from_a_client_that_goes_on() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        await joined.client.send(QUERY)
        await joined.server.receive(QUERY)
        await joined.server.send(ANSWER + SHUTDOWN)
        await joined.client.receive(ANSWER)
        await wait_all_tasks_blocked(0.01)
        assert (made.lost, joined.link.ended) == (1, None)
        assert joined.client.silent()


@pytest.mark.parametrize("answered", [b"", ANSWER])
async def test_a_part_of_an_answer_in_one_piece_with_the_last_words_is_not_given(answered) -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        for request in (QUERY, QUERY) if answered else (QUERY,):
            await joined.client.send(request)
            await joined.server.receive(request)
        await joined.server.send(answered + PART + SHUTDOWN)
        if answered:
            await joined.client.receive(answered)
        await wait_all_tasks_blocked(0.01)
        assert (made.lost, joined.link.ended) == (1, None)
        assert (joined.link.standing.owed, joined.link.standing.delivered) == (1, False)
        assert joined.client.silent()
        await answered_by_the_next(made, joined)


async def test_a_client_that_is_not_kept_is_given_the_part_before_the_last_words() -> None:
    async with rig(keeps=False) as made:
        joined = await made.relaying()
        await joined.client.send(QUERY)
        await joined.server.receive(QUERY)
        await joined.server.send(PART + SHUTDOWN)
        await joined.client.receive(PART + SHUTDOWN)
        assert await joined.link.wait_end() is Ended.SERVER


async def test_a_part_of_an_answer_that_was_given_is_known() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        await joined.client.send(QUERY)
        await joined.server.receive(QUERY)
        await joined.server.send(ANSWER[:30])
        await joined.client.receive(ANSWER[:30])
        assert joined.link.standing.delivered


async def test_a_client_that_says_nothing_more_is_not_kept() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        joined.client.sock.shutdown(socket.SHUT_WR)
        assert await joined.server.at_end()
        joined.server.close()
        assert await joined.link.wait_end() is Ended.SERVER
        assert made.lost == 0


async def test_a_client_that_does_not_listen_gets_everything_and_is_not_kept() -> None:
    async with rig(keeps=True) as made:
        joined = await made.relaying()
        send = joined.link._client_send

        def send_a_little(data) -> int:
            joined.link._client_send = send
            return send(data[:10])

        joined.link._client_send = send_a_little
        await joined.server.send(NOTICE + SHUTDOWN)
        joined.server.close()
        await joined.client.receive(NOTICE + SHUTDOWN)
        assert await joined.link.wait_end() is Ended.SERVER
        assert made.lost == 0


async def test_a_server_that_ends_before_the_link_was_asked_ends_it() -> None:
    async with rig(keeps=True) as made:
        link, client = made.link()
        near, server = made.pair()
        link.attach(near, logging_in=True)
        await server.send(SHUTDOWN)
        await client.receive(SHUTDOWN)
        server.close()
        assert await link.wait_end() is Ended.SERVER
        assert made.lost == 0
