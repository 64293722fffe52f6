"""Logins without a password at a real server, and real clients at a login of ours."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import socket
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
import trio
from login_kit import PASSWORD, LoginProxy, RealServer, connected, log_in, real_server
from login_scripts import SCRIPTS, said_by_ours, said_by_server

from metako.pgwire.keys import ClientKey, Md5Hash, ScramKeys
from metako.pgwire.login_client import LoginClient, Refusal, ServerReady, ServerRefused
from metako.pgwire.messages import query
from metako.pgwire.reader import MessageReader
from metako.pgwire.startup import cancel_packet, parse_error_untrusted
from metako.pgwire.verifier import parse_verifier

pytestmark = pytest.mark.integration

TIMEOUT_S = 20.0
TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@pytest.fixture(scope="module")
def server(test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with real_server(test_bindir, port, keep=keep_directories) as running:
        yield running


@pytest.fixture(autouse=True)
def _skip_tls_where_there_is_none(request: pytest.FixtureRequest, server: RealServer) -> None:
    asked = getattr(request.node, "callspec", None)
    if asked is not None and asked.params.get("tls") and not server.has_tls:
        pytest.skip("this PostgreSQL was built without TLS")


def keys_of(server: RealServer, role: str, password: str = PASSWORD) -> ScramKeys:
    """Return the keys that the role's stored verifier belongs to, as its client would make them."""
    verifier = parse_verifier(server.stored(role))
    assert verifier is not None
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), verifier.salt, verifier.iterations)
    return ScramKeys(ClientKey(hmac.digest(salted, b"Client Key", "sha256")), verifier.server_key)


def md5_of(server: RealServer, role: str) -> Md5Hash:
    found = Md5Hash.parse(server.stored(role) or "")
    assert found is not None
    return found


async def attempt(
    server: RealServer,
    role: str,
    keys: ScramKeys | Md5Hash | None,
    *,
    tls: bool,
    database: str = "postgres",
    minor: int = 0,
    other_binding: bytes | None = None,
) -> ServerReady | ServerRefused:
    """Log in as `role`, ask the server who we are if it lets us in, and leave."""
    with trio.fail_after(TIMEOUT_S):
        async with connected(server.port, tls=tls) as (stream, binding):
            client = LoginClient(
                {"user": role, "database": database},
                keys,
                nonce=os.urandom(18),
                binding=other_binding or binding,
                minor=minor,
            )
            outcome = await log_in(stream, client)
            if isinstance(outcome, ServerReady):
                await stream.send_all(query(b"select current_user"))
                reader = MessageReader(body_bytes_max=1000)
                reader.receive(client.take_rest())
                bodies = {}
                while b"Z" not in bodies:
                    while (message := reader.next_untrusted()) is not None:
                        bodies[message.kind] = message.body
                    if b"Z" not in bodies:
                        reader.receive(await stream.receive_some(1000))
                assert bodies[b"D"].endswith(role.encode())
            return outcome


# -- we log in to the server ------------------------------------------------------------------


@TLS
async def test_a_client_key_logs_in_by_scram(server: RealServer, tls: bool) -> None:
    outcome = await attempt(server, "anna", keys_of(server, "anna"), tls=tls)
    assert isinstance(outcome, ServerReady)
    assert outcome.parameters["session_authorization"] == "anna"
    assert outcome.process_id > 0
    assert (len(outcome.secret_key), outcome.minor, outcome.notices) == (4, 0, ())


@pytest.mark.parametrize("tls", [True], ids=["tls"])
async def test_the_login_is_bound_to_the_certificate(server: RealServer, tls: bool) -> None:
    outcome = await attempt(
        server, "anna", keys_of(server, "anna"), tls=tls, other_binding=b"of somebody between"
    )
    assert isinstance(outcome, ServerRefused)
    assert (outcome.sqlstate, outcome.fields["M"]) == (
        "28000",
        "SCRAM channel binding check failed",
    )


