"""What clients hear of the loss of their server, and what is kept from them."""

from __future__ import annotations

import pytest
import trio
from legs_kit import (
    QUERY,
    SHUTDOWN,
    Known,
    LegServer,
    anna_by_trust,
    settled,
    stats,
    switch,
)
from proxy_kit import eventually, message, proxy_running
from trio.testing import wait_all_tasks_blocked

from metako.pgwire import startup as pg
from metako.pgwire.messages import notice_response
from metako.proxy import control
from metako.proxy.pump import SENT_BYTES_MAX


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


async def test_nothing_is_lost_or_done_twice_by_what_is_sent_in_the_instant_of_a_cut(
    tmp_path, nursery
) -> None:
    servers = [LegServer(f"s{term}") for term in range(1, 30)]
    for server in servers:
        await nursery.start(server.run)
    outcomes = set()
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, servers[0])
        client = await proxy.session()
        for term, server in enumerate(servers[1:], 2):
            asked = message(b"Q", f"insert into t values ({term})\0".encode())
            for _ in range(term % 5):
                await trio.lowlevel.checkpoint()
            if term % 2:
                client.stream.socket._sock.send(asked)
                proxy.route(term, server)
            else:
                proxy.route(term, server)
                for _ in range(term % 7):
                    await trio.lowlevel.checkpoint()
                client.stream.socket._sock.send(asked)
            item = await client.message()
            received = sum(bytes(each.received).count(asked) for each in servers)
            if item is not None and item[0] == b"C":
                assert await client.message() == (b"Z", b"I")
                assert received == 1
                outcomes.add("answered")
            else:
                assert item is not None
                sqlstate = pg.parse_error_untrusted(item[1])["C"]
                assert sqlstate == "08007" or (sqlstate, received) == ("57P01", 0)
                outcomes.add("refused")
                client = await proxy.session()
    assert "answered" in outcomes


# -- not at rest ------------------------------------------------------------------------------


EXECUTE = message(b"B", b"\0\0\0\0\0\0\0\0") + message(b"E", b"\0\0\0\0\0")
SYNC = message(b"S", b"")


def parse(sql: str) -> bytes:
    return message(b"P", b"\0" + sql.encode() + b"\0\0\0")


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    ("asked", "alone", "inside"),
    [
        (message(b"Q", b"select 1 -- no answer\0"), "57P01", "57P01"),
        (message(b"Q", b"insert into t values (1)\0"), "08007", "57P01"),
        (message(b"Q", b"commit\0"), "57P01", "08007"),
        (parse("select 1") + EXECUTE + SYNC, "57P01", "57P01"),
        (parse("insert into t values (1)") + EXECUTE + SYNC, "08007", "57P01"),
        (parse("insert into t values (1)") + EXECUTE, "57P01", "57P01"),
        (parse("select 1") + EXECUTE + SYNC + QUERY, "57P01", "57P01"),
        (message(b"Q", b"select 1, '" + b"x" * SENT_BYTES_MAX + b"'\0"), "08007", "08007"),
    ],
)
async def test_the_error_says_whether_anything_may_have_happened(
    tmp_path, old, transaction, asked, alone, inside
) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        assert await client.query("select 1") == "old"
        if transaction:
            await client.query("begin")
        old.mute = True
        before = len(old.received)
        await client.send(asked)
        await eventually(lambda: len(old.received) == before + len(asked))
        proxy.route(2, None)
        assert (await client.error())["C"] == (inside if transaction else alone)
        assert await client.at_end()


@pytest.mark.parametrize(("asked", "sqlstate"), [("row", "08007"), ("begin", "57P01")])
async def test_who_waits_for_an_answer_or_is_in_a_transaction_is_told(
    tmp_path, old, new, asked, sqlstate
) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.send(message(b"Q", asked.encode() + b"\0"))
        while (await client.message())[0] not in (b"D", b"Z"):
            pass
        await switch(proxy, 2, new)
        assert (await client.error())["C"] == sqlstate
        assert await client.at_end()
        await eventually(lambda: stats(proxy).cut == 1)
        assert (stats(proxy).moved, new.attempts) == (0, 0)


