"""Real clients and real servers, with TLS on one hop or both.

psycopg may have been built with libpq 17 or later, which begins with TLS if it is told to, and
encrypts its requests to cancel. It may be older as well, so Python's own TLS plays such a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
import trio
from proxy_kit import FakeServer, Proxy, eventually, free_port, proxy_running
from test_credentials import FakeAgent, welcome
from test_proxy_moving_real import PORT, TIMEOUT_S, Source, twin
from tls_kit import Papers, as_client, key_of, on_tls

from integration.login_kit import PASSWORD, RealServer, real_server
from metako.model.sslmode import SslMode
from metako.pgwire import startup as pg
from metako.proxy.credentials import Credentials
from metako.proxy.tlsoptions import NO_TLS, TlsOptions

pytestmark = [pytest.mark.integration, pytest.mark.slow]

USES_TLS = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
BIG = "select repeat('x', 1000) || i from generate_series(1, 20000) i"
ROWS = 20_000
NEW_LIBPQ = pytest.mark.skipif(
    psycopg.pq.version() < 170000, reason="libpq encrypts requests to cancel since version 17"
)
HOPS = ("clear", "client", "server", "both")


@pytest.fixture(scope="module")
def new(test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with real_server(test_bindir, free_port(), keep=keep_directories) as running:
        if not running.has_tls:
            pytest.skip("this build of PostgreSQL does no TLS")
        yield running


@pytest.fixture(scope="module")
def old(new: RealServer, test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with twin(new, test_bindir, keep=keep_directories) as running:
        yield running


def options(papers: Papers, hops: str) -> TlsOptions:
    mode = SslMode.REQUIRE if hops in ("server", "both") else SslMode.DISABLE
    if hops in ("client", "both"):
        return papers.offered(server_mode=mode)
    return papers.towards(mode) if hops == "server" else NO_TLS


@contextlib.asynccontextmanager
async def led_to(tmp_path, server: RealServer, tls: TlsOptions, first: RealServer | None = None):
    source = Source(server)
    async with proxy_running(tmp_path, queue_timeout_s=10, credentials=source, tls=tls) as proxy:
        proxy.route(1, FakeServer("first", port=(first or server).port))
        with trio.fail_after(TIMEOUT_S):
            yield proxy


def sslmode(papers: Papers, hops: str, **more: str) -> dict[str, str]:
    if hops not in ("client", "both"):
        return {"sslmode": "disable", **more}
    return {"sslmode": "verify-full", "sslrootcert": str(papers.authority.path), **more}


def by_psycopg(proxy: Proxy, role: str, **how: str) -> psycopg.Connection:
    where = {"host": "127.0.0.1", "port": proxy.port, "user": role, "dbname": "postgres"}
    return psycopg.connect(**where, password=PASSWORD, autocommit=True, **how)


async def by_psql(
    proxy: Proxy | int, server: RealServer, sql: str, *, role: str = "anna", **how: str
) -> str:
    port = proxy if isinstance(proxy, int) else proxy.port
    words = {"host": "127.0.0.1", "port": str(port), "user": role, "dbname": "postgres"}
    where = " ".join(f"{key}={value}" for key, value in {**words, **how}.items())
    done = await trio.run_process(
        [server.psql, "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, where],
        env={"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "LC_ALL": "C"},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return (done.stdout + done.stderr).decode().strip()


@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize("role", ["anna", "olga", "tina", "clara"])
async def test_psql_gets_what_it_asks_for(tmp_path, new, papers, hops, role) -> None:
    async with led_to(tmp_path, new, options(papers, hops)) as proxy:
        how = sslmode(papers, hops)
        found = await by_psql(proxy, new, USES_TLS, role=role, **how)
        assert found == ("t" if hops in ("server", "both") else "f")


async def test_psql_binds_its_login_and_verifies_us(tmp_path, new, papers) -> None:
    tls = papers.offered(server_mode=SslMode.VERIFY_FULL, server_ca_file=new.certificate)
    async with led_to(tmp_path, new, tls) as proxy:
        how = sslmode(papers, "both", channel_binding="require")
        assert await by_psql(proxy, new, USES_TLS, **how) == "t"
        stranger = {**how, "sslrootcert": str(papers.stranger.path)}
        assert "certificate verify failed" in await by_psql(proxy, new, "select 1", **stranger)
        assert await by_psql(proxy, new, "select 1", sslmode="disable") == "1"


async def test_psql_is_refused_without_tls_where_that_is_required(tmp_path, new, papers) -> None:
    async with led_to(tmp_path, new, papers.offered(required=True)) as proxy:
        found = await by_psql(proxy, new, "select 1", sslmode="disable")
        assert "FATAL:  this proxy serves clients with TLS only" in found
        assert await by_psql(proxy, new, "select 1", sslmode="require") == "1"


@pytest.mark.parametrize("mode", [SslMode.PREFER, SslMode.REQUIRE])
async def test_a_login_that_is_passed_on_goes_on_tls_if_it_can(tmp_path, new, papers, mode) -> None:
    async def unknown(_asking):
        return None

    async with led_to(tmp_path, new, papers.offered(server_mode=mode)) as proxy:
        source = Source(new)
        source.credential = unknown  # type: ignore[method-assign]
        (tmp_path / "other").mkdir()
        running = proxy_running(
            tmp_path / "other", credentials=source, tls=papers.offered(server_mode=mode)
        )
        async with running as other:
            other.route(1, FakeServer("first", port=new.port))
            assert await by_psql(other, new, USES_TLS, sslmode="disable") == "t"
            found = await by_psql(other, new, USES_TLS, sslmode="require")
            if mode is SslMode.PREFER:
                assert found == "f"
            else:
                assert "channel binding negotiation error" in found
            unbound = {"sslmode": "require", "channel_binding": "disable"}
            wanted = "f" if mode is SslMode.PREFER else "t"
            assert await by_psql(other, new, USES_TLS, **unbound) == wanted
        assert await by_psql(proxy, new, "select 1", sslmode="require") == "1"


ASK_FOR_CERTIFICATES = (
    "hostssl all tina 127.0.0.1/32 cert",
    "hostssl all anna 127.0.0.1/32 scram-sha-256 clientcert=verify-full",
    "hostssl all olga 127.0.0.1/32 trust clientcert=verify-full",
    "hostssl all rita 127.0.0.1/32 reject clientcert=verify-ca",
)


async def test_certificates_are_refused_in_the_server_s_words(
    tmp_path, test_bindir, keep_directories, papers
) -> None:
    with real_server(test_bindir, free_port(), keep=keep_directories) as server:
        lines = ("local all postgres trust", *ASK_FOR_CERTIFICATES)
        (server.socket_dir / "data" / "pg_hba.conf").write_text("\n".join(lines) + "\n")
        authority = server.socket_dir / "authority.crt"
        authority.write_bytes(papers.authority.path.read_bytes())
        server.run(f"alter system set ssl_ca_file = '{authority}'")
        server.run("select pg_reload_conf()")
        stored = {role: server.stored(role) for role in ("anna", "olga", "rita", "tina")}
        source = Credentials(FakeAgent(welcome(*lines), stored))
        tls = papers.offered(client_ca_file=papers.authority.path)
        wrong = papers.authority.sign("somebody")
        async with proxy_running(tmp_path, credentials=source, tls=tls) as proxy:
            for role in stored:
                for own in (None, wrong):
                    how = {"sslmode": "require", "sslcert": "none"}
                    if own is not None:
                        how = {**how, "sslcert": str(own), "sslkey": str(key_of(own))}
                    said = [
                        (await by_psql(port, server, "select 1", role=role, **how))
                        .partition("FATAL:")[2]
                        .strip()
                        for port in (server.port, proxy.port)
                    ]
                    assert said[0] == said[1] != "", (role, own)


@pytest.mark.parametrize("hops", HOPS)
async def test_large_results_and_copies_pass_both_ways(tmp_path, new, papers, hops) -> None:
    async with led_to(tmp_path, new, options(papers, hops)) as proxy:

        def talk() -> None:
            with by_psycopg(proxy, "anna", **sslmode(papers, hops)) as connection:
                rows = connection.execute(BIG).fetchall()
                assert [len(row[0]) for row in rows] == [
                    1000 + len(str(i)) for i in range(1, ROWS + 1)
                ]
                connection.execute("create temp table t (line text)")
                with connection.cursor().copy("copy t from stdin") as copy:
                    for row in rows:
                        copy.write_row(row)
                count = connection.execute("select count(*), sum(length(line)) from t").fetchone()
                assert count == (ROWS, sum(len(row[0]) for row in rows))
                with connection.cursor().copy("copy t to stdout") as copy:
                    assert sum(map(len, copy)) == count[1] + ROWS

        await trio.to_thread.run_sync(talk)


@pytest.mark.parametrize("hops", HOPS)
async def test_an_idle_client_goes_on_at_another_server(tmp_path, old, new, papers, hops) -> None:
    async with led_to(tmp_path, new, options(papers, hops), old) as proxy:

        async def switch() -> None:
            proxy.route(2, FakeServer("then", port=new.port))
            await eventually(lambda: any(("term", 2) in event.fields for event in proxy.events))

        token = trio.lowlevel.current_trio_token()

        def talk() -> list[str]:
            how = sslmode(papers, hops)
            with by_psycopg(proxy, "anna", **how) as connection:
                connection.execute("set statement_timeout to '77s'")
                found = [connection.execute(PORT).fetchone()[0]]
                trio.from_thread.run(switch, trio_token=token)
                for sql in (PORT, "show statement_timeout", USES_TLS):
                    found.append(connection.execute(sql).fetchone()[0])
                return found

        on_tls = hops in ("server", "both")
        found = await trio.to_thread.run_sync(talk)
        assert found == [str(old.port), str(new.port), "77s", on_tls]


@pytest.mark.parametrize("hops", HOPS)
async def test_asyncpg_gets_what_it_asks_for(tmp_path, new, papers, hops) -> None:
    context: ssl.SSLContext | bool = False
    if hops in ("client", "both"):
        context = ssl.create_default_context(cafile=str(papers.authority.path))
    async with led_to(tmp_path, new, options(papers, hops)) as proxy:

        async def talk() -> tuple[bool, int]:
            connection = await asyncpg.connect(
                host="127.0.0.1",
                port=proxy.port,
                user="anna",
                password=PASSWORD,
                database="postgres",
                ssl=context,
            )
            try:
                rows = await connection.fetch(BIG)
                return await connection.fetchval(USES_TLS), len(rows)
            finally:
                await connection.close()

        found = await trio.to_thread.run_sync(lambda: asyncio.run(talk()))
        assert found == (hops in ("server", "both"), ROWS)


@NEW_LIBPQ
async def test_a_statement_of_a_client_on_tls_is_cancelled(tmp_path, new, papers) -> None:
    async with led_to(tmp_path, new, options(papers, "both")) as proxy:

        def talk() -> str:
            with by_psycopg(proxy, "anna", **sslmode(papers, "both")) as connection:
                timer = threading.Timer(0.3, connection.cancel_safe)
                timer.start()
                with pytest.raises(psycopg.errors.QueryCanceled) as canceled:
                    connection.execute("select pg_sleep(20)")
                timer.join()
                return str(canceled.value.sqlstate)

        assert await trio.to_thread.run_sync(talk) == "57014"
        assert proxy.reports[-1].stats.malformed == 0


@NEW_LIBPQ
async def test_libpq_begins_with_tls_and_gets_what_it_asks_for(tmp_path, new, papers) -> None:
    async with led_to(tmp_path, new, options(papers, "both")) as proxy:

        def talk() -> bool:
            how = sslmode(papers, "both", sslnegotiation="direct", channel_binding="require")
            with by_psycopg(proxy, "anna", **how) as connection:
                return bool(connection.execute(USES_TLS).fetchone()[0])

        assert await trio.to_thread.run_sync(talk)


async def test_tls_without_a_request_reaches_the_server(tmp_path, new, papers) -> None:
    async with led_to(tmp_path, new, options(papers, "both")) as proxy:
        client = await on_tls(proxy, as_client(papers), direct=True)
        await client.send(pg.startup_packet({"user": "tina", "database": "postgres"}))
        await client.until_ready()
        sql = f"{PORT}".encode()
        await client.send(b"Q" + (len(sql) + 5).to_bytes(4, "big") + sql + b"\0")
        rows = [body for kind, body in await client.until_ready() if kind == b"D"]
        assert rows[0].endswith(str(new.port).encode())
