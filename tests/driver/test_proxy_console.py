"""The console: who gets it, and what it says of all workers of a node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from legs_kit import PASSWORD, Known, LegServer, keys_for, log_in_by_scram
from proxy_kit import Client, Proxy, eventually, message, proxy_running

from metako.pgwire import startup as pg
from metako.pgwire.login_client import ServerReady, ServerRefused
from metako.pgwire.login_server import RejectLogin, ScramLogin, TrustLogin
from metako.proxy import consoledesk, control
from metako.proxy.consoleasks import ConsoleAsks
from metako.proxy.consoledesk import ConsoleDesk, Reloaded
from metako.proxy.limits import Limits, Timeouts, Tuning
from metako.proxy.views import Views

TUNING = Tuning(sessions_max=50, queue_timeout_s=2.0, admins=("boss",))
Rows = list[dict[str, str]]


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


def people() -> Known:
    return Known(anna=TrustLogin(), boss=TrustLogin(), eve=RejectLogin("not eve"))


class At:
    """Somebody at a console."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.notices: list[str] = []  # of the last command
        self.tags: list[str] = []

    async def ask(self, text: str) -> Rows:
        """Return the rows of the last table. Fails if there is an error."""
        await self.client.send(message(b"Q", text.encode() + b"\0"))
        self.notices, self.tags = [], []
        rows: Rows = []
        columns: list[str] = []
        for kind, body in await self.client.until_ready():
            if kind == b"N":
                self.notices.append(pg.parse_error_untrusted(body)["M"])
            elif kind == b"T":
                columns, rows = _columns(body), []
            elif kind == b"D":
                rows.append(dict(zip(columns, _cells(body), strict=True)))
            elif kind == b"C":
                self.tags.append(body[:-1].decode())
        return rows

    async def fails(self, text: str) -> dict[str, str]:
        await self.client.send(message(b"Q", text.encode() + b"\0"))
        while True:
            item = await self.client.message()
            assert item is not None
            if item[0] == b"E":
                assert await self.client.message() == (b"Z", b"I")
                return pg.parse_error_untrusted(item[1])
            assert item[0] == b"N", item


def _columns(body: bytes) -> list[str]:
    names, rest = [], body[2:]
    while rest:
        name, rest = rest.split(b"\0", 1)
        names.append(name.decode())
        rest = rest[18:]
    return names


def _cells(body: bytes) -> list[str]:
    found, position = [], 2
    while position < len(body):
        length = int.from_bytes(body[position : position + 4], "big", signed=True)
        position += 4
        text = "" if length < 0 else body[position : position + length].decode()
        found.append(text)
        position += max(length, 0)
    return found


async def at_console(proxy: Proxy, user: str = "boss") -> At:
    client = await proxy.connect()
    await client.send(pg.startup_packet({"user": user, "database": "metako"}))
    await client.until_ready()
    return At(client)


@contextlib.asynccontextmanager
async def node(
    tmp_path: Path, nursery, *, desk: ConsoleDesk | None = None, timeouts: Timeouts | None = None
) -> AsyncIterator[tuple[Proxy, Proxy, LegServer]]:
    """Give the two workers of a node, whose agent is the first one's, and their server."""
    server = LegServer("a")
    await nursery.start(server.run)
    source, admins = people(), ("boss",)
    limits = timeouts or Timeouts()
    async with proxy_running(
        tmp_path, credentials=source, admins=admins, with_agent=False, timeouts=limits
    ) as one:
        one.desk = desk or ConsoleDesk()
        one.feed.tune(TUNING)
        one.start_agent()
        one.route(1, server)
        async with proxy_running(
            tmp_path, credentials=source, admins=admins, index=2, with_agent=False, timeouts=limits
        ) as two:
            await eventually(lambda: {report.hello.index for report in one.reports} == {1, 2})
            yield one, two, server


