"""psql at the console, and statements of real clients that a real server cancels."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
import trio
from proxy_kit import FakeServer, Proxy, free_port, proxy_running

from integration.login_kit import PASSWORD, RealServer, credential_of, real_server
from metako.pgwire.login_server import Credential
from metako.proxy.credentials import Asking
from metako.proxy.limits import Timeouts

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TOOL_S = 30.0
TIMEOUTS = Timeouts(read_s=0.5, write_s=1.0, idle_in_transaction_s=1.5)
STATE = "select state from pg_stat_activity where query like '%pg_sleep(' || '60)%'"


@pytest.fixture(scope="module")
def server(test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with real_server(test_bindir, free_port(), keep=keep_directories) as running:
        running.run("create table noted (n int); grant all on noted to public")
        yield running


class Source:
    """Reads what is stored, as an agent does for its workers."""

    def __init__(self, server: RealServer) -> None:
        self._server = server

    async def credential(self, asking: Asking) -> Credential | None:
        return await trio.to_thread.run_sync(credential_of, self._server, asking.user)

    def trusts(self, asking: Asking) -> bool:
        return False

    def forget(self, user: str) -> None:
        pass


@pytest.fixture
async def proxy(server: RealServer, tmp_path) -> AsyncIterator[Proxy]:
    running = proxy_running(
        tmp_path, credentials=Source(server), admins=("anna",), timeouts=TIMEOUTS
    )
    async with running as started:
        started.route(1, FakeServer("db1", port=server.port))
        yield started


def environment(proxy: Proxy, database: str) -> dict[str, str]:
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(proxy.port),
        "PGUSER": "anna",
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": database,
        "PATH": os.environ["PATH"],
        "TERM": "dumb",
        "PAGER": "cat",
        "LC_ALL": "C",
    }


async def psql(
    server: RealServer, proxy: Proxy, *statements: str, database: str = "postgres", user: str = ""
) -> subprocess.CompletedProcess[bytes]:
    arguments = [part for statement in statements for part in ("-c", statement)]
    with trio.fail_after(TOOL_S):
        return await trio.run_process(
            [server.psql, "-X", "-At", "-v", "VERBOSITY=verbose", *arguments],
            env=environment(proxy, database) | ({"PGUSER": user} if user else {}),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


def talk_at_terminal(server: RealServer, proxy: Proxy, typed: bytes) -> str:
    """Return what psql shows somebody who types at a terminal."""
    own, other = pty.openpty()
    with subprocess.Popen(
        [server.psql, "-X", "-n"],
        env=environment(proxy, "metako"),
        stdin=other,
        stdout=other,
        stderr=other,
    ) as process:
        os.close(other)
        os.write(own, typed)
        shown = b""
        try:
            while part := os.read(own, 4096):
                shown += part
        except OSError:
            pass  # how a terminal ends
        process.wait(TOOL_S)
    os.close(own)
    return shown.decode()


async def test_psql_shows_what_the_console_says(server: RealServer, proxy: Proxy) -> None:
    where = f"host=127.0.0.1 port={proxy.port} user=olga password='{PASSWORD}' dbname=postgres"
    client = await trio.to_thread.run_sync(
        lambda: psycopg.connect(where, autocommit=True, application_name="till")
    )
    try:
        pid = client.info.backend_pid
        assert pid
        found = await psql(server, proxy, "show pools", "SHOW CLIENTS;", database="metako")
        assert found.returncode == 0, found.stderr
        pools, *clients = found.stdout.decode().splitlines()
        assert pools.split("|")[:6] == ["1", "postgres", "olga", "0", "1", "0"]
        assert clients[0].split("|")[2:5] == ["olga", "postgres", "till"]
        assert [line.split("|")[7] for line in clients] == ["idle", "console"]
        servers = await psql(server, proxy, "show servers", database="metako")
        real = await trio.to_thread.run_sync(
            lambda: client.execute("select pg_backend_pid()").fetchone()
        )
        assert real is not None
        assert servers.stdout.decode().split("|")[8] == str(real[0])
    finally:
        client.close()


async def test_psql_at_a_terminal_works_and_names_mistakes(
    server: RealServer, proxy: Proxy
) -> None:
    typed = b"show version;\nselect 1;\nshow help;\n\\q\n"
    shown = await trio.to_thread.run_sync(talk_at_terminal, server, proxy, typed)
    assert "metako " in shown
    assert "ERROR:  unknown command: select 1" in shown
    assert "KILL CLIENT id" in shown


async def test_who_is_no_admin_is_told_so_by_psql(server: RealServer, proxy: Proxy) -> None:
    found = await psql(server, proxy, "show pools", database="metako", user="olga")
    assert found.returncode == 2
    assert b'"olga" may not use the console' in found.stderr


async def test_reads_and_writes_of_a_real_client_are_counted(
    server: RealServer, proxy: Proxy
) -> None:
    where = f"host=127.0.0.1 port={proxy.port} user=anna password='{PASSWORD}' dbname=postgres"

    def work() -> None:
        with psycopg.connect(where, autocommit=True) as client:
            for number in range(10):  # it prepares the statement on the way
                client.execute("insert into noted values (%s)", [number])
            client.execute("begin; values (1); table noted; update noted set n = 0; rollback")
            with client.cursor() as cursor:
                with cursor.copy("copy noted to stdout") as rows:
                    assert len(list(rows)) == 10
                with cursor.copy("copy noted from stdin") as rows:
                    rows.write("1\n")
            client.execute("create temp table own as select 1")  # by its tag a SELECT
            client.execute("create temp table other (n int)")
            client.execute("do 'begin end'")
            client.execute("truncate other; truncate own")
            with pytest.raises(psycopg.errors.DivisionByZero):
                client.execute("select 1 / 0")
            client.execute("delete from noted")

    await trio.to_thread.run_sync(work)
    found = await psql(server, proxy, r"\x", "show stats", database="metako")
    stats = dict(line.split("|") for line in found.stdout.decode().splitlines() if "|" in line)
    told = {name: int(stats[name]) for name in ("reads", "writes", "failed")}
    assert told == {"reads": 4, "writes": 16, "failed": 1}


@pytest.mark.parametrize(
    ("sql", "exceeded"),
    [
        ("select pg_sleep(60)", "read_timeout of 0.5 s"),
        ("insert into noted select 1 from pg_sleep(60)", "write_timeout of 1 s"),
        ("begin; select pg_sleep(60)", "write_timeout of 1 s"),
    ],
)
async def test_a_statement_that_takes_too_long_is_cancelled_by_its_server(
    server: RealServer, proxy: Proxy, sql: str, exceeded: str
) -> None:
    found = await psql(server, proxy, sql, "rollback", "select count(*) from noted")
    complaints = found.stderr.decode()
    assert f"the statement exceeded proxy.{exceeded}" in complaints
    assert "ERROR:  57014: canceling statement due to user request" in complaints
    # The same session goes on.
    assert found.stdout.decode().splitlines()[-1] == "0"
    assert server.run(STATE) in ([], [("idle",)])


async def test_a_client_that_leaves_its_transaction_open_is_ended(
    server: RealServer, proxy: Proxy
) -> None:
    def leave_open() -> str:
        where = f"host=127.0.0.1 port={proxy.port} user=anna password='{PASSWORD}' dbname=postgres"
        with psycopg.connect(where) as client:
            client.execute("lock table noted")
            # It waits for the lock, which goes with the session.
            server.run("set lock_timeout to '10s'; truncate noted")
            with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout) as raised:
                client.execute("select 1")
            return str(raised.value.sqlstate)

    with trio.fail_after(TOOL_S):
        assert await trio.to_thread.run_sync(leave_open, abandon_on_cancel=True) == "25P03"


@contextlib.contextmanager
def no_standby(server: RealServer) -> Iterator[Callable[[], None]]:
    """Have commits wait for a standby that does not exist, until the end or until called."""

    def name(standby: str) -> None:
        server.run(f"alter system set synchronous_standby_names to '{standby}'")
        server.run("select pg_reload_conf()")

    name("nobody")
    try:
        yield lambda: name("")
    finally:
        name("")


async def test_a_write_whose_commit_waits_for_standbys_is_not_called_a_success(
    server: RealServer, proxy: Proxy
) -> None:
    with no_standby(server):
        # The setting has to have reached the checkpointer, which has commits wait.
        await trio.sleep(0.5)
        found = await psql(server, proxy, "insert into noted values (7)")
    assert found.stdout == b""
    assert b"FATAL:  08007: the wait for synchronous replication was cancelled" in found.stderr
    assert server.run("select n from noted where n = 7") == [(7,)]
    server.run("delete from noted")


async def test_a_commit_is_never_cancelled(server: RealServer, proxy: Proxy) -> None:
    async def relent(stop: Callable[[], None]) -> None:
        await trio.sleep(2 * TIMEOUTS.write_s + 0.5)
        await trio.to_thread.run_sync(stop)

    with no_standby(server) as stop:
        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relent, stop)
            found = await psql(server, proxy, "begin", "insert into noted values (8)", "commit")
    assert found.stdout.decode().split("\n") == ["BEGIN", "INSERT 0 1", "COMMIT", ""]
    assert found.stderr == b""
    server.run("delete from noted")
