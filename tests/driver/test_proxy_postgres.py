"""psql through the proxy to a real server."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import trio
from proxy_kit import FakeServer, eventually, free_port, proxy_running

BIN = Path("/usr/lib/postgresql/15/bin")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not BIN.exists(), reason="PostgreSQL 15 is not installed"),
]

TOOL_S = 60.0


class Server:
    """A PostgreSQL server on the loopback that trusts everybody."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.port = free_port()
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None

    def tool(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [BIN / program, "-D", self.data, *arguments],
            user=self._user,
            cwd="/",
            timeout=TOOL_S,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = str(self.data / "log")
        # A backend that waits does not look at its connection by default, so a statement would
        # go on after its client has gone, through a proxy or not.
        options += " -c fsync=off -c client_connection_check_interval=50ms"
        self.tool("pg_ctl", "start", "-w", "-l", log, "-o", options)

    def stop(self, mode: str, *options: str) -> None:
        self.tool("pg_ctl", "stop", "-m", mode, *options)

    def target(self):
        return FakeServer("db1", port=self.port).target()


@pytest.fixture(scope="module")
def server():
    directory = Path(tempfile.mkdtemp(prefix="metako-proxy-"))
    try:
        if os.geteuid() == 0:
            directory.chmod(0o755)
            entry = pwd.getpwnam("postgres")
            os.chown(directory, entry.pw_uid, entry.pw_gid)
        found = Server(directory)
        found.tool("initdb", "-A", "trust", "-U", "app", "--no-sync")
        found.start()
        yield found
        found.stop("immediate")
    finally:
        shutil.rmtree(directory)


def environment(proxy) -> dict[str, str]:
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(proxy.port),
        "PGUSER": "app",
        "PGDATABASE": "postgres",
        "PGAPPNAME": "through the proxy",
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
    }


async def psql(proxy, *statements: str) -> str:
    """Return what psql prints. Raises `CalledProcessError` with its complaint."""
    arguments = [part for statement in statements for part in ("-c", statement)]
    with trio.fail_after(TOOL_S):
        done = await trio.run_process(
            [BIN / "psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", *arguments],
            env=environment(proxy),
            capture_stdout=True,
            capture_stderr=True,
        )
    return done.stdout.decode().strip()


@contextlib.asynccontextmanager
async def psql_running(proxy, sql: str):
    """Give a psql that was just started; it is killed at the end if it still runs."""
    process = await trio.lowlevel.open_process(
        [BIN / "psql", "-X", "-At", "-c", sql],
        env=environment(proxy),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await trio.aclose_forcefully(process.stderr)


async def finished(process: trio.Process) -> tuple[int, str]:
    """Return exit code and complaint."""
    with trio.fail_after(TOOL_S):
        code = await process.wait()
        return code, bytes(await process.stderr.receive_some()).decode()


async def running(proxy, marker: str) -> bool:
    """Return whether a statement that contains `marker` runs on the server."""
    # The marker is split so that this statement is not taken for the one it looks for.
    sql = (
        f"select count(*) from pg_stat_activity where query like '%{marker[:2]}' || '{marker[2:]}%'"
    )
    return await psql(proxy, sql) == "1"


async def wait_running(proxy, marker: str, wanted: bool) -> None:
    with trio.fail_after(TOOL_S):
        while await running(proxy, marker) != wanted:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(0.02)


async def test_psql_works_through_the_proxy(server, tmp_path) -> None:
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        assert await psql(proxy, "show application_name") == "through the proxy"
        await psql(proxy, "create table t as select generate_series(1, 100000) as n")
        rows = await psql(proxy, "select n, repeat('x', 200) from t")
        assert len(rows.splitlines()) == 100_000
        answers = await psql(proxy, "begin", "delete from t", "rollback", "select count(*) from t")
        assert answers.splitlines() == ["BEGIN", "DELETE 100000", "ROLLBACK", "100000"]


async def test_errors_of_the_login_reach_psql(server, tmp_path) -> None:
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        with pytest.raises(subprocess.CalledProcessError) as raised:
            await trio.run_process(
                [BIN / "psql", "-X", "-d", "nowhere", "-c", "select 1"],
                env=environment(proxy),
                capture_stderr=True,
            )
        assert b'database "nowhere" does not exist' in raised.value.stderr


async def test_cancel_of_psql_reaches_the_statement(server, tmp_path) -> None:
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        async with psql_running(proxy, "select pg_sleep(300), 'c-marker'") as process:
            await wait_running(proxy, "c-marker", True)
            process.send_signal(signal.SIGINT)
            code, complaint = await finished(process)
        assert code == 1
        assert "canceling statement due to user request" in complaint


async def test_switch_ends_a_running_statement_on_both_sides(server, tmp_path) -> None:
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        async with psql_running(proxy, "select pg_sleep(300), 's-marker'") as process:
            await wait_running(proxy, "s-marker", True)
            proxy.route(2, server)
            begin = time.monotonic()
            code, complaint = await finished(process)
            assert time.monotonic() - begin < 0.5
        assert code == 2
        assert "terminating connection: the primary changed" in complaint
        await wait_running(proxy, "s-marker", False)


async def test_login_waits_out_a_restart_of_the_server(server, tmp_path) -> None:
    async with proxy_running(tmp_path, queue_timeout_s=30) as proxy:
        proxy.route(1, server)
        async with (
            psql_running(proxy, "select pg_sleep(300), 'w-marker'") as holding,
            contextlib.AsyncExitStack() as stack,
        ):
            await wait_running(proxy, "w-marker", True)
            # Until its last session ends the server says "the database system is shutting down".
            await trio.to_thread.run_sync(lambda: server.stop("smart", "-W"))
            late = await stack.enter_async_context(psql_running(proxy, "select 1"))
            await eventually(lambda: proxy.reports[-1].stats.waiting == 1)
            holding.send_signal(signal.SIGINT)
            await finished(holding)
            await eventually(lambda: not (server.data / "postmaster.pid").exists())
            await trio.to_thread.run_sync(server.start)
            assert (await finished(late)) == (0, "")


async def test_no_primary_is_told_to_psql(tmp_path) -> None:
    async with proxy_running(tmp_path, queue_timeout_s=0.1) as proxy:
        with pytest.raises(subprocess.CalledProcessError) as raised:
            await psql(proxy, "select 1")
        assert b"no primary within 0.1 s" in raised.value.stderr
