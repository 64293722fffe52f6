"""The console of a real node with two workers, as psql shows it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from urllib.request import urlopen

import psycopg
import pytest
import trio
from own_cluster import TIMEOUT_S, own_cluster

from metako.demo.cluster import LocalCluster, _write_private
from metako.demo.layout import APP_USER, DATABASE, NodeLayout, node_config_text
from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CLIENTS_MAX = 40  # until both workers have one
PROXY = "\nproxy:\n"


class TwoWorkers(LocalCluster):
    """A cluster whose nodes have two proxy workers, and a console for the application's user."""

    def write_files(self) -> None:
        super().write_files()
        for node in self.nodes:
            self.configure(node, "")

    def configure(self, node: NodeLayout, lines: str) -> None:
        text = node_config_text(self.layout, node)
        own = f"  workers: 2\n  admin_users: [{APP_USER}]\n{lines}"
        text = text.replace("  workers: 1  # all nodes share one machine\n", "")
        assert text.count(PROXY) == 1
        _write_private(node.config_path, text.replace(PROXY, PROXY + own))


async def psql(cluster: TwoWorkers, node: NodeLayout, command: str) -> tuple[list[str], str]:
    """Return the lines that psql prints, and its complaints."""
    user = resolve_os_user(cluster.layout.os_user)
    program = find_installation(cluster.layout.bindir, user, node.directory).program("psql")
    where = cluster.layout.dsn(node).removesuffix(DATABASE) + "metako"
    with trio.fail_after(TIMEOUT_S):
        done = await trio.run_process(
            [program, "-X", "-At", "-c", command, where],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return done.stdout.decode().splitlines(), done.stderr.decode()


def fetch(url: str) -> str:
    with urlopen(url, timeout=TIMEOUT_S) as answer:
        return str(answer.read().decode())


async def connect(stack: AsyncExitStack, where: str) -> psycopg.Connection:
    client = await trio.to_thread.run_sync(lambda: psycopg.connect(where, autocommit=True))
    stack.callback(client.close)
    return client


async def test_psql_at_any_worker_reaches_all_of_them(
    test_bindir: str | None, keep_directories: bool
) -> None:
    async with (
        own_cluster(test_bindir, nodes=1, keep=keep_directories, make=TwoWorkers) as cluster,
        AsyncExitStack() as stack,
    ):
        assert isinstance(cluster, TwoWorkers)
        (node,) = cluster.nodes
        where = cluster.layout.dsn(node)
        clients: list[psycopg.Connection] = []
        rows: list[list[str]] = []
        while len({row[0] for row in rows}) < 2:
            assert len(clients) < CLIENTS_MAX
            clients.append(await connect(stack, where))
            lines, complaints = await psql(cluster, node, "show clients")
            assert complaints == ""
            rows = [row for line in lines if (row := line.split("|"))[3] == DATABASE]
        assert len(rows) == len(clients)

        pools, _ = await psql(cluster, node, "show pools")
        found = [line.split("|") for line in pools]
        assert [(row[0], row[1], row[2]) for row in found] == [
            *(("1", DATABASE, APP_USER), ("2", DATABASE, APP_USER))
        ]
        assert sum(int(row[4]) for row in found) == len(clients)  # idle ones

        for worker in ("1", "2"):
            await kill_one_of(cluster, node, worker, clients)
        await reload_a_limit(cluster, node)
        page = await trio.to_thread.run_sync(fetch, f"{node.api_url}/metrics")
        for worker in ("1", "2"):
            assert f'metako_proxy_connections_total{{node="{node.name}",worker="{worker}"}}' in page


async def kill_one_of(
    cluster: TwoWorkers, node: NodeLayout, worker: str, clients: list[psycopg.Connection]
) -> None:
    lines, _ = await psql(cluster, node, "show clients")
    rows = [row for line in lines if (row := line.split("|"))[3] == DATABASE]
    row = next(row for row in rows if row[0] == worker)
    _, complaints = await psql(cluster, node, f"kill client {row[1]}")
    assert complaints.strip() == "NOTICE:  1 client was ended"

    def ended() -> list[str | None]:
        codes = []
        for client in clients:
            if client.closed:
                continue
            try:
                client.execute("select 1")
            except psycopg.OperationalError as error:
                codes.append(error.sqlstate)
        return codes

    assert await trio.to_thread.run_sync(ended) == ["57P01"]
    lines, _ = await psql(cluster, node, "show clients")
    assert row[1] not in [line.split("|")[1] for line in lines]


async def reload_a_limit(cluster: TwoWorkers, node: NodeLayout) -> None:
    async def in_force() -> dict[str, set[str]]:
        lines, _ = await psql(cluster, node, "show config")
        found: dict[str, set[str]] = {}
        for line in lines:
            _worker, key, value = line.split("|")
            found.setdefault(key, set()).add(value)
        return found

    assert (await in_force())["pool.per_user"] == {"0"}
    cluster.configure(node, "  read_timeout: 2s\n  pool: {per_user: 6}\n  queue_timeout: 5\n")
    _, complaints = await psql(cluster, node, "reload")
    assert "ERROR:" in complaints
    assert "proxy.queue_timeout" in complaints
    assert (await in_force())["pool.per_user"] == {"0"}
    cluster.configure(node, "  read_timeout: 2s\n  pool: {per_user: 6}\n")
    assert await psql(cluster, node, "reload") == (["RELOAD"], "")
    found = await in_force()
    assert found["pool.per_user"] == {"3"}  # the share of each
    assert found["read_timeout"] == {"2s"}
