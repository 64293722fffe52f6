"""Drivers and tools, with SCRAM through the proxies of a real cluster, as applications use them.

Each test is what a program does in a day: statements of both protocols, transactions, COPY, large
results, errors, notices, notifications, and a request to cancel that comes to another node.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import asyncpg
import psycopg
import pytest
import trio
from drivers_kit import PROGRAM_TIMEOUT_S, Proxies, balanced, proxies_of, run_program, run_python
from psycopg import sql
from shared_cluster import SharedCluster

from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LARGE_ROWS = 200_000
SLEEP = "select pg_sleep(30)"
CANCEL_S = 10.0  # that a cancelled statement may take at most


@pytest.fixture(scope="module")
def proxies(shared_cluster: SharedCluster) -> Proxies:
    return proxies_of(trio.run(shared_cluster.healthy))


@pytest.fixture(scope="module")
def tool(test_bindir: str | None, tmp_path_factory: pytest.TempPathFactory):
    """Return where a program of PostgreSQL's is."""
    user = resolve_os_user(None)
    found = find_installation(test_bindir, user, tmp_path_factory.mktemp("install"))
    return found.program


@pytest.fixture
def schema(proxies: Proxies, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give a schema of the test's own: the cluster is shared."""
    name = "d_" + "".join(c if c.isalnum() else "_" for c in request.node.name.lower())[:40]
    quoted = sql.Identifier(name)
    with psycopg.connect(proxies.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("drop schema if exists {} cascade").format(quoted))
        connection.execute(sql.SQL("create schema {}").format(quoted))
        yield name
        connection.execute(sql.SQL("drop schema {} cascade").format(quoted))


def options(schema: str) -> str:
    return f"-c search_path={schema}"


# -- psql and its kin --------------------------------------------------------------------------

PSQL_SCRIPT = r"""
\set ON_ERROR_STOP 1
create table item (id int primary key, name text not null);
insert into item select i, 'item ' || i from generate_series(1, 1000) i;
\copy item to 'items.csv' csv
begin; delete from item; rollback;
create table again (like item including all);
\copy again from 'items.csv' csv
select count(*) as many from again \gset
\echo copied :many
prepare one(int) as select name from item where id = $1;
execute one(7);
do $$ begin raise notice 'from a block'; end $$;
listen news;
notify news, 'from myself';
select 1 as after_the_notification;
select id, name from item where id = $1 \bind 8 \g
"""


def test_psql_runs_a_script_and_stops_at_its_error(
    proxies: Proxies, schema: str, tool, tmp_path: Path
) -> None:
    environment = {**proxies.environment(), "PGOPTIONS": options(schema)}
    script = PSQL_SCRIPT
    if " 15." in run_program(tool("psql"), "--version", environment={}).stdout:
        script = script[: script.rindex("select id")]  # \bind came with 16
    script = script.replace("items.csv", str(tmp_path / "items.csv"))
    result = run_program(tool("psql"), "-XAt", environment=environment, stdin=script)
    for line in ("copied 1000", "item 7", "1"):
        assert line in result.stdout.splitlines(), result.stdout
    assert 'notification "news" with payload "from myself"' in result.stdout
    assert "NOTICE:  from a block" in result.stderr
    failing = "\\set ON_ERROR_STOP 1\nselect 1/0;\nselect 'not reached';"
    failed = run_program(tool("psql"), "-XAt", environment=environment, stdin=failing, check=False)
    assert failed.returncode == 3
    assert "division by zero" in failed.stderr
    assert "not reached" not in failed.stdout


def test_interrupted_psql_cancels_by_another_node(proxies: Proxies, tool) -> None:
    with balanced(proxies) as balancer:
        environment = proxies.environment(balancer.port)
        began_s = time.monotonic()
        argv = [str(tool("psql")), "-XAt", "-c", SLEEP]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, env=environment, stdout=pipe, stderr=pipe) as psql:
            wait_sleeping(proxies, count=1)
            psql.send_signal(signal.SIGINT)
            _, said = psql.communicate(timeout=PROGRAM_TIMEOUT_S)
        assert b"canceling statement due to user request" in said
        assert time.monotonic() - began_s < CANCEL_S
        assert balancer.taken == list(proxies.ports[:2])


