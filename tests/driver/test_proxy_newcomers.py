"""Clients that are let in without a task: what comes, in which pieces, and what happens later."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from legs_kit import Known, LegServer, anna_by_trust
from proxy_kit import Proxy, eventually, leave, message, proxy_running

from metako.pgwire import startup as pg
from metako.pgwire.login_server import TrustLogin
from metako.pgwire.messages import TERMINATE
from metako.proxy import board as boards
from metako.proxy import newcomer

STARTUP = pg.startup_packet({"user": "anna", "database": "shop"})
QUERY = message(b"Q", b"select 1\0")


class Counted:
    """How many clients were let in without a task."""

    def __init__(self) -> None:
        self.let_in = 0

    def patch(self, monkeypatch) -> None:
        let_in = newcomer.Newcomer._let_in

        def counting(one, packet):
            session = let_in(one, packet)
            self.let_in += session is not None
            return session

        monkeypatch.setattr(newcomer.Newcomer, "_let_in", counting)


@pytest.fixture
def counted(monkeypatch) -> Counted:
    found = Counted()
    found.patch(monkeypatch)
    return found


@contextlib.asynccontextmanager
async def warm(path, server: LegServer, legs: int = 1, **options) -> AsyncIterator[Proxy]:
    """Run a proxy with so many used legs that wait for clients."""
    options = {"credentials": anna_by_trust(), **options}
    async with proxy_running(path, **options) as proxy:
        proxy.route(1, server)
        clients = [await proxy.session() for _ in range(legs)]
        for client in clients:
            await leave(client)
        yield proxy


@pytest.mark.parametrize(
    "before", [b"", pg.ssl_request_packet(), pg.gssenc_request_packet() + pg.ssl_request_packet()]
)
async def test_who_is_trusted_gets_a_used_leg_without_a_task(
    tmp_path, server, counted, before
) -> None:
    async with warm(tmp_path, server) as proxy:
        for number in range(1, 4):
            client = await proxy.connect()
            for begin in range(0, len(before), 8):
                await client.send(before[begin : begin + 8])
                assert bytes(await client.stream.receive_some()) == b"N"
            await client.send(STARTUP)
            await client.until_ready()
            assert await client.query("select 1") == "a"
            await leave(client)
            assert counted.let_in == number
        assert server.attempts == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [STARTUP[:3], STARTUP[3:]],
        [STARTUP[:20], STARTUP[20:]],
        [pg.ssl_request_packet()[:5], pg.ssl_request_packet()[5:]],
        [STARTUP + QUERY],
    ],
)
async def test_what_comes_in_pieces_or_together_is_understood(tmp_path, server, pieces) -> None:
    async with warm(tmp_path, server) as proxy:
        client = await proxy.connect()
        for piece in pieces:
            await client.send(piece)
            await trio.sleep(0.01)
        if b"".join(pieces) == pg.ssl_request_packet():
            assert bytes(await client.stream.receive_some()) == b"N"
            await client.send(STARTUP)
        await client.until_ready()
        if pieces[0].endswith(QUERY):
            await client.until_ready()
        assert await client.query("select 1") == "a"


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"\0\0\0\x08\0\0\0\0", "0A000"),
        (b"\0\0\0\x09\0\x03\0\0\0", "28000"),  # nobody
        (b"\0\0\0\x00\0\0\0\0", "08P01"),
        (b"GET / HTTP/1.1\r\n\r\n", "08P01"),
        (b"\xff" * 3000, "08P01"),
    ],
)
async def test_what_is_no_startup_is_told_as_ever(tmp_path, server, counted, packet, code) -> None:
    async with warm(tmp_path, server) as proxy:
        client = await proxy.connect()
        await client.send(packet)
        assert (await client.error())["C"] == code
        assert await client.at_end()
        assert counted.let_in == 0
        assert await (await proxy.session()).query("select 1") == "a"


async def test_too_many_requests_for_encryption_are_refused(tmp_path, server) -> None:
    async with warm(tmp_path, server) as proxy:
        client = await proxy.connect()
        answers = b""
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(2 * (newcomer.ENCRYPTION_REQUESTS_MAX + 1)):
                await client.send(pg.ssl_request_packet())
                answers += bytes(await client.stream.receive_some())
        assert answers.strip(b"N").startswith(b"E")
        assert len(answers) - len(answers.lstrip(b"N")) <= 2 * newcomer.ENCRYPTION_REQUESTS_MAX + 1


async def test_who_says_nothing_is_closed_in_time(tmp_path, server, monkeypatch) -> None:
    monkeypatch.setattr(boards, "HANDSHAKE_TIMEOUT_S", 0.1)
    async with warm(tmp_path, server) as proxy:
        client, other = await proxy.connect(), await proxy.connect()
        await other.send(STARTUP)
        await other.until_ready()
        assert await client.at_end()
        await eventually(lambda: proxy.reports[-1].stats.malformed == 1)
        assert await other.query("select 1") == "a"


async def test_it_goes_on_at_the_next_primary(tmp_path, nursery, server, counted) -> None:
    other = LegServer("b")
    await nursery.start(other.run)
    async with warm(tmp_path, server) as proxy:
        client = await proxy.session()
        assert counted.let_in == 1
        await client.query("set a = 1")
        proxy.route(2, other)
        await eventually(lambda: server.ended == 1)
        assert await client.query("select 1") == "b"
        assert b"set a = 1" in bytes(other.received)
        await leave(client)
        assert await (await proxy.session()).query("select 1") == "b"
        assert other.attempts == 1, "it was left to the next one"


async def test_the_end_of_its_server_is_told(tmp_path, server, counted) -> None:
    async with warm(tmp_path, server) as proxy:
        client = await proxy.session()
        await client.query("begin")
        await client.send(message(b"Q", b"bye\0"))
        assert (await client.error())["C"] == "57P01"
        assert await client.at_end()
        assert counted.let_in == 1
        await eventually(lambda: server.ended == 1)


@pytest.mark.parametrize("way", ["abort", "eof"])
async def test_who_goes_without_a_goodbye_takes_its_leg_along(
    tmp_path, server, counted, way
) -> None:
    async with warm(tmp_path, server) as proxy:
        client = await proxy.session()
        await client.query("begin")
        if way == "abort":
            await trio.aclose_forcefully(client.stream)
        else:
            await client.stream.send_eof()
        await eventually(lambda: server.ended == 1)
        await eventually(lambda: proxy.reports[-1].stats.sessions == 0)
        assert counted.let_in == 1


async def test_the_limit_of_sessions_holds(tmp_path, server, counted) -> None:
    async with warm(tmp_path, server, legs=2, sessions_max=2) as proxy:
        clients = [await proxy.session() for _ in range(2)]
        assert counted.let_in == 2
        late = await proxy.log_in()
        assert (await late.error())["C"] == "53300"
        await leave(clients[0])
        assert await (await proxy.session()).query("select 1") == "a"


async def test_who_comes_again_before_its_goodbye_was_read_is_let_in(tmp_path, server) -> None:
    async with warm(tmp_path, server, sessions_max=1) as proxy:
        client = await proxy.session()
        late = await proxy.log_in()
        await trio.sleep(0.02)
        await client.send(TERMINATE)
        await late.until_ready()
        assert await late.query("select 1") == "a"


async def test_a_worker_that_stops_tells_them(tmp_path, server, counted) -> None:
    async with warm(tmp_path, server, legs=2) as proxy:
        resting, busy, silent = await proxy.session(), await proxy.session(), await proxy.connect()
        assert counted.let_in == 2
        await busy.query("begin")
        proxy.stop.set()
        for client in (resting, busy):
            assert (await client.error())["C"] == "57P01"
            assert await client.at_end()
        assert await silent.at_end()
        await proxy.ended.wait()
        await eventually(lambda: server.ended == 2)


async def test_a_worker_that_is_cancelled_leaves_nothing_open(tmp_path, server, counted) -> None:
    async with warm(tmp_path, server, legs=2) as proxy:
        await proxy.session()
        await proxy.connect()
        assert counted.let_in == 1
    await eventually(lambda: server.ended == 2)


async def test_whom_a_pause_holds_waits(tmp_path, server, counted) -> None:
    async with warm(tmp_path, server) as proxy:
        proxy.route(1, server, hold="1")
        await trio.sleep(0.05)
        client = await proxy.log_in()
        with trio.move_on_after(0.1):
            await client.message()
            raise AssertionError("nobody may begin")
        assert counted.let_in == 0
        proxy.route(1, server)
        await client.until_ready()
        assert await client.query("select 1") == "a"


async def test_who_has_to_give_a_password_gets_a_task(tmp_path, nursery, counted) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    source = Known(anna=TrustLogin())
    async with warm(tmp_path, server, credentials=source) as proxy:
        source.hold = trio.Event()
        client = await proxy.log_in()
        await trio.sleep(0.05)
        source.hold.set()
        await client.until_ready()
        assert await client.query("select 1") == "a"
        assert counted.let_in == 0
        assert server.attempts == 1