async def test_half_a_request_ends_with_its_server(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        half = QUERY[:8]
        await client.send(half)
        await eventually(lambda: bytes(old.received) == half)
        await switch(proxy, 2, new)
        assert (await client.error())["C"] == "57P01"
        assert await client.at_end()
        assert not new.received


async def test_a_session_that_cannot_be_rebuilt_ends_with_its_server(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.query("create temp table t ()")
        proxy.route(2, new)
        error = await client.error()
        assert error["C"] == "57P01"
        assert "cannot be moved to another server" in error["D"]
        assert await client.at_end()
        assert new.attempts == 0


async def test_the_loss_of_a_session_that_cannot_be_rebuilt_is_told(tmp_path, old) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        first, second = await proxy.session(), await proxy.session()
        for client in (first, second):
            await client.query("create temp table t ()")
        await old.streams.pop(0).aclose()
        assert "cannot be moved to another server" in (await first.error())["D"]
        assert await first.at_end()
        await old.shut_down(SHUTDOWN)
        assert (await second.error())["M"] == pg.parse_error_untrusted(SHUTDOWN[5:])["M"]
        assert await second.at_end()


@pytest.mark.parametrize(("asked", "sqlstate"), [("row", "08007"), ("begin", "57P01")])
async def test_a_server_that_ends_without_a_word_is_told_to_who_waits(
    tmp_path, old, asked, sqlstate
) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.send(message(b"Q", asked.encode() + b"\0"))
        while (await client.message())[0] not in (b"D", b"Z"):
            pass
        await old.streams[0].aclose()
        error = await client.error()
        assert (error["C"], error["M"]) == (
            sqlstate,
            "terminating connection: the server closed the connection",
        )
        assert await client.at_end()


async def test_half_an_answer_ends_without_an_error_in_it(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.send(message(b"Q", b"half\0"))
        assert len(await client.stream.receive_some()) == 50
        await switch(proxy, 2, new)
        assert await client.stream.receive_some() == b""


@pytest.mark.parametrize("mode", ["database", "true", "t"])
async def test_a_replication_connection_ends_with_its_server(tmp_path, old, new, mode) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.connect()
        await client.send(pg.startup_packet({"user": "anna", "replication": mode}))
        await client.until_ready()
        await switch(proxy, 2, new)
        assert (await client.error())["C"] == "57P01"


# -- the server ends by itself ----------------------------------------------------------------


async def test_the_shutdown_of_the_old_primary_is_not_told_to_an_idle_client(
    tmp_path, old, new
) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        old.refuse_with = "57P03"
        await settled(proxy)
        await old.shut_down(SHUTDOWN)
        await eventually(lambda: stats(proxy).waiting == 1)
        await client.send(QUERY)
        await eventually(lambda: old.attempts > 1)
        await switch(proxy, 2, new)
        assert (await client.until_ready())[-1] == (b"C", b"new\0")


async def test_a_server_that_ended_by_itself_is_gone_back_to_only_when_asked(tmp_path, old) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await settled(proxy)
        await old.shut_down(SHUTDOWN)
        await eventually(lambda: stats(proxy).waiting == 1)
        await wait_all_tasks_blocked(0.005)
        assert old.logins == 1
        assert await client.query("select 1") == "old"
        assert old.logins == 2


async def test_news_before_the_shutdown_is_told(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await old.shut_down(notice_response("01000", "soon") + SHUTDOWN)
        kind, body = await client.message()
        assert (kind, b"soon" in body) == (b"N", True)
        await switch(proxy, 2, new)
        assert await client.query("select 1") == "new"


@pytest.mark.parametrize("sqlstate", ["57P05", "57P04"])
async def test_an_error_about_the_session_is_told_and_ends_it(tmp_path, old, sqlstate) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await old.shut_down(pg.error_response(sqlstate, "the end"))
        assert (await client.error())["C"] == sqlstate
        assert await client.at_end()


async def test_the_shutdown_is_told_to_whoever_is_in_a_transaction(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        assert await client.query("begin") == "BEGIN"
        await old.shut_down(SHUTDOWN)
        assert (await client.error())["M"] == pg.parse_error_untrusted(SHUTDOWN[5:])["M"]
        assert await client.at_end()


async def test_the_shutdown_ends_a_client_whose_login_was_passed_on(tmp_path, old) -> None:
    async with proxy_running(tmp_path, credentials=Known()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await old.shut_down(SHUTDOWN)
        assert (await client.error())["C"] == "57P01"
        assert await client.at_end()