def test_dump_and_restore(proxies: Proxies, schema: str, tool) -> None:
    environment = proxies.environment()
    with psycopg.connect(proxies.dsn(), options=options(schema)) as connection:
        connection.execute("create table kept (id serial primary key, body text)")
        connection.execute(
            "insert into kept (body) select repeat('x', 200) from generate_series(1, 5000)"
        )
    dump = run_program(tool("pg_dump"), "-n", schema, environment=environment).stdout
    with psycopg.connect(proxies.dsn(), options=options(schema)) as connection:
        connection.execute("drop table kept")
    dump = dump.replace(f"CREATE SCHEMA {schema};", "")
    restore = (tool("psql"), "-Xq", "-1", "-v", "ON_ERROR_STOP=1")
    run_program(*restore, environment=environment, stdin=dump)
    with psycopg.connect(proxies.dsn(), options=options(schema)) as connection:
        assert connection.execute("select count(*), sum(length(body)) from kept").fetchone() == (
            5000,
            1_000_000,
        )
        assert connection.execute("select nextval('kept_id_seq')").fetchone() == (5001,)


def wait_sleeping(proxies: Proxies, *, count: int) -> None:
    """Return once so many statements of SLEEP run: a request that comes sooner finds none."""
    asked = "select count(*) from pg_stat_activity where state = 'active' and query like %s"
    deadline_s = time.monotonic() + PROGRAM_TIMEOUT_S
    with psycopg.connect(proxies.dsn(), autocommit=True) as connection:
        while connection.execute(asked, [f"{SLEEP}%"]).fetchone() != (count,):
            assert time.monotonic() < deadline_s, "it does not sleep"
            time.sleep(0.02)


# -- pgbench -----------------------------------------------------------------------------------

CLIENTS, TRANSACTIONS = 4, 60


def test_pgbench_in_every_protocol(proxies: Proxies, schema: str, tool) -> None:
    environment = {**proxies.environment(), "PGOPTIONS": options(schema)}
    run_program(tool("pgbench"), "-i", "-q", "-s", "1", environment=environment)
    runs = [("-M", mode) for mode in ("simple", "extended", "prepared")]
    runs += [("-M", "prepared", "-S"), ("-M", "simple", "-C"), ("-M", "prepared", "-C", "-S")]
    load = ("-n", "-c", str(CLIENTS), "-j", "2", "-t", str(TRANSACTIONS))
    wrote = 0
    for run in runs:
        said = run_program(tool("pgbench"), *load, *run, environment=environment).stdout
        whole = CLIENTS * TRANSACTIONS
        assert f"actually processed: {whole}/{whole}" in said, (run, said)
        assert "number of failed transactions: 0 " in said, (run, said)
        wrote += 0 if "-S" in run else whole
    with psycopg.connect(proxies.dsn(), options=options(schema)) as connection:
        (history,) = connection.execute("select count(*), sum(delta) from pgbench_history")
        (balance,) = connection.execute("select sum(abalance) from pgbench_accounts")
    assert history == (wrote, balance[0])


# -- psycopg -----------------------------------------------------------------------------------


