"""What real servers say that a role may log in with: primary and standby, old roles and new."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trio
from login_kit import RealServer, real_server
from supervisor_kit import free_port

from metako.demo.prepare import ensure_os_user
from metako.model.rolelogin import RoleLogin
from metako.postgres import sql, verifiers
from metako.postgres.rolelogin import (
    BY_CATALOG,
    BY_FUNCTION,
    ForeignSchemaError,
    FunctionState,
    ensure_function,
    look_function,
)
from metako.postgres.verifiers import VerifierReader

pytestmark = pytest.mark.integration

TIMEOUT_S = 30.0
LATER = "2100-01-01"
ROLES = f"""
create role plain login password 'x';
create role hashed login;
create role nologin password 'x';
create role expired login password 'x' valid until '2001-01-01';
create role valid login password 'x' valid until '{LATER}';
create role forever login password 'x' valid until 'infinity';
create role never login password 'x' valid until '-infinity';
create role bare login;
create role "Ödön ""x"" y" login password 'x';
set password_encryption = md5; alter role hashed password 'x';
"""
USABLE = ("plain", "hashed", "valid", "forever", 'Ödön "x" y')
UNUSABLE = ("nologin", "expired", "never", "bare")


@pytest.fixture(scope="module")
def server(test_bindir: str | None, keep_directories: bool) -> Iterator[RealServer]:
    with real_server(test_bindir, free_port(), keep=keep_directories) as running:
        running.run(ROLES)
        yield running


@dataclass
class Standby:
    """A standby of a server; only its Unix socket takes connections."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(TIMEOUT_S)


@contextmanager
def standby_of(server: RealServer) -> Iterator[Standby]:
    """Run a standby of `server` in a directory below the server's own."""
    user = ensure_os_user(print)
    hba = server.socket_dir / "data" / "pg_hba.conf"
    text = hba.read_text()
    if "replication" not in text:
        hba.write_text("local replication postgres trust\n" + text)
        server.run("select pg_reload_conf()")
    directory = server.socket_dir / "standby"
    directory.mkdir()
    if user:
        shutil.chown(directory, user)
    bindir = server.psql.parent
    where = ["-h", str(server.socket_dir), "-p", str(server.port), "-U", "postgres"]
    copy: list[str | Path] = [
        bindir / "pg_basebackup",
        *where,
        "-D",
        directory / "data",
        "-R",
        "-c",
        "fast",
    ]
    subprocess.run(copy, user=user, check=True, capture_output=True)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}"]
    options += ["-c", f"port={server.port}", "-c", "shared_buffers=16MB"]
    program = bindir / "postgres"
    with (directory / "log").open("wb") as log:
        command: list[str | Path] = [program, "-D", directory / "data", *options]
        process = subprocess.Popen(command, user=user, stderr=log)
    standby = Standby(directory, server.port, process)
    try:
        yield standby
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            standby.stop()
        shutil.rmtree(directory)


def as_role(server: RealServer, statement: str, role: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.superuser, autocommit=True) as connection:
        connection.execute(f"set session authorization {role}".encode())
        return connection.execute(statement.encode()).fetchall()


async def session_of(socket_dir: Path, port: int) -> sql.Session:
    return await sql.connect(
        socket_dir=socket_dir, port=port, user="postgres", database="postgres", timeout_s=1.0
    )


