"""Statements that take too long, and clients that say nothing for too long."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from legs_kit import LegServer, anna_by_trust, switch
from proxy_kit import IN_TRANSACTION, READY, Client, Proxy, eventually, message, proxy_running

from metako.pgwire import startup as pg
from metako.pgwire.messages import BackendKey
from metako.proxy.limits import Timeouts

KEY = BackendKey(7, b"\0\0\0c")
CANCELLED = pg.error_response("57014", "canceling statement due to user request", severity="ERROR")
READ = "select 1"
WRITE = "insert into t values (1)"
UNWAITED = message(
    b"N",
    b"SWARNING\0C01000\0Mcanceling wait for synchronous replication\0RSyncRepWaitForLSN\0\0",
)


@contextlib.asynccontextmanager
async def mute(tmp_path, nursery, **timeouts: float) -> AsyncIterator[tuple[Proxy, LegServer]]:
    """Give a proxy whose server answers nothing by itself."""
    server = LegServer("a", key=KEY, mute=True)
    await nursery.start(server.run)
    running = proxy_running(tmp_path, credentials=anna_by_trust(), timeouts=Timeouts(**timeouts))
    async with running as proxy:
        proxy.route(1, server)
        yield proxy, server


async def ask(proxy: Proxy, sql: str) -> Client:
    client = await proxy.session()
    await client.send(message(b"Q", sql.encode() + b"\0"))
    return client


async def begin(client: Client, server: LegServer) -> None:
    server.mute = False
    await client.query("begin")
    server.mute = True


async def notice(client: Client) -> str:
    item = await client.message()
    assert item is not None
    assert item[0] == b"N", item
    return pg.parse_error_untrusted(item[1])["M"]


@pytest.mark.parametrize(
    ("sql", "timeouts", "name"),
    [
        (READ, {"read_s": 0.1}, "read_timeout"),
        (WRITE, {"write_s": 0.1}, "write_timeout"),
        ("select nextval('s')", {"write_s": 0.1, "read_s": 60}, "write_timeout"),
    ],
)
async def test_an_overdue_statement_is_cancelled_at_its_server(
    tmp_path, nursery, sql, timeouts, name
) -> None:
    async with mute(tmp_path, nursery, **timeouts) as (proxy, server):
        client = await ask(proxy, sql)
        assert await notice(client) == f"the statement exceeded proxy.{name} of 0.1 s"
        await eventually(lambda: len(server.cancels) == 1)
        assert server.cancels == [pg.cancel_packet(KEY.process_id, KEY.secret_key)]
        await server.streams[0].send_all(CANCELLED + READY)
        assert (await client.error())["C"] == "57014"
        assert await client.message() == (b"Z", b"I")
        server.mute = False
        assert await client.query(READ) == "a"  # the session goes on


@pytest.mark.parametrize(
    ("sql", "timeouts"),
    [(READ, {"write_s": 0.1}), (WRITE, {"read_s": 0.1}), ("commit", {"write_s": 0.1})],
)
async def test_what_has_no_limit_is_left_alone(tmp_path, nursery, sql, timeouts) -> None:
    async with mute(tmp_path, nursery, **timeouts) as (proxy, server):
        client = await ask(proxy, sql)
        await trio.sleep(0.4)
        assert server.cancels == []
        await server.streams[0].send_all(message(b"C", b"DONE\0") + READY)
        assert await client.until_ready() == [(b"C", b"DONE\0")]


async def test_a_read_within_a_transaction_has_the_limit_of_writes(tmp_path, nursery) -> None:
    async with mute(tmp_path, nursery, read_s=0.05, write_s=0.4) as (proxy, server):
        client = await proxy.session()
        await begin(client, server)
        started = trio.current_time()
        await client.send(message(b"Q", READ.encode() + b"\0"))
        assert "write_timeout" in await notice(client)
        assert trio.current_time() - started >= 0.4


async def test_statements_one_after_the_other_are_each_measured_alone(tmp_path, nursery) -> None:
    async with mute(tmp_path, nursery, read_s=0.3) as (proxy, server):
        client = await proxy.session()
        for _ in range(4):
            await client.send(message(b"Q", b"select 1\0"))
            await trio.sleep(0.15)
            await server.streams[0].send_all(message(b"C", b"DONE\0") + READY)
            assert await client.until_ready() == [(b"C", b"DONE\0")]
        assert server.cancels == []


@pytest.mark.parametrize(
    ("sql", "sqlstate"), [(READ, "57014"), (WRITE, "08007")], ids=["read", "write"]
)
async def test_a_session_ends_if_its_server_does_not_answer_the_cancel(
    tmp_path, nursery, monkeypatch, sql, sqlstate
) -> None:
    monkeypatch.setattr("metako.proxy.sweep.CANCEL_ANSWER_TIMEOUT_S", 0.2)
    async with mute(tmp_path, nursery, read_s=0.1, write_s=0.1) as (proxy, server):
        client = await ask(proxy, sql)
        await notice(client)
        found = await client.error()
        assert (found["S"], found["C"]) == ("FATAL", sqlstate)
        assert await client.at_end()
        await eventually(lambda: server.ended == 2)  # the session, and the request to cancel


async def test_a_commit_behind_an_overdue_statement_does_not_get_its_cancel(
    tmp_path, nursery
) -> None:
    async with mute(tmp_path, nursery, write_s=0.1) as (proxy, server):
        client = await proxy.session()
        await begin(client, server)
        await client.send(message(b"Q", WRITE.encode() + b"\0"))
        await notice(client)
        received = len(server.received)
        # It comes while the request to cancel is under way, in time or not.
        await client.send(message(b"Q", b"commit\0"))
        await server.streams[0].send_all(message(b"C", b"INSERT 0 1\0") + IN_TRANSACTION)
        assert (await client.until_ready())[0] == (b"C", b"INSERT 0 1\0")
        await eventually(lambda: len(server.received) > received)
        assert len(server.cancels) == 1
        await trio.sleep(0.4)
        assert len(server.cancels) == 1
        await server.streams[0].send_all(message(b"C", b"COMMIT\0") + READY)
        assert await client.until_ready() == [(b"C", b"COMMIT\0")]


async def test_a_commit_that_did_not_wait_for_standbys_is_not_called_a_success(
    tmp_path, nursery
) -> None:
    async with mute(tmp_path, nursery, write_s=0.1) as (proxy, server):
        client = await ask(proxy, WRITE)
        await notice(client)
        await eventually(lambda: len(server.cancels) == 1)
        await server.streams[0].send_all(UNWAITED + message(b"C", b"INSERT 0 1\0") + READY)
        found = await client.error()
        assert (found["S"], found["C"]) == ("FATAL", "08007")
        assert await client.at_end()


async def test_a_cancel_under_way_does_not_outlive_its_route(tmp_path, nursery) -> None:
    async with mute(tmp_path, nursery, write_s=0.1) as (proxy, server):
        after = LegServer("b")
        await nursery.start(after.run)
        client = await ask(proxy, WRITE)
        await notice(client)
        received = len(server.received)
        await client.send(message(b"Q", b"more\0"))
        await switch(proxy, 2, after)
        assert (await client.error())["C"] == "08007"
        assert len(server.received) == received


async def test_an_idle_client_is_ended(tmp_path, nursery) -> None:
    async with mute(tmp_path, nursery, idle_s=0.2, idle_in_transaction_s=60) as (proxy, server):
        server.mute = False
        client = await proxy.session()
        for _ in range(3):
            await trio.sleep(0.1)
            await client.query(READ)
        started = trio.current_time()
        assert await client.error() == {
            "S": "FATAL",
            "V": "FATAL",
            "C": "57P05",
            "M": "terminating connection due to idle-session timeout",
        }
        assert trio.current_time() - started >= 0.15
        assert await client.at_end()


async def test_a_client_that_is_idle_in_a_transaction_is_ended(tmp_path, nursery) -> None:
    async with mute(tmp_path, nursery, idle_s=60, idle_in_transaction_s=0.1) as (proxy, server):
        client = await proxy.session()
        await trio.sleep(0.3)
        await begin(client, server)
        found = await client.error()
        assert (found["S"], found["C"]) == ("FATAL", "25P03")
        await eventually(lambda: server.ended == 1)


async def test_who_sends_data_of_a_copy_is_not_limited(tmp_path, nursery) -> None:
    async with mute(tmp_path, nursery, write_s=0.1, idle_in_transaction_s=0.1) as (proxy, server):
        client = await ask(proxy, "copy t from stdin")
        await eventually(lambda: b"copy t" in server.received)
        await server.streams[0].send_all(message(b"G", b"\0\0\0"))
        assert await client.message() == (b"G", b"\0\0\0")
        await trio.sleep(0.4)
        assert server.cancels == []


async def test_a_bug_in_looking_at_one_session_ends_no_other(
    tmp_path, nursery, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("metako.proxy.sweep.busy_with", fail)
    async with mute(tmp_path, nursery, read_s=0.1, idle_s=0.4) as (proxy, _):
        await ask(proxy, READ)
        other = await proxy.session()
        assert (await other.error())["C"] == "57P05"
        assert [event.message for event in proxy.events if "failed" in event.message] == [
            "a session failed unexpectedly"
        ]