def test_psycopg(proxies: Proxies, schema: str) -> None:
    with psycopg.connect(proxies.dsn(), options=options(schema)) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("create table item (id int primary key, name text)")
        with connection.cursor().copy("copy item from stdin") as copy:
            for number in range(10_000):
                copy.write_row((number, f"item {number}"))
        connection.commit()
        for number in range(20):  # prepared by the server from the fifth on
            found = connection.execute("select name from item where id = %s", [number]).fetchone()
            assert found == (f"item {number}",)
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute("insert into item values (10001, 'new'), (1, 'twice')")
        with connection.transaction():
            connection.execute("insert into item values (10001, 'new')")
            with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
                connection.execute("select 1/0")
        connection.rollback()
        with connection.cursor().copy("copy (select * from item order by id) to stdout") as copy:
            rows = list(copy.rows())
        assert (len(rows), rows[-1]) == (10_000, ("9999", "item 9999"))
        many = f"select i, repeat('x', 50) from generate_series(1, {LARGE_ROWS}) i"
        assert sum(row[0] for row in connection.execute(many.encode())) == (
            LARGE_ROWS * (LARGE_ROWS + 1) // 2
        )
        with connection.cursor(name="by_pieces") as cursor:
            cursor.execute("select id from item order by id")
            assert [row[0] for row in cursor] == list(range(10_000))
        with connection.pipeline():
            cursors = [connection.execute("select %s::int", [i]) for i in range(50)]
        assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(50)]
        connection.execute("do $$ begin raise notice 'mind the gap'; end $$")
        assert notices == ["mind the gap"]


def test_psycopg_hears_notifications_of_another_node(proxies: Proxies) -> None:
    with (
        psycopg.connect(proxies.dsn(proxies.ports[0]), autocommit=True) as listening,
        psycopg.connect(proxies.dsn(proxies.ports[1]), autocommit=True) as telling,
    ):
        listening.execute("listen psycopg_news")
        for number in range(3):
            telling.execute("select pg_notify('psycopg_news', %s)", [str(number)])
        heard = listening.notifies(timeout=PROGRAM_TIMEOUT_S, stop_after=3)
        assert [notify.payload for notify in heard] == ["0", "1", "2"]


def test_psycopg_cancels_by_another_node(proxies: Proxies) -> None:
    with (
        balanced(proxies) as balancer,
        psycopg.connect(proxies.dsn(balancer.port), autocommit=True) as connection,
    ):
        for _ in range(len(proxies.ports)):  # by each of the nodes
            began_s = time.monotonic()
            canceller = threading.Thread(target=cancel_sleep, args=(proxies, connection))
            canceller.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(SLEEP)
            canceller.join()
            assert time.monotonic() - began_s < CANCEL_S
            assert connection.execute("select 1").fetchone() == (1,)
        assert set(balancer.taken) == set(proxies.ports)


def cancel_sleep(proxies: Proxies, connection: psycopg.Connection) -> None:
    wait_sleeping(proxies, count=1)
    connection.cancel_safe()


# -- asyncpg -----------------------------------------------------------------------------------


def test_asyncpg(proxies: Proxies, schema: str) -> None:
    asyncio.run(asyncpg_program(proxies, schema))


async def asyncpg_program(proxies: Proxies, schema: str) -> None:
    pool = await asyncpg.create_pool(
        proxies.dsn(),
        min_size=2,
        max_size=4,
        max_queries=50,
        max_inactive_connection_lifetime=0.2,
        server_settings={"search_path": schema},
    )
    async with pool:
        await pool.execute("create table item (id int primary key, name text, tags text[])")
        rows = [(i, f"item {i}", ["a", str(i)]) for i in range(10_000)]
        async with pool.acquire() as connection:
            await connection.copy_records_to_table("item", records=rows)
            async with connection.transaction():
                await connection.executemany(
                    "insert into item values ($1, $2, $3)", [(-i, "x", []) for i in range(1, 200)]
                )
            async with connection.transaction(isolation="serializable", readonly=True):
                found = [row["id"] async for row in connection.cursor("table item", prefetch=500)]
            assert len(found) == 10_199
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("insert into item values (1, 'twice')")
            many = f"select i, repeat('x', 50) from generate_series(1, {LARGE_ROWS}) i"
            assert len(await connection.fetch(many)) == LARGE_ROWS
        out = bytearray()

        async def take(piece: bytes) -> None:
            out.extend(piece)

        async with pool.acquire() as connection:
            await connection.copy_from_table("item", output=take, format="csv")
        assert out.count(b"\n") == 10_199

        async def ask(number: int) -> str:
            name = await pool.fetchval("select name from item where id = $1", number)
            return str(name)

        async def lend() -> int:
            return int(await pool.fetchval("select pg_backend_pid()"))

        names = await asyncio.gather(*(ask(i) for i in range(300)))
        assert names == [f"item {i}" for i in range(300)]
        await asyncio.sleep(0.5)  # longer than a connection may be unused
        assert await asyncio.gather(*(ask(i) for i in range(8))) == names[:8]
        assert len({await lend() for _ in range(8)}) <= 4
    await asyncpg_listens(proxies)


