"""Clients that keep their session when their server goes."""

from __future__ import annotations

import resource

import pytest
import trio
from legs_kit import Known, LegServer, anna_by_scram, anna_by_trust, keys_for, log_in_by_scram
from proxy_kit import Proxy, eventually, message, proxy_running
from trio.testing import wait_all_tasks_blocked

from metako.pgwire import startup as pg
from metako.pgwire.login_server import ScramLogin
from metako.pgwire.messages import BackendKey, notice_response, parameter_status
from metako.proxy import control, rebuilding
from metako.proxy.board import MOVES_UNASKED_MAX
from metako.proxy.pump import SENT_BYTES_MAX
from metako.proxy.relay import Relay

SHUTDOWN = pg.error_response("57P01", "terminating connection due to administrator command")
IDLE_CLIENTS = 1000
QUERY = message(b"Q", b"select 1\0")


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


@pytest.fixture
async def old(nursery) -> LegServer:
    server = LegServer("old")
    await nursery.start(server.run)
    return server


@pytest.fixture
async def new(nursery) -> LegServer:
    server = LegServer("new", key=BackendKey(8, b"\0\0\0d"))
    await nursery.start(server.run)
    return server


def stats(proxy: Proxy):
    return proxy.reports[-1].stats


async def switch(proxy: Proxy, term: int, server: LegServer | None) -> None:
    """Return when the worker has heard of the new primary."""
    proxy.route(term, server)
    await eventually(lambda: any(("term", term) in event.fields for event in proxy.events))


async def settled(proxy: Proxy) -> None:
    """Return when it was reported that the one session has its server."""
    await eventually(lambda: (stats(proxy).sessions, stats(proxy).waiting) == (1, 0))


async def kept(proxy: Proxy, count: int = 1) -> None:
    """Return when so many sessions have lost their server and go on."""
    await eventually(
        lambda: any(dict(event.fields).get("sessions_kept") == count for event in proxy.events)
    )


# -- at rest ----------------------------------------------------------------------------------


async def test_an_idle_client_goes_on_at_the_new_primary(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        assert await client.query("select 1") == "old"
        proxy.route(2, new)
        await eventually(lambda: old.ended == 1)
        assert await client.query("select 1") == "new"
        await eventually(lambda: stats(proxy).moved == 1)
        assert (stats(proxy).cut, stats(proxy).sessions, stats(proxy).waiting) == (0, 1, 0)
        assert dict(new.startups[0].parameters) == {"user": "anna", "database": "shop"}


async def test_the_keys_of_the_login_open_the_next_one_too(tmp_path, nursery) -> None:
    keys, verifier = keys_for("a secret")
    servers = [LegServer(name, credential=ScramLogin(verifier)) for name in ("a", "b", "c")]
    for server in servers:
        await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_scram()) as proxy:
        proxy.route(1, servers[0])
        client, _ = await log_in_by_scram(proxy, keys)
        for term, server in enumerate(servers[1:], 2):
            proxy.route(term, server)
            await eventually(lambda server=server: server.logins == 1)
            assert await client.query("select 1") == server.name