@asynccontextmanager
async def reading(socket_dir: Path, port: int) -> AsyncIterator[VerifierReader]:
    reader = VerifierReader(lambda: session_of(socket_dir, port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await trio.testing.wait_all_tasks_blocked()
        yield reader
        nursery.cancel_scope.cancel()


async def make_function(server: RealServer) -> bool | None:
    """Return whether it was made; None if somebody else has the name."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[sql.Session]:
        session = await session_of(server.socket_dir, server.port)
        try:
            yield session
        finally:
            session.terminate()

    async with sql.open_sql_loop():
        try:
            return await ensure_function(opened, "postgres")
        except ForeignSchemaError:
            return None


@pytest.fixture(params=["by function", "by catalogue"])
async def asked_by(request: pytest.FixtureRequest, server: RealServer) -> str:
    server.run("drop schema if exists metako cascade")
    if request.param == "by function":
        assert await make_function(server)
    return str(request.param)


async def test_a_role_has_what_the_catalogue_has_if_it_may_be_used(
    server: RealServer, asked_by: str
) -> None:
    async with reading(server.socket_dir, server.port) as reader:
        for role in USABLE:
            stored = server.stored(role)
            assert stored
            assert await reader.read(role) == RoleLogin(True, stored)
        for role in UNUSABLE:
            assert await reader.read(role) == RoleLogin(True, None)
        for role in ("nobody", "PLAIN", "plain ", "' or true --", "Ödön"):
            assert await reader.read(role) == RoleLogin(False, None)
        for role in ("", "x" * 64, "a\0b", "\udc80"):
            assert await reader.read(role) is None
        used = server.run(
            "select query from pg_stat_activity where application_name = 'metako agent'"
        )
    expected = BY_FUNCTION if asked_by == "by function" else BY_CATALOG
    assert used == [(expected,)]


async def test_many_questions_share_one_connection(server: RealServer, asked_by: str) -> None:
    got: dict[str, RoleLogin | None] = {}
    async with reading(server.socket_dir, server.port) as reader:

        async def ask(role: str) -> None:
            got[role] = await reader.read(role)

        async with trio.open_nursery() as asking:
            for role in (*USABLE, *UNUSABLE, *(f"nobody{n}" for n in range(150))):
                asking.start_soon(ask, role)
        count = "select count(*) from pg_stat_activity where application_name = 'metako agent'"
        assert server.run(count) == [(1,)]
    assert [got[role] for role in USABLE] == [RoleLogin(True, server.stored(r)) for r in USABLE]
    assert sum(role == RoleLogin(False) for role in got.values()) == 150


async def test_the_function_is_made_once_and_again_when_it_is_of_another_version(
    server: RealServer,
) -> None:
    server.run("drop schema if exists metako cascade")
    assert await make_function(server)
    assert await make_function(server) is False
    server.run("comment on function metako.role_login(text) is 'older'")
    assert await make_function(server)
    found = server.run(
        "select prosecdef, proconfig, pg_get_userbyid(proowner) from pg_proc "
        "where proname = 'role_login'"
    )
    assert found == [(True, ["search_path=pg_catalog, pg_temp"], "postgres")]


async def test_nobody_but_superusers_may_call_it(server: RealServer) -> None:
    await make_function(server)
    call = "select * from metako.role_login('plain')"
    assert as_role(server, call, "postgres") == [(True, server.stored("plain"))]
    server.run("grant usage on schema metako to plain")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function role_login"):
        as_role(server, call, "plain")
    server.run("grant execute on function metako.role_login(text) to plain")
    assert as_role(server, call, "plain") == [(True, server.stored("plain"))]  # an operator's wish
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_role(server, "create table metako.x()", "plain")


EVIL = """
create schema evil;
create function evil.yes(name, name) returns bool language sql as 'select true';
create function evil.yes(timestamptz, timestamptz) returns bool language sql as 'select true';
create function evil.yes(bigint, int) returns bool language sql as 'select true';
create operator evil.= (leftarg = name, rightarg = name, function = evil.yes);
create operator evil.>= (leftarg = timestamptz, rightarg = timestamptz, function = evil.yes);
create operator evil.> (leftarg = bigint, rightarg = int, function = evil.yes);
create function evil.now() returns timestamptz language sql as $$select '2000-01-01'::timestamptz$$;
create function evil.unnest(text[]) returns setof text language sql as $$select 'plain'$$;
create table evil.pg_authid as select rolname, true as rolcanlogin, null::timestamptz as
  rolvaliduntil, 'evil' as rolpassword from pg_catalog.pg_authid;
create domain evil.name as text;
"""


async def test_names_of_other_schemas_do_not_get_into_it(server: RealServer) -> None:
    await make_function(server)
    server.run("drop schema if exists evil cascade;" + EVIL)
    with psycopg.connect(server.superuser, autocommit=True) as connection:
        connection.execute("create temp table pg_authid as select * from evil.pg_authid")
        for path in ("evil, pg_catalog", "pg_temp, evil, pg_catalog"):
            connection.execute(f"set search_path = {path}".encode())
            # The trap is a real one: what is not qualified falls into it.
            naive = "select rolpassword from pg_authid where rolname = 'x'::pg_catalog.name"
            assert ("evil",) in connection.execute(naive.encode()).fetchall()
            for role in ("plain", "expired", "nobody"):
                call = f"select * from metako.role_login('{role}'::pg_catalog.text)"
                real = server.stored("plain") if role == "plain" else None
                assert connection.execute(call.encode()).fetchall() == [(role != "nobody", real)]
                asked = connection.execute(
                    BY_CATALOG.replace("$1", "%s").encode(), [[role]]
                ).fetchall()
                assert asked == [(role, role != "nobody", real)]
    server.run("drop schema evil cascade")


@pytest.mark.parametrize("whose", ["schema", "function"])
async def test_a_strangers_function_is_neither_called_nor_replaced(
    server: RealServer, whose: str
) -> None:
    server.run("drop schema if exists metako cascade; create schema metako")
    server.run(
        "create function metako.role_login(text, out found bool, out stored text) language plpgsql "
        "as $$ begin alter role plain superuser; found := true; stored := 'evil'; end $$"
    )
    server.run("grant create, usage on schema metako to plain")
    target = "schema metako" if whose == "schema" else "function metako.role_login(text)"
    server.run(f"alter {target} owner to plain")
    assert await make_function(server) is None
    async with reading(server.socket_dir, server.port) as reader:
        assert await reader.read("valid") == RoleLogin(True, server.stored("valid"))
    assert server.run("select rolsuper from pg_roles where rolname = 'plain'") == [(False,)]
    server.run("drop schema metako cascade")


@pytest.mark.slow
async def test_a_standby_answers_with_the_function_and_without(server: RealServer) -> None:
    server.run("drop schema if exists metako cascade")
    with standby_of(server) as standby:
        await wait_answer(standby)
        async with reading(standby.directory, standby.port) as reader:
            assert await reader.read("plain") == RoleLogin(True, server.stored("plain"))
            assert await reader.read("expired") == RoleLogin(True, None)
        await make_function(server)
        await wait_function(standby)
        async with reading(standby.directory, standby.port) as reader:
            assert await reader.read("hashed") == RoleLogin(True, server.stored("hashed"))
            assert await reader.read("nobody") == RoleLogin(False, None)
            # Dropped while it is in use: the catalogue is there.
            server.run("drop schema metako cascade")
            await wait_function(standby, FunctionState.MISSING)
            assert await reader.read("plain") == RoleLogin(True, server.stored("plain"))


@pytest.mark.slow
async def test_a_server_that_hangs_or_is_gone_tells_nothing_and_one_that_is_back_does(
    server: RealServer,
) -> None:
    with standby_of(server) as standby:
        await wait_answer(standby)
        async with reading(standby.directory, standby.port) as reader:
            assert await reader.read("plain") is not None
            pid = await agents_backend(standby)
            os.kill(pid, signal.SIGSTOP)
            begun = time.monotonic()
            assert await reader.read("plain") is None
            assert time.monotonic() - begun < verifiers.READ_TIMEOUT_S + 0.5
            # The connection that hung is not used again.
            assert await reader.read("plain") == RoleLogin(True, server.stored("plain"))
            os.kill(pid, signal.SIGCONT)
            standby.stop()
            begun = time.monotonic()
            assert await reader.read("plain") is None
            assert time.monotonic() - begun < verifiers.READ_TIMEOUT_S


async def test_a_reader_that_does_not_run_tells_nothing(server: RealServer) -> None:
    reader = VerifierReader(lambda: session_of(server.socket_dir, server.port))
    assert await reader.read("plain") is None


async def agents_backend(standby: Standby) -> int:
    async with sql.open_sql_loop():
        session = await session_of(standby.directory, standby.port)
        row = await session.row(
            "select pid from pg_stat_activity where application_name = 'metako agent' "
            "and pid <> pg_backend_pid()"
        )
        session.terminate()
    return int(str(row[0]))


async def wait_answer(standby: Standby) -> None:
    with trio.fail_after(TIMEOUT_S):
        while True:
            async with sql.open_sql_loop():
                try:
                    (await session_of(standby.directory, standby.port)).terminate()
                except sql.SqlError:
                    await trio.sleep(0.05)
                else:
                    return


async def wait_function(standby: Standby, state: FunctionState = FunctionState.OURS) -> None:
    with trio.fail_after(TIMEOUT_S):
        async with sql.open_sql_loop():
            session = await session_of(standby.directory, standby.port)
            while await look_function(session) is not state:  # noqa: ASYNC110 - another process
                await trio.sleep(0.02)
            session.terminate()
