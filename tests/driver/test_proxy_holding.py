"""Transactions that may not begin for now: during a switchover, or because of a PAUSE."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from legs_kit import LegServer, anna_by_trust
from proxy_kit import Client, Proxy, eventually, message, proxy_running

from metako.proxy import holding
from metako.proxy.holding import Holding

QUERY = message(b"Q", b"select 1\0")


@pytest.fixture
async def servers(nursery) -> tuple[LegServer, LegServer]:
    made = LegServer("old"), LegServer("new")
    for server in made:
        await nursery.start(server.run)
    return made


async def held(proxy: Proxy, server: LegServer, order: str = "one") -> None:
    """Let the agent say that a switchover is under way, and wait until the worker knows."""
    known = len(holds(proxy))
    proxy.route(1, server, hold=order)
    await eventually(lambda: len(holds(proxy)) > known)


def holds(proxy: Proxy) -> list[object]:
    return [event for event in proxy.events if "held for a switchover" in event.message]


async def says_nothing(client: Client) -> bool:
    with trio.move_on_after(0.05):
        await client.message()
        return False
    return True


async def test_what_comes_meanwhile_goes_on_at_the_next_primary(tmp_path, servers) -> None:
    old, new = servers
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client, idle = await proxy.session(), await proxy.session()
        await held(proxy, old)
        await client.send(QUERY)
        newcomer = await proxy.log_in()
        assert await says_nothing(client)
        assert await says_nothing(newcomer)
        proxy.route(1, None, hold="one")  # the server is being shut down
        assert await says_nothing(client)
        assert QUERY not in old.received
        proxy.route(2, new)
        assert (await client.until_ready())[-1][1] == b"new\0"
        await newcomer.until_ready()
        assert await newcomer.query("select 1") == "new"
        assert await idle.query("select 1") == "new"


async def test_without_a_change_everybody_goes_on_where_he_was(tmp_path, servers) -> None:
    old, _ = servers
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client, idle = await proxy.session(), await proxy.session()
        await held(proxy, old)
        await client.send(QUERY)
        assert await says_nothing(client)
        proxy.route(1, old)
        assert (await client.until_ready())[-1][1] == b"old\0"
        assert await idle.query("select 1") == "old"
        assert old.attempts == 2


async def test_a_transaction_that_runs_may_end(tmp_path, servers) -> None:
    old, new = servers
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await client.send(message(b"Q", b"begin\0"))
        await client.until_ready()
        await held(proxy, old)
        assert await client.query("insert") == "old"  # which ends it, as this server answers
        await client.send(QUERY)
        assert await says_nothing(client)
        proxy.route(2, new)
        assert (await client.until_ready())[-1][1] == b"new\0"


async def test_nobody_is_held_for_ever_nor_twice_for_the_same(
    tmp_path, servers, monkeypatch
) -> None:
    monkeypatch.setattr(holding, "SWITCHOVER_HOLD_S", 0.1)
    old, _ = servers
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await held(proxy, old)
        assert await client.query("select 1") == "old"
        proxy.route(1, old, hold="one", valid_s=61)
        assert await client.query("select 1") == "old"
        assert len(holds(proxy)) == 1
        await held(proxy, old, "two")
        await client.send(QUERY)
        assert await says_nothing(client)
        await client.until_ready()


async def test_who_leaves_while_held_leaves_his_connection_to_the_next(tmp_path, servers) -> None:
    old, _ = servers
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await held(proxy, old)
        await client.send(message(b"X", b""))
        assert await client.at_end()
        proxy.route(1, old)
        await proxy.session()
        assert old.attempts == 1


async def test_a_server_that_is_gone_when_it_is_over_is_noticed(tmp_path, servers) -> None:
    old, _ = servers
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        await held(proxy, old)
        await old.shut_down(b"")
        proxy.route(1, old)
        assert await client.query("select 1") == "old"
        assert old.attempts == 2


async def test_a_login_that_was_passed_on_is_held_too_and_cut_by_a_change(
    tmp_path, servers
) -> None:
    old, new = servers
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, old)
        client, other = await proxy.session(), await proxy.session()
        await held(proxy, old)
        await client.send(QUERY)
        assert await says_nothing(client)
        proxy.route(1, old)
        assert (await client.until_ready())[-1][1] == b"old\0"
        await held(proxy, old, "two")
        proxy.route(2, new)
        assert (await other.error())["C"] == "57P01"


async def test_a_pause_holds_one_database_or_all(autojump_clock) -> None:
    held_back = Holding()
    held_back.pause("shop")
    assert (held_back.holds("shop"), held_back.holds("depot")) == (True, False)
    assert held_back.paused() == ("shop",)
    held_back.pause(None)
    assert held_back.holds("depot")
    assert held_back.paused() == ("*",)
    assert held_back.resume(None)
    assert not held_back.active
    assert not held_back.resume("shop")
    done = []

    async def wait() -> None:
        await held_back.wait("shop")
        done.append(trio.current_time())

    begin = trio.current_time()
    held_back.begin("order")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        held_back.pause("shop")
        await trio.sleep(5)
        assert not done
        held_back.resume("shop")
    assert done == [begin + 6]


async def test_who_waits_too_long_for_the_end_of_a_pause_is_told(tmp_path, servers) -> None:
    old, _ = servers
    async with proxy_running(tmp_path, credentials=anna_by_trust(), queue_timeout_s=0.2) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        for order in ("one", "two", "three"):
            proxy.route(1, old, hold=order)
            await trio.sleep(0.01)
        await client.send(QUERY)
        error = await client.error()
        assert (error["C"], error["M"]) == ("57P03", "no transaction was let begin within 0.2 s")
        assert await client.at_end()