async def test_a_server_without_tls_believes_that_we_could_have_bound(server: RealServer) -> None:
    outcome = await attempt(
        server, "anna", keys_of(server, "anna"), tls=False, other_binding=b"of nothing"
    )
    assert isinstance(outcome, ServerReady)


@TLS
async def test_a_stored_hash_logs_in_by_md5(server: RealServer, tls: bool) -> None:
    outcome = await attempt(server, "olga", md5_of(server, "olga"), tls=tls)
    assert isinstance(outcome, ServerReady)


@TLS
async def test_trust_needs_nothing(server: RealServer, tls: bool) -> None:
    assert isinstance(await attempt(server, "tina", None, tls=tls), ServerReady)


async def test_a_server_of_today_is_asked_for_more_than_it_knows(server: RealServer) -> None:
    outcome = await attempt(server, "tina", None, tls=False, minor=2)
    major = int(str(server.run("show server_version_num")[0][0])) // 10_000
    assert isinstance(outcome, ServerReady)
    assert outcome.minor == (2 if major >= 18 else 0)
    assert (len(outcome.secret_key) == 4) == (outcome.minor == 0)


async def test_refusals_of_a_real_server_are_told_apart(server: RealServer) -> None:
    stale = keys_of(server, "anna", "an older password")
    server.run("create role limited login connection limit 0")
    server.run("grant connect on database postgres to limited")
    server.run(f"alter role limited password '{PASSWORD}'")
    for role, keys, database, reason, sqlstate in (
        ("anna", stale, "postgres", Refusal.KEY_REFUSED, "28P01"),
        ("nobody", stale, "postgres", Refusal.KEY_REFUSED, "28P01"),
        ("clara", stale, "postgres", Refusal.UNANSWERABLE, "28000"),
        ("olga", stale, "postgres", Refusal.UNANSWERABLE, "28000"),
        ("anna", None, "postgres", Refusal.UNANSWERABLE, "28000"),
        ("rita", stale, "postgres", Refusal.OTHER, "28000"),
        ("tina", None, "no such", Refusal.OTHER, "3D000"),
        ("limited", keys_of(server, "limited"), "postgres", Refusal.FULL, "53300"),
    ):
        outcome = await attempt(server, role, keys, tls=False, database=database)
        assert isinstance(outcome, ServerRefused), role
        assert (outcome.reason, outcome.sqlstate) == (reason, sqlstate), (role, outcome)


async def test_the_key_of_a_session_cancels_its_statement(server: RealServer) -> None:
    with trio.fail_after(TIMEOUT_S):
        async with connected(server.port, tls=False) as (stream, _):
            client = LoginClient({"user": "tina", "database": "postgres"}, None, nonce=bytes(18))
            ready = await log_in(stream, client)
            assert isinstance(ready, ServerReady)
            await stream.send_all(query(b"select pg_sleep(60)"))
            reader = MessageReader(body_bytes_max=1000)
            while (message := reader.next_untrusted()) is None or message.kind != b"E":
                with trio.move_on_after(0.2):  # the statement may have yet to begin
                    reader.receive(await stream.receive_some(1000))
                    continue
                async with connected(server.port, tls=False) as (other, _):
                    await other.send_all(cancel_packet(ready.process_id, ready.secret_key))
                    await other.receive_some(1)
            assert parse_error_untrusted(message.body)["C"] == "57014"


# -- real clients log in to us, and we to the server ------------------------------------------


async def ask_by_psycopg(port: int, role: str, **options: str) -> object:
    def ask() -> object:
        with psycopg.connect(
            host="127.0.0.1",
            port=port,
            user=role,
            dbname="postgres",
            **{"password": PASSWORD, "connect_timeout": "10", **options},
        ) as connection:
            return connection.execute("select current_user").fetchone()

    return await trio.to_thread.run_sync(ask)


@TLS
@pytest.mark.parametrize("role", ["anna", "olga", "tina"])
async def test_libpq_logs_in_through_a_proxy_that_knows_no_password(
    server: RealServer, role: str, tls: bool
) -> None:
    async with LoginProxy(server, upstream_tls=tls).serving() as proxy:
        mode = "require" if tls else "disable"
        assert await ask_by_psycopg(proxy.port, role, sslmode=mode) == (role,)
        assert [binding is not None for binding in proxy.bindings] == [tls]


