"""What a session consists of is made again where its client is moved to."""

from __future__ import annotations

import pytest
from legs_kit import (
    QUERY,
    SHUTDOWN,
    LegServer,
    anna_by_trust,
    kept,
    stats,
    switch,
)
from proxy_kit import eventually, proxy_running

from metako.proxy import control, rebuilding


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


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