async def test_an_admin_gets_the_console_and_what_drivers_look_for(tmp_path) -> None:
    async with proxy_running(tmp_path, credentials=people(), admins=("boss",)) as proxy:
        client = await proxy.connect()
        await client.send(pg.startup_packet({"user": "boss", "database": "metako"}))
        told = await client.until_ready()
        settings = dict(body[:-1].split(b"\0") for kind, body in told if kind == b"S")
        assert settings.keys() >= {b"server_version", b"integer_datetimes", b"DateStyle"}
        assert settings[b"client_encoding"] == b"UTF8"
        assert settings[b"standard_conforming_strings"] == b"on"
        console = At(client)
        assert (await console.ask("show version"))[0]["version"].startswith("metako ")
        assert len(await console.ask("show help")) > 5
        await client.send(message(b"X", b""))
        assert await client.at_end()


@pytest.mark.parametrize(
    ("user", "sqlstate", "words"),
    [
        ("anna", "42501", "may not use the console"),
        ("nobody", "28000", "cannot be judged"),
        ("eve", "28000", "not eve"),
    ],
)
async def test_nobody_else_gets_it(tmp_path, user, sqlstate, words) -> None:
    async with proxy_running(tmp_path, credentials=people(), admins=("boss", "eve")) as proxy:
        client = await proxy.connect()
        await client.send(pg.startup_packet({"user": user, "database": "metako"}))
        item = await client.message()
        while item is not None and item[0] != b"E":
            item = await client.message()
        assert item is not None
        found = pg.parse_error_untrusted(item[1])
        assert (found["S"], found["C"]) == ("FATAL", sqlstate)
        assert words in found["M"]
        assert await client.at_end()


async def test_an_admin_needs_the_password(tmp_path) -> None:
    keys, verifier = keys_for(PASSWORD)
    source = Known(boss=ScramLogin(verifier))
    async with proxy_running(tmp_path, credentials=source, admins=("boss",)) as proxy:
        wrong, _ = keys_for("another secret")
        _, found = await log_in_by_scram(proxy, wrong, user="boss", database="metako")
        assert isinstance(found, ServerRefused)
        assert found.fields["C"] == "28P01"
        assert source.forgotten == ["boss"]
        client, found = await log_in_by_scram(proxy, keys, user="boss", database="metako")
        assert isinstance(found, ServerReady)
        assert len(await At(client).ask("show clients")) == 1


async def test_the_clients_and_servers_of_all_workers_are_shown(tmp_path, nursery) -> None:
    async with node(tmp_path, nursery) as (one, two, server):
        clients = [await one.session(), await two.session(), await two.session()]
        server.mute = True
        await clients[1].send(message(b"Q", b"select 1\0"))
        await eventually(lambda: b"select" in server.received)
        console = await at_console(one)
        rows = await console.ask("show clients")
        assert console.notices == []
        assert [(row["worker"], row["id"], row["user"], row["state"]) for row in rows] == [
            ("1", "1.1", "anna", "idle"),
            ("1", "1.2", "boss", "console"),
            ("2", "2.1", "anna", "active"),
            ("2", "2.2", "anna", "idle"),
        ]
        assert rows[0]["server"] == f"127.0.0.1:{server.port}"
        assert rows[0]["tls"] == "off"
        port = clients[0].stream.socket.getsockname()[1]
        assert (rows[0]["addr"], rows[0]["port"]) == ("127.0.0.1", str(port))
        servers = await console.ask("show servers")
        assert [(row["worker"], row["client"], row["state"]) for row in servers] == [
            ("1", "1.1", "used"),
            ("2", "2.1", "used"),
            ("2", "2.2", "used"),
        ]
        assert {row["backend_pid"] for row in servers} == {"7"}
        pools = {row["worker"]: row for row in await console.ask("show pools")}
        assert [pools["2"][name] for name in ("database", "user", "cl_active", "cl_idle")] == [
            *("shop", "anna", "1", "1"),
        ]
        assert [pools["2"][name] for name in ("sv_used", "sv_idle", "maxwait_ms")] == [
            "2",
            "0",
            "0",
        ]


