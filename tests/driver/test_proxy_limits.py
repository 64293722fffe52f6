"""Limits, bad input, half-closed and slow clients, stopping, counters."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from proxy_kit import (
    FakeServer,
    eventually,
    message,
    proxy_running,
)

from metako.pgwire import startup as pg
from metako.proxy import accepting, board, control


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


async def test_connections_beyond_the_limit_are_refused_as_53300(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, sessions_max=1) as proxy:
        proxy.route(1, server)
        first = await proxy.session()
        second = await proxy.log_in()
        assert (await second.error())["C"] == "53300"
        assert await second.at_end()
        await first.stream.aclose()
        await eventually(lambda: server.ended == 1)
        assert await (await proxy.session()).query("select 1") == "a"


async def test_cancel_request_reaches_the_primary_even_at_the_limit(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, sessions_max=1) as proxy:
        proxy.route(1, server)
        await proxy.session()
        canceller = await proxy.connect()
        packet = pg.cancel_packet(7, struct.pack("!I", 99))
        await canceller.send(packet)
        assert await canceller.at_end()
        assert server.cancels == [packet]


@pytest.mark.parametrize(
    ("garbage", "sqlstate"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "08P01"),
        (struct.pack("!I", 10_001), "08P01"),
        (struct.pack("!II", 8, 2 << 16), "0A000"),
        (pg.startup_packet({"database": "x"}), "28000"),
        (pg.ssl_request_packet() * 3, "08P01"),
    ],
)
async def test_bad_input_is_answered_and_counted(tmp_path, garbage, sqlstate) -> None:
    async with proxy_running(tmp_path) as proxy:
        client = await proxy.connect()
        await client.send(garbage)
        if garbage.startswith(pg.ssl_request_packet()):
            for _ in range(3):
                assert await client.stream.receive_some(1) == b"N"
        assert (await client.error())["C"] == sqlstate
        assert await client.at_end()
        await eventually(lambda: bool(proxy.reports) and proxy.reports[-1].stats.malformed == 1)
        assert not [event for event in proxy.events if event.level == "ERROR"]


async def test_garbage_after_the_login_is_answered_counted_and_kept_from_the_server(
    tmp_path, nursery
) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.error())["C"] == "08P01"
        assert await client.at_end()
        await eventually(lambda: proxy.reports[-1].stats.malformed == 1)
        await eventually(lambda: server.ended == 1)
        assert not server.received


async def test_garbage_of_a_server_ends_the_session_and_is_reported(
    tmp_path, nursery, monkeypatch
) -> None:
    monkeypatch.setattr("proxy_kit.READY", b"D\0\0\0\1")
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.send(message(b"Q", b"select 1\0"))
        assert await client.at_end()
        await eventually(lambda: any("broke the protocol" in e.message for e in proxy.events))


async def test_direct_tls_is_closed_without_an_answer(tmp_path) -> None:
    async with proxy_running(tmp_path) as proxy:
        client = await proxy.connect()
        await client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert await client.at_end()


async def test_client_that_says_nothing_is_closed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(board, "HANDSHAKE_TIMEOUT_S", 0.05)
    async with proxy_running(tmp_path) as proxy:
        client = await proxy.connect()
        await client.send(b"\0\0")
        assert await client.at_end()


async def test_silent_clients_do_not_keep_out_those_that_speak(
    tmp_path, nursery, monkeypatch
) -> None:
    monkeypatch.setattr(board, "HANDSHAKES_MAX", 3)
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        silent = [await proxy.connect() for _ in range(5)]
        assert await silent[0].at_end()
        assert await (await proxy.session()).query("select 1") == "a"


async def test_client_that_leaves_while_waiting_frees_its_place(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, sessions_max=1) as proxy:
        waiting = await proxy.log_in()
        await eventually(lambda: bool(proxy.reports) and proxy.reports[-1].stats.waiting == 1)
        await waiting.stream.aclose()
        await eventually(lambda: proxy.reports[-1].stats.waiting == 0)
        proxy.route(1, server)
        assert await (await proxy.session()).query("select 1") == "a"
        assert server.attempts == 1


async def test_slow_client_loses_nothing_and_holds_up_nobody_else(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        slow, other = await proxy.session(), await proxy.session()
        await slow.send(message(b"Q", b"big\0"))
        # The slow one's buffers are full now and later; the other one is served all the same.
        for _ in range(20):
            assert await other.query("select 1") == "a"
        rows = await slow.until_ready()
        assert [(kind, len(body)) for kind, body in rows] == [(b"D", 60_000)] * 100


async def test_goodbye_of_the_client_reaches_the_server(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.send(message(b"X", b""))
        await client.stream.aclose()
        await eventually(lambda: server.ended == 1)
        assert server.received == message(b"X", b"")


async def test_end_of_the_server_ends_the_client(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.send(message(b"Q", b"bye\0"))
        assert await client.at_end()


async def test_half_closed_client_still_gets_its_answer(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.send(message(b"Q", b"select 1\0"))
        await client.stream.send_eof()
        assert (await client.until_ready())[-1] == (b"C", b"a\0")
        assert await client.at_end()


async def test_stop_ends_idle_sessions_at_once_and_lets_transactions_finish(
    tmp_path, nursery
) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        idle, busy = await proxy.session(), await proxy.session()
        assert await busy.query("begin") == "BEGIN"
        proxy.stop.set()
        assert (await idle.error())["C"] == "57P01"
        assert await busy.query("commit") == "a"
        assert (await busy.error())["C"] == "57P01"


async def test_drained_worker_takes_nobody_new_and_goes_with_its_last_session(
    tmp_path, nursery
) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        proxy.feed.drain([report.hello.pid for report in proxy.reports])
        await eventually(lambda: _refused(proxy.port))
        assert await client.query("select 1") == "a"
        await client.stream.aclose()
        await eventually(lambda: not proxy.reports[-1].connected)


def _refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


class _Starved(socket.socket):
    """A listener in a process that is out of descriptors, three times."""

    failures = 3

    def accept(self):
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_lack_of_descriptors_delays_clients_and_is_reported_once(
    tmp_path, nursery, monkeypatch
) -> None:
    monkeypatch.setattr(accepting, "ACCEPT_PAUSE_S", 0.01)
    server = FakeServer("a")
    await nursery.start(server.run)
    listener = _Starved(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    async with proxy_running(tmp_path, listeners=[listener]) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        assert await client.query("select 1") == "a"
        await eventually(lambda: any("cannot take" in event.message for event in proxy.events))
        assert [event.level for event in proxy.events].count("WARNING") == 1


async def test_counters_reach_the_agent(tmp_path, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        await client.query("select 1")
        await eventually(lambda: proxy.reports[-1].stats.sessions == 1)
        proxy.route(2, None)
        await client.error()
        await eventually(lambda: proxy.reports[-1].stats.cut == 1)
        stats = proxy.reports[-1].stats
        assert (stats.sessions, stats.total, stats.waiting) == (0, 1, 0)
        assert stats.bytes_up == len(message(b"Q", b"select 1\0"))
        assert stats.bytes_down > stats.bytes_up
