"""The writer's client against a real server: passwords, and the commit that was not waited for."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from metako.demo.client import ClientError, PgClient, ServerError
from metako.demo.layout import APP_USER, HOST, is_port_free
from metako.demo.prepare import ensure_os_user
from metako.postgres.install import find_installation
from metako.postgres.osuser import make_dir, resolve_os_user

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PASSWORD = "correct horse"
START_TIMEOUT_S = 30.0


def free_port() -> int:
    for _ in range(50):
        port = 20_000 + secrets.randbelow(10_000)
        if is_port_free(port):
            return port
    raise AssertionError("no free port")


@pytest.fixture
def server(short_directory: Path, test_bindir: str | None) -> Iterator[int]:
    """The port of a server that lets `app` in by SCRAM only."""
    user = resolve_os_user(ensure_os_user(print))
    installation = find_installation(test_bindir, user, short_directory / "cache")
    data = short_directory / "pg" / "data"
    make_dir(data, user)
    identity = (
        {"user": user.uid, "group": user.gid, "extra_groups": list(user.groups)}
        if user.switch
        else {}
    )
    password_file = short_directory / "password"
    password_file.write_text(PASSWORD)
    password_file.chmod(0o644)
    subprocess.run(
        [
            installation.program("initdb"),
            *("-D", data, "-U", APP_USER, "-A", "scram-sha-256", f"--pwfile={password_file}"),
            *("--no-sync", "--no-locale", "-E", "UTF8"),
        ],
        check=True,
        capture_output=True,
        cwd="/",
        **identity,
    )
    port = free_port()
    settings = [f"port={port}", f"listen_addresses={HOST}", "fsync=off"]
    settings += ["unix_socket_directories=", "synchronous_standby_names=nobody"]
    process = subprocess.Popen(
        [installation.program("postgres"), "-D", data, *(f"-c{item}" for item in settings)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **identity,
    )
    yield port
    process.send_signal(signal.SIGQUIT)
    process.wait(timeout=10)


async def connect(port: int, password: str = PASSWORD) -> PgClient:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return await PgClient.connect(
                HOST, port, user=APP_USER, password=password, database="postgres", timeout_s=5
            )
        except (ClientError, ServerError) as error:
            refused = isinstance(error, ServerError) and error.sqlstate != "57P03"
            if refused or time.monotonic() > deadline_s:
                raise
            await trio.sleep(0.05)


async def test_login_by_scram_and_typed_answers(server):
    with await connect(server) as client:
        result = await client.query("select 1, null, 'ä' || repeat('x', 100000)", timeout_s=5)
        assert result.rows == [("1", None, "ä" + "x" * 100_000)]
        with pytest.raises(ServerError) as caught:
            await client.query("select * from nowhere", timeout_s=5)
        assert (caught.value.severity, caught.value.sqlstate) == ("ERROR", "42P01")
        assert (await client.query("select 2", timeout_s=5)).rows == [("2",)]


async def test_wrong_password_is_refused_by_the_server(server):
    with pytest.raises(ServerError) as caught:
        await connect(server, "wrong")
    assert caught.value.sqlstate == "28P01"


async def test_commit_whose_wait_for_standbys_is_cancelled_comes_with_a_warning(server):
    with await connect(server) as client, await connect(server) as other:
        await client.query("set synchronous_commit = local; create table t (id int)", timeout_s=5)
        await client.query("reset synchronous_commit", timeout_s=5)
        pid = (await client.query("select pg_backend_pid()", timeout_s=5)).rows[0][0]

        async def cancel_while_it_waits() -> None:
            sql = (
                f"select pg_cancel_backend(pid) from pg_stat_activity where pid = {pid}"
                " and wait_event = 'SyncRep'"
            )
            while not (await other.query(sql, timeout_s=5)).rows:  # noqa: ASYNC110 - polls
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_while_it_waits)
            result = await client.query("insert into t values (1)", timeout_s=10)
        assert result.tag == "INSERT 0 1"
        assert any("synchronous replication" in warning for warning in result.warnings)


async def test_killed_server_leaves_the_statement_unknown(server):
    client = await connect(server)
    (row,) = (await client.query("select pg_backend_pid()", timeout_s=5)).rows
    assert row[0] is not None
    os.kill(int(row[0]), signal.SIGKILL)
    with pytest.raises(ClientError):
        await client.query("select 1", timeout_s=5)
    assert client.closed
