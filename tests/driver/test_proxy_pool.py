"""Connections to servers that one client leaves to the next."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from legs_kit import Known, LegServer, anna_by_trust
from proxy_kit import Client, Proxy, eventually, leave, message, proxy_running

from metako.pgwire import startup as pg
from metako.pgwire.login_server import TrustLogin
from metako.pgwire.messages import TERMINATE
from metako.proxy import legs
from metako.proxy.limits import Limits

RESET = message(b"Q", b"DISCARD ALL\0")
FATAL = pg.error_response("57P01", "terminating connection due to administrator command")


def both_by_trust() -> Known:
    return Known(anna=TrustLogin(), bert=TrustLogin())


async def session(proxy: Proxy, **parameters: str) -> Client:
    client = await proxy.connect()
    asked = {"user": "anna", "database": "shop", **parameters}
    await client.send(pg.startup_packet(asked))
    await client.until_ready()
    return client


async def test_the_next_client_gets_the_connection_as_good_as_new(tmp_path, nursery) -> None:
    server = LegServer("a", settings={"TimeZone": "UTC", "application_name": "till"})
    await nursery.start(server.run)
    limits = Limits(lenient=1)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), limits=limits) as proxy:
        proxy.route(1, server)
        told = []
        for _ in range(5):
            client = await proxy.log_in()
            told.append([item for item in await client.until_ready() if item[0] in b"RS"])
            assert await client.query("select 1") == "a"
            if len(told) > 3:
                await client.query("set timezone to 'Asia/Seoul'")
            await leave(client)
        assert (server.attempts, server.logins) == (1, 1)
        assert server.received.count(RESET) == 2  # only when there is something to be discarded
        assert told[0] == told[4]
        assert TERMINATE not in server.received


async def test_everything_is_discarded_unless_functions_are_trusted(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        for _ in range(2):
            client = await proxy.session()
            # It may set what nobody sees.
            assert await client.query("select choose_tenant(5)") == "a"
            await leave(client)
        assert (server.attempts, server.received.count(RESET)) == (1, 2)


@pytest.mark.parametrize(
    "other", [{"user": "bert"}, {"database": "depot"}, {"timezone": "Asia/Seoul"}]
)
async def test_it_is_not_for_others(tmp_path, nursery, other) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=both_by_trust()) as proxy:
        proxy.route(1, server)
        await leave(await session(proxy))
        await leave(await session(proxy, **other))
        assert server.attempts == 2
        await leave(await session(proxy))
        assert server.attempts == 2


@pytest.mark.parametrize(
    "end", ["abort", "eof", "open request", "half a message", "open transaction"]
)
async def test_what_was_not_left_in_order_is_not_used_again(tmp_path, nursery, end) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        match end:
            case "eof":
                await client.stream.send_eof()
            case "open request":
                await client.send(message(b"P", b"\0select 1\0\0\0") + TERMINATE)
            case "open transaction":
                await client.send(message(b"Q", b"begin\0"))
                await client.until_ready()
                await client.send(TERMINATE)
            case "half a message":
                await client.send(message(b"Q", b"select 1\0")[:-3])
                await client.stream.send_eof()
            case _:
                await trio.aclose_forcefully(client.stream)
        await eventually(lambda: server.ended == 1)
        assert RESET not in server.received
        await proxy.session()
        assert server.attempts == 2


async def test_a_connection_that_says_anything_while_idle_is_given_up(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        await leave(await proxy.session())
        await server.streams[0].send_all(FATAL)
        await eventually(lambda: server.ended == 1)
        assert await (await proxy.session()).query("select 1") == "a"
        assert server.attempts == 2


async def test_another_primary_closes_what_is_idle(tmp_path, nursery) -> None:
    old, new = LegServer("a"), LegServer("b")
    for server in (old, new):
        await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        await leave(await proxy.session())
        proxy.route(2, new)
        await eventually(lambda: old.ended == 1)
        assert await (await proxy.session()).query("select 1") == "b"


async def test_who_is_beyond_a_limit_waits_for_a_connection_in_turn(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    served: list[str] = []
    async with proxy_running(
        tmp_path, credentials=anna_by_trust(), limits=Limits(server=1)
    ) as proxy:
        proxy.route(1, server)
        first = await proxy.session()

        async def queue(name: str) -> None:
            client = await proxy.session()
            served.append(name)
            await leave(client)

        async with trio.open_nursery() as waiting:
            for name in "bcd":
                waiting.start_soon(queue, name)
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert served == []
            await leave(first)
        assert served == ["b", "c", "d"]
        assert server.attempts == 1


async def test_who_waits_in_vain_is_told_what_for(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(
        tmp_path, credentials=anna_by_trust(), limits=Limits(user=1), queue_timeout_s=0.05
    ) as proxy:
        proxy.route(1, server)
        first = await proxy.session()
        error = await (await proxy.log_in()).error()
        assert error["C"] == "53300"
        assert 'user "anna", database "shop"' in error["D"]
        assert await first.query("select 1") == "a"


async def test_idle_connections_are_closed_in_time(tmp_path, nursery, monkeypatch) -> None:
    monkeypatch.setattr(legs, "SWEEP_INTERVAL_S", 0.01)
    server = LegServer("a")
    await nursery.start(server.run)
    limits = Limits(idle_ns=50_000_000)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), limits=limits) as proxy:
        proxy.route(1, server)
        await leave(await proxy.session())
        assert server.ended == 0
        await eventually(lambda: server.ended == 1)


async def test_a_server_that_does_not_discard_is_not_used_again(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.query("set timezone to 'Asia/Seoul'")
        server.fails = True
        await leave(client)
        await eventually(lambda: server.ended == 1)
        server.fails = False
        await proxy.session()
        assert server.attempts == 2