async def test_what_passed_is_counted(tmp_path, nursery) -> None:
    async with node(tmp_path, nursery) as (one, two, server):
        client, left = await one.session(), await one.session()
        for server.name in ("SELECT 1", "UPDATE 1", "SELECT 1"):  # which is what it answers
            await client.query("select 1")
            await left.query("select 1")
        server.fails = True
        await client.send(message(b"Q", b"select 1\0"))
        assert (await client.error())["C"] == "55006"
        assert await client.message() == (b"Z", b"I")
        await left.send(message(b"X", b""))
        assert await left.at_end()
        console = await at_console(two)
        rows = await console.ask("show stats")
        names = ("worker", "statements", "reads", "writes", "failed")
        assert [tuple(row[name] for name in names) for row in rows] == [
            ("1", "7", "4", "2", "1"),
            ("2", "0", "0", "0", "0"),
        ]
        await eventually(
            lambda: any(
                (report.stats.statements, report.stats.reads, report.stats.writes) == (7, 4, 2)
                for report in one.reports
            )
        )


async def test_clients_who_wait_for_a_server_are_shown_as_such(tmp_path, nursery) -> None:
    async with node(tmp_path, nursery) as (one, two, _):
        one.route(2, None)
        await eventually(lambda: any(("term", 2) in event.fields for event in one.events))
        await two.log_in()
        await eventually(lambda: any(report.stats.waiting for report in one.reports))
        console = await at_console(one)
        rows = await console.ask("show clients")
        assert [row["state"] for row in rows if row["user"] == "anna"] == ["waiting"]
        (pool,) = await console.ask("show pools")
        assert (pool["cl_waiting"], pool["sv_used"]) == ("1", "0")


async def test_kill_ends_one_client_or_those_of_a_database_at_once(tmp_path, nursery) -> None:
    async with node(tmp_path, nursery) as (one, two, _):
        clients = [await one.session(), await two.session(), await two.session()]
        console = await at_console(one)
        await console.ask("kill client 2.1")
        assert console.tags == ["KILL"]
        assert console.notices == ["1 client was ended"]
        found = await clients[1].error()
        assert (found["S"], found["C"]) == ("FATAL", "57P01")
        assert await clients[1].at_end()
        assert await clients[2].query("select 1") == "a"
        assert (await console.fails("kill client 2.1"))["C"] == "42704"
        await console.ask("kill shop")
        assert console.notices == ["2 clients were ended"]
        for client in (clients[0], clients[2]):
            assert (await client.error())["C"] == "57P01"
        await console.ask("kill nowhere")
        assert console.notices == ["0 clients were ended"]
        given = [dict(event.fields) for event in one.events if "console" in event.message]
        assert given[0] == {"user": "boss", "command": "KILL", "client": "2.1"}