async def asyncpg_listens(proxies: Proxies) -> None:
    listening = await asyncpg.connect(proxies.dsn(proxies.ports[1]))
    telling = await asyncpg.connect(proxies.dsn(proxies.ports[2]))
    heard: asyncio.Queue[object] = asyncio.Queue()
    await listening.add_listener("asyncpg_news", lambda *news: heard.put_nowait(news[-1]))
    await telling.execute("notify asyncpg_news, 'hello'")
    assert await asyncio.wait_for(heard.get(), PROGRAM_TIMEOUT_S) == "hello"
    await listening.close()
    await telling.close()


def test_asyncpg_timeout_cancels_by_another_node(proxies: Proxies) -> None:
    asyncio.run(asyncpg_cancels(proxies))


async def asyncpg_cancels(proxies: Proxies) -> None:
    with balanced(proxies) as balancer:
        connection = await asyncpg.connect(proxies.dsn(balancer.port))
        for _ in range(len(proxies.ports)):
            began_s = time.monotonic()
            with pytest.raises(TimeoutError):
                await connection.execute(SLEEP, timeout=0.3)
            assert await connection.fetchval("select 1") == 1
            assert time.monotonic() - began_s < CANCEL_S
        await connection.close()
        assert set(balancer.taken) == set(proxies.ports)


# -- object mappers ----------------------------------------------------------------------------


def test_sqlalchemy(proxies: Proxies, schema: str) -> None:
    environment = {"URL": proxies.dsn(scheme="postgresql+psycopg"), "SCHEMA": schema}
    assert run_python("sqlalchemy_program.py", environment).endswith("all done\n")


def test_sqlalchemy_with_asyncio(proxies: Proxies, schema: str) -> None:
    environment = {"URL": proxies.dsn(scheme="postgresql+asyncpg"), "SCHEMA": schema}
    assert run_python("sqlalchemy_async_program.py", environment).endswith("all done\n")


@pytest.mark.parametrize("max_age_s", [0, 600])
def test_django(proxies: Proxies, schema: str, max_age_s: int) -> None:
    environment = {**proxies.environment(), "SCHEMA": schema, "MAX_AGE_S": str(max_age_s)}
    assert run_python("django_program.py", environment).endswith("all done\n")


def test_closing_a_client_ends_its_session_for_others(proxies: Proxies) -> None:
    """What a client leaves behind does not reach the next one: its settings, locks and tables."""
    with closing(psycopg.connect(proxies.dsn(), autocommit=True)) as first:
        first.execute("set statement_timeout = '77s'")
        first.execute("create temp table leftover (id int)")
        first.execute("select pg_advisory_lock(4711)")
    with psycopg.connect(proxies.dsn(), autocommit=True) as second:
        assert second.execute("show statement_timeout").fetchone() != ("77s",)
        assert second.execute("select to_regclass('pg_temp.leftover')").fetchone() == (None,)
        deadline_s = time.monotonic() + PROGRAM_TIMEOUT_S
        while second.execute("select pg_try_advisory_lock(4711)").fetchone() != (True,):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
