"""Idle clients of the proxies go on through changes of a real cluster's primary."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest
import trio
from harness import run_metako

from metako.demo.cluster import LocalCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HEALTHY_TIMEOUT_S = 60.0
QUERY_TIMEOUT_S = 30.0
SERVER = "select current_setting('port')::int"


@asynccontextmanager
async def idle_clients(cluster: LocalCluster) -> AsyncIterator[list[psycopg.Connection]]:
    """Give a client of each node's proxy, with a setting and a prepared statement of its own."""
    async with AsyncExitStack() as stack:
        clients = []
        for node in cluster.nodes:
            where = cluster.layout.dsn(node)
            client = await trio.to_thread.run_sync(
                lambda where=where: psycopg.connect(where, autocommit=True)
            )
            stack.callback(client.close)
            clients.append(client)
            await ask(client, "set timezone to 'Asia/Tokyo'")
            await ask(client, SERVER, prepare=True)
        yield clients


async def ask(client: psycopg.Connection, sql: str, *, prepare: bool = False) -> object:
    def talk() -> object:
        cursor = client.execute(sql.encode(), prepare=prepare)
        return cursor.fetchone()[0] if cursor.description else None

    with trio.fail_after(QUERY_TIMEOUT_S):
        return await trio.to_thread.run_sync(talk, abandon_on_cancel=True)


async def assert_all_at(clients: list[psycopg.Connection], port: int) -> None:
    for client in clients:
        assert await ask(client, SERVER, prepare=True) == port
        assert await ask(client, "show timezone") == "Asia/Tokyo"
        assert client.info.parameter_status("TimeZone") == "Asia/Tokyo"


async def test_an_idle_client_of_every_node_goes_on_after_a_switchover(
    cluster: LocalCluster,
) -> None:
    old = await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
    node = cluster.node(old.node)
    async with idle_clients(cluster) as clients:
        await assert_all_at(clients, node.postgres_port)
        result = await run_metako(
            *("switchover", "-c", str(node.config_path), "--json"), cwd=node.directory
        )
        assert result.returncode == 0, result.stderr
        new = await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
        assert new.node != old.node
        await assert_all_at(clients, cluster.node(new.node).postgres_port)


async def test_an_idle_client_of_every_node_goes_on_after_a_failover(
    cluster: LocalCluster,
) -> None:
    old = await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
    async with idle_clients(cluster) as clients:
        cluster.kill_postmaster(old.node)
        # At once: the last words of the old server's session may come in answer to this, and it
        # only reads. It may also be answered, as long as that session has not noticed.
        port = await ask(clients[0], SERVER, prepare=True)
        new = await cluster.wait_primary(timeout_s=HEALTHY_TIMEOUT_S, other_than=old.node)
        ports = [cluster.node(name).postgres_port for name in (old.node, new.node)]
        assert port in ports
        await assert_all_at(clients, ports[1])
        await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
