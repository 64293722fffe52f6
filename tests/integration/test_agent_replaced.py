"""An agent makes way for a new one: PostgreSQL, its guard and the proxy's workers go on.

The process keeps its number, nobody takes over, and what runs is adopted: on every node of a
cluster in turn, while rows are written through the proxies. The leases are those of `wan`, because
a new agent on a busy machine takes longer to begin than the shorter ones last.
"""

from __future__ import annotations

import json

import pytest
from harness import assert_rows_exactly_once, run_metako, wait_writes
from own_cluster import TIMEOUT_S, own_cluster
from writer import steady_writer

from metako.api.client import LocalAgent
from metako.demo.processes import Kind, node_by_kind, postmaster_pid

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND_TIMEOUT_S = 60.0
WRITES_TIMEOUT_S = 15.0


def left_running(node):
    """Return the pids of what an agent leaves to the next one."""
    kinds = node_by_kind(node)
    pids = {str(k): sorted(p.pid for p in kinds.get(k, ())) for k in (Kind.GUARD, Kind.WORKER)}
    return {**pids, "postmaster": postmaster_pid(node)}


@pytest.fixture
async def cluster(test_bindir, keep_directories):
    async with own_cluster(test_bindir, nodes=3, keep=keep_directories, timing="wan") as own:
        yield own


async def test_agents_are_replaced_while_postgresql_goes_on(cluster, monitor):
    before = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    async with steady_writer(cluster, "replaced") as writer:
        await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
        for node in cluster.nodes:
            await replace_agent(node)
            await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
        after = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
        assert (after.node, after.term) == (before.node, before.term)
        monitor.assert_never_two_writable()
        await assert_rows_exactly_once(cluster, writer)


async def replace_agent(node):
    pid, left = LocalAgent(node.agent_socket).process(), left_running(node)
    assert left["postmaster"] is not None
    result = await run_metako(
        *("restart", "--agent", "-c", str(node.config_path), "--json"),
        cwd=node.directory,
        timeout_s=COMMAND_TIMEOUT_S,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["ok"], told["pid"]) == (True, pid)
    assert LocalAgent(node.agent_socket).process() == pid
    assert left_running(node) == left
