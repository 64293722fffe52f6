"""Real clients that are idle while their real server is replaced by another one.

Two servers that have nothing in common but their roles and what is stored for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator

import asyncpg
import psycopg
import pytest
import trio
from proxy_kit import FakeServer, Proxy, eventually, free_port, proxy_running

from integration.login_kit import PASSWORD, ROLES, RealServer, credential_of, real_server
from metako.pgwire.login_server import Credential
from metako.proxy import control
from metako.proxy.credentials import Asking
from metako.proxy.frames import Stats

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 30.0
WITH_PASSWORD = ("anna", "olga", "nobody")
PASSED_ON = ("clara", "rita")  # whom the proxy cannot judge
PORT = "select current_setting('port')"

BY_OURSELVES = pytest.mark.parametrize("role", ["anna", "olga", "tina"])
Switch = Callable[[], None]  # for a client's thread


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


@pytest.fixture(scope="module")
def new(test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with real_server(test_bindir, free_port(), keep=keep_directories) as running:
        yield running


@contextlib.contextmanager
def twin(new: RealServer, bindir: str | None, *, keep: bool) -> Iterator[RealServer]:
    """Run another server with the same roles."""
    with real_server(bindir, free_port(), keep=keep) as running:
        for name, _, _ in ROLES:
            running.run(f"alter role {name} password '{new.stored(name)}'")
        yield running


@pytest.fixture(scope="module")
def old(new: RealServer, test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with twin(new, test_bindir, keep=keep_directories) as running:
        yield running


class Source:
    """Reads what is stored, as an agent does for its workers."""

    def __init__(self, server: RealServer) -> None:
        self._server = server

    async def credential(self, asking: Asking) -> Credential | None:
        if asking.user in PASSED_ON:
            return None
        return await trio.to_thread.run_sync(credential_of, self._server, asking.user)

    def trusts(self, asking: Asking) -> bool:
        return False

    def forget(self, user: str) -> None:
        pass


@contextlib.asynccontextmanager
async def between(
    tmp_path, first: RealServer, then: RealServer
) -> AsyncIterator[tuple[Proxy, Switch]]:
    """Run a proxy to `first`, and to `then` once the switch is called."""
    async with proxy_running(tmp_path, queue_timeout_s=20, credentials=Source(then)) as proxy:
        proxy.route(1, FakeServer("first", port=first.port))

        async def switch() -> None:
            proxy.route(2, FakeServer("then", port=then.port))
            await eventually(lambda: any(("term", 2) in event.fields for event in proxy.events))

        with trio.fail_after(TIMEOUT_S):
            token = trio.lowlevel.current_trio_token()
            yield proxy, lambda: trio.from_thread.run(switch, trio_token=token)


def by_psycopg(port: int, role: str, **options: object) -> psycopg.Connection:
    where = {"host": "127.0.0.1", "port": port, "user": role, "dbname": "postgres"}
    return psycopg.connect(**{**where, "password": PASSWORD, "sslmode": "disable", **options})


def asked(connection: psycopg.Connection, sql: str = PORT) -> str:
    return str(connection.execute(sql.encode()).fetchone()[0])


@BY_OURSELVES
async def test_an_idle_psycopg_client_goes_on(tmp_path, old, new, role) -> None:
    async with between(tmp_path, old, new) as (proxy, switch):

        def talk() -> list[str]:
            with by_psycopg(proxy.port, role, autocommit=True) as connection:
                ports = [asked(connection)]
                switch()
                return [*ports, asked(connection), asked(connection, "select current_user")]

        found = await trio.to_thread.run_sync(talk)
        assert found == [str(old.port), str(new.port), role]
        await eventually(lambda: proxy.reports[-1].stats.moved == 1)


@BY_OURSELVES
async def test_an_idle_asyncpg_client_goes_on(tmp_path, old, new, role) -> None:
    async with between(tmp_path, old, new) as (proxy, switch):

        async def talk() -> list[str]:
            connection = await asyncpg.connect(
                host="127.0.0.1",
                port=proxy.port,
                user=role,
                password=PASSWORD,
                database="postgres",
                ssl=False,
                statement_cache_size=0,
            )
            try:
                before = await connection.fetchval(PORT)
                await asyncio.to_thread(switch)
                return [before, await connection.fetchval(PORT)]
            finally:
                await connection.close()

        found = await trio.to_thread.run_sync(lambda: asyncio.run(talk()))
        assert found == [str(old.port), str(new.port)]


@contextlib.asynccontextmanager
async def psql(server: RealServer, proxy: Proxy, role: str) -> AsyncIterator[trio.Process]:
    where = f"host=127.0.0.1 port={proxy.port} user={role} dbname=postgres sslmode=disable"
    process = await trio.lowlevel.open_process(
        [server.psql, "-AtX", where],
        env={"PGPASSWORD": PASSWORD, "PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            await trio.aclose_forcefully(stream)


@BY_OURSELVES
async def test_an_idle_psql_goes_on(tmp_path, old, new, role) -> None:
    async with between(tmp_path, old, new) as (proxy, switch), psql(old, proxy, role) as process:
        await process.stdin.send_all(PORT.encode() + b";\n")
        assert await process.stdout.receive_some() == b"%d\n" % old.port
        await trio.to_thread.run_sync(switch)
        await process.stdin.send_all(PORT.encode() + b";\n")
        assert await process.stdout.receive_some() == b"%d\n" % new.port
        await process.stdin.aclose()
        assert await process.wait() == 0


async def test_a_transaction_ends_with_its_server(tmp_path, old, new) -> None:
    async with between(tmp_path, old, new) as (proxy, switch):

        def talk() -> None:
            with by_psycopg(proxy.port, "anna") as connection:
                asked(connection)
                switch()
                asked(connection)

        with pytest.raises(psycopg.errors.AdminShutdown):
            await trio.to_thread.run_sync(talk)
        await eventually(lambda: proxy.reports[-1].stats.cut == 1)


async def test_settings_and_prepared_statements_go_with_the_client(tmp_path, old, new) -> None:
    async with between(tmp_path, old, new) as (proxy, switch):

        def talk() -> list[str]:
            with by_psycopg(proxy.port, "anna", autocommit=True) as connection:
                connection.execute("set timezone to 'Asia/Tokyo'")
                connection.execute("select set_config('work_mem', '7MB', false)")
                connection.execute("begin; set statement_timeout = 1; rollback")
                connection.execute("prepare twice(int) as select 2 * $1")
                by_protocol = "select %s::int + current_setting('port')::int"
                sums = [connection.execute(by_protocol, (1,), prepare=True).fetchone()[0]]
                switch()
                sums.append(connection.execute(by_protocol, (1,), prepare=True).fetchone()[0])
                found = [
                    asked(connection, sql)
                    for sql in ("show timezone", "show work_mem", "show statement_timeout")
                ]
                assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
                return [*map(str, sums), *found, asked(connection, "execute twice(21)")]

        sums = [str(old.port + 1), str(new.port + 1)]
        assert await trio.to_thread.run_sync(talk) == [*sums, "Asia/Tokyo", "7MB", "0", "42"]


async def test_the_statement_cache_of_asyncpg_goes_with_the_client(tmp_path, old, new) -> None:
    async with between(tmp_path, old, new) as (proxy, switch):

        async def talk() -> list[int]:
            connection = await asyncpg.connect(
                host="127.0.0.1",
                port=proxy.port,
                user="olga",
                password=PASSWORD,
                database="postgres",
                ssl=False,
            )
            sums = "select $1::int + current_setting('port')::int"
            try:
                before = [await connection.fetchval(sums, number) for number in (1, 2)]
                await asyncio.to_thread(switch)
                return [*before, await connection.fetchval(sums, 3)]
            finally:
                await connection.close()

        found = await trio.to_thread.run_sync(lambda: asyncio.run(talk()))
        assert found == [old.port + 1, old.port + 2, new.port + 3]


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("create temp table t (a int)", "temporary tables"),
        ("select pg_advisory_lock(1)", "advisory lock"),
        ("listen news", "listens"),
        ("declare c cursor with hold for select 1", "cursor WITH HOLD"),
    ],
)
async def test_what_cannot_be_rebuilt_ends_with_its_server(tmp_path, old, new, sql, why) -> None:
    async with between(tmp_path, old, new) as (proxy, switch):

        def talk() -> None:
            with by_psycopg(proxy.port, "tina", autocommit=True) as connection:
                connection.execute(sql)
                switch()
                asked(connection)

        with pytest.raises(psycopg.errors.AdminShutdown) as raised:
            await trio.to_thread.run_sync(talk)
        assert why in raised.value.diag.message_detail


async def test_a_setting_that_the_new_server_refuses_ends_the_session(tmp_path, old, new) -> None:
    old.run("create role of_old_only; grant of_old_only to anna")
    async with between(tmp_path, old, new) as (proxy, switch):

        def talk() -> None:
            with by_psycopg(proxy.port, "anna", autocommit=True) as connection:
                connection.execute("set role of_old_only")
                switch()
                asked(connection)

        with pytest.raises(psycopg.errors.AdminShutdown) as raised:
            await trio.to_thread.run_sync(talk)
        assert 'role "of_old_only" does not exist' in raised.value.diag.message_detail


async def test_a_login_that_was_passed_on_ends_with_its_server(tmp_path, old, new) -> None:
    async with between(tmp_path, old, new) as (proxy, switch):

        def talk() -> None:
            with by_psycopg(proxy.port, "clara", autocommit=True) as connection:
                assert asked(connection, "select current_user") == "clara"
                switch()
                asked(connection)

        with pytest.raises(psycopg.errors.AdminShutdown):
            await trio.to_thread.run_sync(talk)


async def test_a_fast_shutdown_is_not_told_to_an_idle_client(
    tmp_path, new, test_bindir, keep_directories
) -> None:
    with twin(new, test_bindir, keep=keep_directories) as going:
        async with between(tmp_path, going, new) as (proxy, switch):

            async def shut_down() -> None:
                postmaster = going.socket_dir / "data" / "postmaster.pid"
                os.kill(int(postmaster.read_text().split("\n", 1)[0]), signal.SIGINT)
                await eventually(lambda: not postmaster.exists())

            def talk() -> list[str]:
                with by_psycopg(proxy.port, "anna", autocommit=True) as connection:
                    ports = [asked(connection)]
                    trio.from_thread.run(shut_down)
                    told, _, _ = select.select([connection.fileno()], [], [], 0.2)
                    assert not told
                    switch()
                    return [*ports, asked(connection)]

            found = await trio.to_thread.run_sync(talk)
            assert found == [str(going.port), str(new.port)]


async def test_what_is_asked_after_a_fast_shutdown_waits_for_the_new_primary(
    tmp_path, nursery, new, test_bindir, keep_directories
) -> None:
    with twin(new, test_bindir, keep=keep_directories) as going:
        async with between(tmp_path, going, new) as (proxy, switch):

            def stats() -> Stats:
                return proxy.reports[-1].stats

            async def shut_down_and_switch_later() -> None:
                postmaster = going.socket_dir / "data" / "postmaster.pid"
                # Or the report of the time when it waited for its login would be taken for this.
                await eventually(lambda: (stats().sessions, stats().waiting) == (1, 0))
                os.kill(int(postmaster.read_text().split("\n", 1)[0]), signal.SIGINT)
                await eventually(lambda: stats().waiting == 1)
                nursery.start_soon(_later, switch)

            def talk() -> str:
                with by_psycopg(proxy.port, "olga", autocommit=True) as connection:
                    asked(connection)
                    trio.from_thread.run(shut_down_and_switch_later)
                    return asked(connection)

            assert await trio.to_thread.run_sync(talk) == str(new.port)


async def _later(switch: Switch) -> None:
    await trio.sleep(0.3)
    await trio.to_thread.run_sync(switch)


async def test_an_administrator_ends_the_backend_and_not_an_idle_client(tmp_path, old) -> None:
    async with between(tmp_path, old, old) as (proxy, _):

        def talk() -> list[str]:
            with by_psycopg(proxy.port, "anna", autocommit=True) as connection:
                pid = asked(connection, "select pg_backend_pid()")
                old.run(f"select pg_terminate_backend({pid}, 5000)")
                gone = old.run("select 1 from pg_stat_activity where usename = 'anna'")
                return [pid, asked(connection, "select pg_backend_pid()"), str(gone)]

        before, after, gone = await trio.to_thread.run_sync(talk)
        assert before != after
        assert gone == "[]"  # nobody comes back who was not asked for


@pytest.mark.parametrize(
    ("role", "options", "words"),
    [
        *(
            (role, {"password": "wrong"}, "password authentication failed")
            for role in WITH_PASSWORD
        ),
        ("anna", {"dbname": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words(
    tmp_path, old, new, role, options, words
) -> None:
    async with between(tmp_path, old, new) as (proxy, _):

        def complaint(port: int) -> str:
            with pytest.raises(psycopg.OperationalError) as raised:
                by_psycopg(port, role, **options)
            return str(raised.value).replace(str(port), "PORT")

        ours = await trio.to_thread.run_sync(complaint, proxy.port)
        assert ours == await trio.to_thread.run_sync(complaint, old.port)
        assert words in ours


async def test_a_statement_is_cancelled_after_a_move(tmp_path, old, new) -> None:
    async with between(tmp_path, old, new) as (proxy, switch), psql(old, proxy, "anna") as process:
        await process.stdin.send_all(PORT.encode() + b";\n")
        assert await process.stdout.receive_some() == b"%d\n" % old.port
        await trio.to_thread.run_sync(switch)
        await process.stdin.send_all(b"select pg_sleep(300);\n")
        sleeping = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
        while not await trio.to_thread.run_sync(new.run, sleeping):  # noqa: ASYNC110
            await trio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        complaint = b""
        while b"canceling statement due to user request" not in complaint:
            part = await process.stderr.receive_some()
            assert part, complaint
            complaint += part
