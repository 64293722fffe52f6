"""A proxy worker between real sockets and a fake server."""

from __future__ import annotations

import pytest
import trio
from proxy_kit import (
    FakeServer,
    eventually,
    free_port,
    message,
    proxy_running,
)
from trio.testing import wait_all_tasks_blocked

from metako.pgwire import startup as pg
from metako.proxy import control, passing
from metako.proxy.worker import boot_ns


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


async def test_session_goes_to_the_primary_of_the_table(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        assert await client.query("select 1") == "a"
        assert await client.query("select 2") == "a"


async def test_encryption_is_refused_and_the_session_goes_on(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.connect()
        for request in (pg.gssenc_request_packet(), pg.ssl_request_packet()):
            await client.send(request)
            assert await client.stream.receive_some(1) == b"N"
        await client.send(pg.startup_packet({"user": "anna"}))
        await client.until_ready()
        assert await client.query("select 1") == "a"


async def test_switch_of_the_primary_cuts_the_session_within_100_ms(tmp_path, nursery) -> None:
    old, new = FakeServer("old"), FakeServer("new")
    await nursery.start(old.run)
    await nursery.start(new.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        proxy.route(2, new)
        with trio.fail_after(0.1):
            error = await client.error()
            assert await client.at_end()
        assert error["C"] == "57P01"
        await eventually(lambda: old.ended == 1)
        again = await proxy.session()
        assert await again.query("select 1") == "new"


async def test_same_node_in_a_higher_term_cuts_the_session(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        proxy.route(2, server)
        assert (await client.error())["C"] == "57P01"


async def test_higher_term_without_a_primary_cuts_the_session(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        proxy.route(2, None)
        assert (await client.error())["C"] == "57P01"


async def test_no_primary_in_the_same_term_keeps_the_session(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, queue_timeout_s=0.1) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        proxy.route(1, None)
        assert (await (await proxy.log_in()).error())["C"] == "57P03"
        assert await client.query("select 1") == "a"


async def test_table_of_a_lower_term_changes_nothing(tmp_path, nursery) -> None:
    old, new = FakeServer("old"), FakeServer("new")
    await nursery.start(old.run)
    await nursery.start(new.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(5, new)
        client = await proxy.session()
        proxy.route(4, old)
        await eventually(lambda: any("lower term" in event.message for event in proxy.events))
        assert await client.query("select 1") == "new"
        assert await (await proxy.session()).query("select 1") == "new"
        assert old.attempts == 0


async def test_cut_inside_a_message_ends_without_an_error_in_the_row(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.send(message(b"Q", b"half\0"))
        part = await client.stream.receive_some()
        assert len(part) == 50
        proxy.route(2, None)
        assert await client.stream.receive_some() == b""


async def test_cut_between_two_rows_is_told(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.send(message(b"Q", b"row\0"))
        assert await client.message() == (b"D", b"x" * 100)
        proxy.route(2, None)
        assert (await client.error())["C"] == "57P01"
        assert await client.at_end()


async def test_new_session_waits_for_a_table_and_then_succeeds(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        client = await proxy.log_in()
        await eventually(lambda: bool(proxy.reports) and proxy.reports[-1].stats.waiting == 1)
        assert server.attempts == 0
        proxy.route(1, server)
        await client.until_ready()
        assert await client.query("select 1") == "a"


async def test_no_primary_in_time_is_reported_as_57p03(tmp_path) -> None:
    async with proxy_running(tmp_path, queue_timeout_s=0.1) as proxy:
        client = await proxy.log_in()
        error = await client.error()
        assert error["C"] == "57P03"
        assert error["M"] == "no primary within 0.1 s"
        assert await client.at_end()


async def test_refusing_server_is_retried_and_named_in_the_error(tmp_path) -> None:
    async with proxy_running(tmp_path, queue_timeout_s=0.2) as proxy:
        nobody = FakeServer("gone", port=free_port())
        proxy.route(1, nobody)
        error = await (await proxy.log_in()).error()
        assert error["C"] == "57P03"
        assert "gone at 127.0.0.1" in error["D"]
        assert "refused" in error["D"]


async def test_server_that_starts_up_is_retried_until_it_is_ready(tmp_path, nursery) -> None:
    server = FakeServer("a", refuse_with="57P03")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        await eventually(lambda: server.attempts >= 2)
        server.refuse_with = None
        await client.until_ready()
        assert server.logins == 1


@pytest.mark.parametrize("sqlstate", ["28000", "28P01", "3D000"])
async def test_other_errors_of_a_login_reach_the_client(tmp_path, nursery, sqlstate) -> None:
    server = FakeServer("a", refuse_with=sqlstate)
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        error = await client.error()
        assert (error["C"], error["M"]) == (sqlstate, "the server says no")
        assert await client.at_end()
        assert server.attempts == 1


async def test_waiting_at_a_silent_server_moves_to_the_new_primary_at_once(
    tmp_path, nursery
) -> None:
    silent, new = FakeServer("silent", silent=True), FakeServer("new")
    await nursery.start(silent.run)
    await nursery.start(new.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, silent)
        client = await proxy.log_in()
        await eventually(lambda: silent.attempts == 1)
        proxy.route(2, new)
        with trio.fail_after(0.2):
            await client.until_ready()
        assert await client.query("select 1") == "new"
        await eventually(lambda: silent.ended == 1)


async def test_silent_server_is_given_up_after_its_deadline(tmp_path, nursery, monkeypatch) -> None:
    monkeypatch.setattr(passing, "FIRST_MESSAGE_TIMEOUT_S", 0.05)
    server = FakeServer("a", silent=True)
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        await eventually(lambda: server.unanswered == 1)
        server.silent = False
        await client.until_ready()
        assert (server.attempts, server.unanswered) == (2, 1)


async def test_expired_table_keeps_sessions_and_makes_new_ones_wait(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    now = [boot_ns()]
    async with proxy_running(tmp_path, queue_timeout_s=0.2, clock=lambda: now[0]) as proxy:
        proxy.route(1, server, valid_s=60)
        client = await proxy.session()
        now[0] += 61 * 10**9
        assert (await (await proxy.log_in()).error())["M"] == "no primary within 0.2 s"
        assert await client.query("select 1") == "a"
        proxy.route(1, server, valid_s=200)
        assert await (await proxy.session()).query("select 1") == "a"


async def test_table_that_expires_during_a_login_is_not_used(tmp_path, nursery) -> None:
    server = FakeServer("a", hold=trio.Event())
    await nursery.start(server.run)
    now = [boot_ns()]
    async with proxy_running(tmp_path, queue_timeout_s=60, clock=lambda: now[0]) as proxy:
        proxy.route(1, server, valid_s=60)
        client = await proxy.log_in()
        await eventually(lambda: server.attempts == 1)
        now[0] += 61 * 10**9
        server.hold.set()
        await eventually(lambda: server.ended == 1)
        await eventually(lambda: proxy.reports[-1].stats.waiting == 1)
        proxy.route(1, server, valid_s=200)
        await client.until_ready()
        assert server.attempts == 2


async def test_new_sessions_are_refused_at_once_when_the_agent_stays_away(
    tmp_path, nursery
) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    now = [boot_ns()]
    async with proxy_running(tmp_path, queue_timeout_s=60, clock=lambda: now[0]) as proxy:
        proxy.route(1, server, valid_s=60)
        client = await proxy.session()
        proxy.agent.cancel()
        await eventually(lambda: not proxy.control.exists())
        await wait_all_tasks_blocked(0.02)  # the worker has noticed the end of its connection
        now[0] += 200 * 10**9
        error = await (await proxy.log_in()).error()
        assert (error["C"], error["D"]) == ("57P03", "the agent of this node is gone")
        assert await client.query("select 1") == "a"


async def test_worker_survives_its_agent_and_follows_the_next(tmp_path, nursery) -> None:
    old, new = FakeServer("old"), FakeServer("new")
    await nursery.start(old.run)
    await nursery.start(new.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, old)
        client = await proxy.session()
        proxy.agent.cancel()
        await eventually(lambda: not proxy.control.exists())
        assert await client.query("select 1") == "old"
        assert await (await proxy.session()).query("select 1") == "old"
        proxy.route(2, new)
        proxy.start_agent()
        assert (await client.error())["C"] == "57P01"
        assert await (await proxy.session()).query("select 1") == "new"
