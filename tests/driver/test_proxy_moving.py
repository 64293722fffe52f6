"""Clients that are idle when their server goes keep their session."""

from __future__ import annotations

import resource

import pytest
import trio
from legs_kit import (
    PASSWORD,
    QUERY,
    LegServer,
    anna_by_scram,
    anna_by_trust,
    kept,
    keys_for,
    log_in_by_scram,
    stats,
    switch,
)
from proxy_kit import eventually, message, proxy_running
from trio.testing import wait_all_tasks_blocked

from metako.pgwire.login_server import ScramLogin
from metako.pgwire.messages import parameter_status
from metako.proxy import control
from metako.proxy.board import MOVES_UNASKED_MAX
from metako.proxy.relay import Relay
from metako.proxy.serverlogin import LogIn

IDLE_CLIENTS = 1000
KEYS, VERIFIER = keys_for(PASSWORD)


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


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


async def test_who_asks_does_not_wait_for_those_who_do_not(tmp_path, old, new) -> None:
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

    def cut_and_join(self, leg, turn) -> bool:
        if not cut and (first or turn.lost is not None):
            cut.append(leg)
            leg.cut()
        return join(self, leg, turn)

    monkeypatch.setattr(Relay, "_join", cut_and_join)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await switch(proxy, 2, new)
        assert await client.query("select 1") == "new"
        assert len(cut) == 1
        assert not [event for event in proxy.events if event.level == "ERROR"]


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


async def test_the_keys_of_a_login_are_wiped_with_its_session(
    tmp_path, nursery, monkeypatch
) -> None:
    logins: list[LogIn] = []
    converse = LogIn.converse

    async def remember(self, server, where):
        logins.append(self)
        return await converse(self, server, where)

    monkeypatch.setattr(LogIn, "converse", remember)
    server = LegServer("a", credential=ScramLogin(VERIFIER))
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_scram()) as proxy:
        proxy.route(1, server)
        client, _ = await log_in_by_scram(proxy, KEYS)
        key = logins[0].keys.client_key
        assert key == KEYS.client_key
        await client.stream.aclose()
        await eventually(lambda: server.ended == 1)
        await eventually(lambda: key.reveal() == bytes(32))
        assert KEYS.client_key.reveal() != bytes(32)