async def test_an_idle_client_is_moved_without_saying_a_word(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        proxy.route(2, new)
        await eventually(lambda: new.logins == 1)
        assert await client.query("select 1") == "new"
        assert new.attempts == 1


async def test_settings_that_differ_are_told_and_no_others(tmp_path, old, new) -> None:
    old.settings = {"TimeZone": "UTC", "DateStyle": "ISO", "server_version": "15.1"}
    new.settings = {"TimeZone": "UTC", "DateStyle": "ISO", "server_version": "15.2", "more": "1"}
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await old.streams[0].send_all(parameter_status("DateStyle", "German"))
        assert await client.message() == (b"S", b"DateStyle\0German\0")
        proxy.route(2, new)
        news = [await client.message() for _ in range(3)]
        assert news == [
            (b"S", b"DateStyle\0ISO\0"),
            (b"S", b"server_version\x0015.2\0"),
            (b"S", b"more\x001\0"),
        ]
        assert await client.query("select 1") == "new"


async def test_a_client_is_kept_as_long_as_it_asks_nothing(tmp_path, old, new) -> None:
    source = anna_by_trust()
    async with proxy_running(tmp_path, queue_timeout_s=0.05, credentials=source) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await switch(proxy, 2, None)
        await kept(proxy)
        await trio.sleep(0.2)
        await eventually(lambda: stats(proxy).waiting == 1)
        await switch(proxy, 2, new)
        assert await client.query("select 1") == "new"


async def test_what_a_client_asks_meanwhile_waits_for_the_new_primary(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await switch(proxy, 2, None)
        await kept(proxy)
        await client.send(QUERY)
        await wait_all_tasks_blocked(0.005)
        await switch(proxy, 2, new)
        assert (await client.until_ready())[-1] == (b"C", b"new\0")
        assert bytes(new.received) == QUERY


async def test_who_asks_and_finds_no_primary_in_time_is_told(tmp_path, old) -> None:
    source = anna_by_trust()
    async with proxy_running(tmp_path, queue_timeout_s=0.1, credentials=source) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await switch(proxy, 2, None)
        await kept(proxy)
        await client.send(QUERY)
        error = await client.error()
        assert (error["C"], error["M"]) == ("57P01", "no primary within 0.1 s")
        assert await client.at_end()


async def test_who_asks_does_not_wait_for_those_who_do_not(tmp_path, old, new, monkeypatch) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        clients = [await proxy.session() for _ in range(MOVES_UNASKED_MAX + 2)]
        new.stop_at = "granted"
        proxy.route(2, new)
        await eventually(lambda: new.stopped == MOVES_UNASKED_MAX)
        await wait_all_tasks_blocked(0.005)
        assert new.stopped == MOVES_UNASKED_MAX
        new.stop_at = ""
        for client in clients:
            await client.send(QUERY)
        await eventually(lambda: bytes(new.received) == 2 * QUERY)


@pytest.mark.slow
async def test_a_thousand_idle_clients_move_a_few_at_a_time(tmp_path, old, new) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5 * IDLE_CLIENTS  # both ends of two connections, and some more
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("this process may not have enough descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    source = anna_by_trust()
    async with proxy_running(tmp_path, sessions_max=IDLE_CLIENTS, credentials=source) as proxy:
        proxy.route(1, old)
        clients = [await proxy.session() for _ in range(IDLE_CLIENTS)]
        await switch(proxy, 2, new)
        await kept(proxy, IDLE_CLIENTS)
        with trio.fail_after(30):
            while new.logins < IDLE_CLIENTS:  # noqa: ASYNC110 - nobody tells us
                await trio.sleep(0.05)
        assert new.at_once_most <= MOVES_UNASKED_MAX
        assert await clients[0].query("select 1") == "new"
        assert await clients[-1].query("select 1") == "new"
        assert new.logins == IDLE_CLIENTS
        await eventually(lambda: stats(proxy).moved == IDLE_CLIENTS)


async def test_a_cut_in_the_middle_of_a_move_moves_on(tmp_path, nursery, old, new) -> None:
    third = LegServer("third")
    await nursery.start(third.run)
    new.stop_at = "granted"
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        proxy.route(2, new)
        await eventually(lambda: new.stopped == 1)
        await switch(proxy, 3, third)
        assert await client.query("select 1") == "third"
        await eventually(lambda: new.ended == 1)
        await eventually(lambda: stats(proxy).moved == 1)


@pytest.mark.parametrize("first", [True, False])
async def test_a_leg_that_is_cut_before_it_is_joined_is_replaced(
    tmp_path, old, new, monkeypatch, first
) -> None:
    join, cut = Relay._join, []

    def cut_and_join(self, leg, *, moved) -> bool:
        if not cut and (first or moved):
            cut.append(leg)
            leg.cut()
        return join(self, leg, moved=moved)

    monkeypatch.setattr(Relay, "_join", cut_and_join)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await switch(proxy, 2, new)
        assert await client.query("select 1") == "new"
        assert len(cut) == 1
        assert not [event for event in proxy.events if event.level == "ERROR"]


# -- rebuilding -------------------------------------------------------------------------------

SET = "set work_mem to '7MB'"


async def test_a_setting_is_made_again_before_what_the_client_asks(tmp_path, old, new) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        assert await client.query(SET) == "SET"
        proxy.route(2, None)
        await kept(proxy)
        await client.send(QUERY)
        proxy.route(2, new)
        assert (await client.until_ready())[-1] == (b"C", b"new\0")
        rebuilt, asked = bytes(new.received).rsplit(QUERY, 1)
        assert asked == b""
        assert b"work_mem" in rebuilt


async def test_a_cut_in_the_middle_of_rebuilding_moves_on(tmp_path, nursery, old, new) -> None:
    third = LegServer("third")
    await nursery.start(third.run)
    new.mute = True
    new.settings = {"TimeZone": "GMT"}
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.query(SET)
        proxy.route(2, new)
        await eventually(lambda: b"work_mem" in new.received)
        await switch(proxy, 3, third)
        assert await client.query("select 1") == "third"
        await eventually(lambda: new.ended == 1)
        assert b"work_mem" in third.received
        await eventually(lambda: stats(proxy).moved == 1)


async def test_a_server_that_does_not_rebuild_in_time_is_tried_again(
    tmp_path, old, new, monkeypatch
) -> None:
    monkeypatch.setattr(rebuilding, "REBUILD_TIMEOUT_S", 0.05)
    new.mute = True
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.query(SET)
        await switch(proxy, 2, new)
        await eventually(lambda: new.attempts == 2)
        new.mute = False
        assert await client.query("select 1") == "new"


@pytest.mark.parametrize("words", [SHUTDOWN, b""])
async def test_a_server_that_ends_while_it_rebuilds_is_tried_again(
    tmp_path, old, new, words
) -> None:
    new.mute = True
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.query(SET)
        await switch(proxy, 2, new)
        await eventually(lambda: b"work_mem" in new.received)
        new.mute = False
        await new.shut_down(words)
        assert await client.query("select 1") == "new"
        assert new.logins >= 2


async def test_a_client_that_leaves_while_its_session_is_rebuilt_is_noticed(
    tmp_path, old, new
) -> None:
    new.mute = True
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.query(SET)
        await switch(proxy, 2, new)
        await eventually(lambda: b"work_mem" in new.received)
        await client.stream.aclose()
        await eventually(lambda: new.ended == 1)
        await eventually(lambda: stats(proxy).sessions == 0)


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


# -- without a server -------------------------------------------------------------------------


@pytest.mark.parametrize("last", [b"", message(b"X", b"")])
async def test_a_client_that_leaves_meanwhile_is_noticed(tmp_path, old, last) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await switch(proxy, 2, None)
        await kept(proxy)
        await client.send(last)
        await client.stream.aclose()
        await eventually(lambda: stats(proxy).sessions == 0)
        assert stats(proxy).waiting == 0


async def test_stopping_tells_a_client_without_a_server(tmp_path, old) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await switch(proxy, 2, None)
        await kept(proxy)
        proxy.stop.set()
        assert (await client.error())["C"] == "57P01"
        assert await client.at_end()


@pytest.mark.parametrize("sqlstate", ["3D000", "28P01"])
async def test_a_session_that_the_new_primary_refuses_ends_with_the_reason(
    tmp_path, old, new, sqlstate
) -> None:
    source = anna_by_trust()
    async with proxy_running(tmp_path, credentials=source) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        new.refuse_with = sqlstate
        await switch(proxy, 2, new)
        error = await client.error()
        assert (error["C"], error["D"]) == ("57P01", "the server says no")
        assert await client.at_end()
        assert source.forgotten == (["anna"] if sqlstate == "28P01" else [])


async def test_a_proxy_that_is_cancelled_in_the_middle_of_a_move_leaves_nothing(
    tmp_path, old, new
) -> None:
    new.stop_at = "settings"
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        await proxy.session()
        await proxy.session()
        proxy.route(2, new)
        await eventually(lambda: new.stopped == 2)
    await eventually(lambda: new.ended == 2)