@pytest.mark.parametrize("tls", [True], ids=["tls"])
async def test_libpq_may_insist_on_channel_binding(server: RealServer, tls: bool) -> None:
    async with LoginProxy(server, upstream_tls=tls).serving() as proxy:
        options = {"sslmode": "require", "channel_binding": "require"}
        assert await ask_by_psycopg(proxy.port, "anna", **options) == ("anna",)


@pytest.mark.skipif(psycopg.pq.version() < 170_000, reason="libpq 17 began with direct TLS")
async def test_libpq_may_begin_with_tls_at_once(server: RealServer) -> None:
    async with LoginProxy(server, upstream_tls=False).serving() as proxy:
        options = {"sslmode": "require", "sslnegotiation": "direct"}
        assert await ask_by_psycopg(proxy.port, "anna", **options) == ("anna",)


@pytest.mark.skipif(psycopg.pq.version() < 180_000, reason="libpq 18 began with protocol 3.2")
@pytest.mark.parametrize(("asked", "spoken"), [("3.0", 0), ("3.2", 2)])
async def test_libpq_speaks_the_protocol_that_it_asks_for(
    server: RealServer, asked: str, spoken: int
) -> None:
    async with LoginProxy(server, upstream_tls=False).serving() as proxy:
        assert await ask_by_psycopg(proxy.port, "anna", max_protocol_version=asked) == ("anna",)
        assert proxy.minors == [spoken]


@pytest.mark.parametrize("role", ["anna", "olga", "nobody"])
async def test_libpq_is_refused_in_postgresql_s_words(server: RealServer, role: str) -> None:
    async with LoginProxy(server, upstream_tls=False).serving() as proxy:
        with pytest.raises(
            psycopg.OperationalError, match="password authentication failed"
        ) as ours:
            await ask_by_psycopg(proxy.port, role, password="wrong", sslmode="disable")
        with pytest.raises(psycopg.OperationalError) as theirs:
            await ask_by_psycopg(server.port, role, password="wrong", sslmode="disable")
        assert str(ours.value).replace(str(proxy.port), "") == str(theirs.value).replace(
            str(server.port), ""
        )


@TLS
async def test_asyncpg_logs_in_through_a_proxy_that_knows_no_password(
    server: RealServer, tls: bool
) -> None:
    async def ask(port: int) -> object:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=port,
            user="anna",
            password=PASSWORD,
            database="postgres",
            ssl="require" if tls else False,
        )
        try:
            return await connection.fetchval("select current_user")
        finally:
            await connection.close()

    async with LoginProxy(server, upstream_tls=tls).serving() as proxy:
        found = await trio.to_thread.run_sync(lambda: asyncio.run(ask(proxy.port)))
        assert found == "anna"


@TLS
async def test_psql_logs_in_through_a_proxy_that_knows_no_password(
    server: RealServer, tls: bool
) -> None:
    mode = "require" if tls else "disable"
    async with LoginProxy(server, upstream_tls=tls).serving() as proxy:
        where = f"host=127.0.0.1 port={proxy.port} user=anna dbname=postgres sslmode={mode}"
        with trio.fail_after(TIMEOUT_S):
            result = await trio.run_process(
                [server.psql, "-AtX", "-c", "select current_user", where],
                env={"PGPASSWORD": PASSWORD, "PATH": os.environ.get("PATH", "")},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert (result.stdout, result.stderr) == (b"anna\n", b"")


@TLS
async def test_strange_clients_are_refused_as_a_real_server_does(
    server: RealServer, tls: bool
) -> None:
    for script in SCRIPTS:
        with trio.fail_after(TIMEOUT_S):
            theirs = await said_by_server(server, script, tls=tls)
        ours = said_by_ours(server, script, tls=tls)
        # What else a server says is where in its source it said so.
        assert ours == {key: theirs[key] for key in ours}, script
        assert theirs.keys() - ours.keys() <= set("FLR"), script