async def test_a_bug_of_the_console_ends_nobody(tmp_path, nursery, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with node(tmp_path, nursery) as (one, two, _):
        clients = [await one.session(), await two.session()]
        console = await at_console(one)
        monkeypatch.setattr(Views, "_pools", fail)
        assert "failed unexpectedly" in (await console.fails("show pools"))["M"]
        assert len(await console.ask("show clients")) == 3
        for client in clients:
            assert await client.query("select 1") == "a"


async def test_a_worker_that_does_not_answer_is_named(tmp_path, nursery, monkeypatch) -> None:
    monkeypatch.setattr(consoledesk, "ANSWER_TIMEOUT_S", 0.2)
    async with node(tmp_path, nursery) as (one, *_):
        console = await at_console(one)
        received = ConsoleAsks.receive

        def receive_unless_two(asks, frame) -> None:
            if asks.office._index != 2:
                received(asks, frame)

        monkeypatch.setattr(ConsoleAsks, "receive", receive_unless_two)
        rows = await console.ask("show stats")
        assert [row["worker"] for row in rows] == ["1"]
        assert console.notices == ["worker 2 did not answer"]


async def test_a_worker_without_an_agent_answers_for_itself_and_says_so(tmp_path, nursery) -> None:
    async with node(tmp_path, nursery) as (one, two, _):
        client = await one.session()
        await two.session()
        console = await at_console(one)
        assert len(await console.ask("show clients")) == 3
        one.agent.cancel()
        await trio.sleep(0.05)
        rows = await console.ask("show clients")
        assert [row["id"] for row in rows] == ["1.1", "1.2"]
        assert len(console.notices) == 1
        assert "one worker alone" in console.notices[0]
        assert "agent" in (await console.fails("reload"))["M"]
        await console.ask("kill client 1.1")
        assert (await client.error())["C"] == "57P01"
        assert (await console.fails("kill client 1.1"))["C"] == "42704"


async def test_reload_is_in_force_everywhere_when_it_is_answered(tmp_path, nursery) -> None:
    found = [Reloaded(None, error="line 3: no such key")]

    async def reload() -> Reloaded:
        await trio.lowlevel.checkpoint()
        return found[0]

    async with node(tmp_path, nursery, desk=ConsoleDesk(reload)) as (one, two, _):
        console = await at_console(one)
        failed = await console.fails("reload")
        assert failed["H"] == "line 3: no such key"
        other = await two.session()
        tuning = Tuning(
            sessions_max=1,
            queue_timeout_s=3.0,
            limits=Limits(user=9),
            timeouts=Timeouts(idle_s=0.1),
            admins=("anna",),
        )
        found[0] = Reloaded(tuning, notices=("changes of api take a restart",))
        await console.ask("reload")
        assert console.notices == ["changes of api take a restart"]
        rows = await console.ask("show config")
        config = {(row["worker"], row["key"]): row["value"] for row in rows}
        for worker in ("1", "2"):
            assert config[worker, "max_connections"] == "1"
            assert config[worker, "pool.per_user"] == "9"
            assert config[worker, "idle_timeout"] == "0.1s"
            assert config[worker, "admin_users"] == "anna"
        assert (await other.error())["C"] == "57P05"


async def test_a_full_proxy_still_has_a_console(tmp_path, nursery) -> None:
    async with proxy_running(
        tmp_path, credentials=people(), admins=("boss",), sessions_max=1
    ) as proxy:
        server = LegServer("a")
        await nursery.start(server.run)
        proxy.route(1, server)
        await proxy.session()
        late = await proxy.log_in()
        assert (await late.error())["C"] == "53300"
        console = await at_console(proxy)
        assert len(await console.ask("show clients")) == 2


async def test_what_does_not_fit_into_a_frame_is_left_out_and_told(
    tmp_path, nursery, monkeypatch
) -> None:
    monkeypatch.setattr(consoledesk, "ROOM_BYTES", 900)
    async with node(tmp_path, nursery) as (one, two, _):
        for _ in range(4):
            await one.session()
            await two.session()
        console = await at_console(one)
        rows = await console.ask("show clients")
        assert {row["worker"] for row in rows} == {"1", "2"}
        assert len(rows) < 9
        assert [notice.partition(" of ")[2] for notice in console.notices] == [
            "5 rows are shown",
            "4 rows are shown",
        ]


async def test_a_pause_keeps_transactions_from_beginning_until_it_is_over(
    tmp_path, nursery
) -> None:
    async with node(tmp_path, nursery) as (one, *_):
        console = await at_console(one)
        client = await one.session()
        await console.ask("pause shop")
        await client.send(message(b"Q", b"select 1\0"))
        with trio.move_on_after(0.05) as scope:
            await client.message()
        assert scope.cancelled_caught
        await console.ask("resume shop")
        await client.until_ready()


async def test_a_console_does_not_hold_up_a_proxy_that_stops(tmp_path) -> None:
    async with proxy_running(tmp_path, credentials=people(), admins=("boss",)) as proxy:
        console = await at_console(proxy)
        proxy.stop.set()
        started = trio.current_time()
        assert (await console.client.error())["C"] == "57P01"
        assert trio.current_time() - started < 0.25
