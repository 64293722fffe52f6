"""An agent makes way for a new one: PostgreSQL, its guard and the proxy's workers go on.

The process keeps its number, nobody takes over, and what runs is adopted: on every node of a
cluster in turn with the leases of `wan`, and on a primary with those of `default`, while rows are
written through the proxies.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from harness import assert_rows_exactly_once, run_metako, wait_writes
from own_cluster import TIMEOUT_S, own_cluster
from writer import steady_writer

from metako.api.client import LocalAgent
from metako.demo.processes import Kind, node_by_kind, postmaster_pid
from metako.model.events import EventName

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND_TIMEOUT_S = 60.0
WRITES_TIMEOUT_S = 15.0
TIMES = 3  # in a row, on the same primary


def left_running(node):
    """Return the pids of what an agent leaves to the next one."""
    kinds = node_by_kind(node)
    pids = {str(k): sorted(p.pid for p in kinds.get(k, ())) for k in (Kind.GUARD, Kind.WORKER)}
    return {**pids, "postmaster": postmaster_pid(node)}


def priority(pid):
    """Return what the scheduler goes by: the nice values of a process and of its session."""
    session = Path(f"/proc/{pid}/autogroup")
    return os.getpriority(os.PRIO_PROCESS, pid), session.exists() and session.read_text()


@pytest.fixture
async def cluster(request, test_bindir, keep_directories):
    timing = request.param
    async with own_cluster(test_bindir, nodes=3, keep=keep_directories, timing=timing) as own:
        yield own


@pytest.mark.parametrize("cluster", ["wan"], indirect=True)
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


@pytest.mark.parametrize("cluster", ["default"], indirect=True)
async def test_a_primary_gets_its_new_agent_within_the_lease(cluster, monitor):
    before = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    node = cluster.node(before.node)
    pid = LocalAgent(node.agent_socket).process()
    scheduled = priority(pid)
    async with steady_writer(cluster, "within_lease") as writer:
        for _ in range(TIMES):
            await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
            await replace_agent(node)
            after = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
            assert (after.node, after.term) == (before.node, before.term)
            assert priority(pid) == scheduled
        monitor.assert_never_two_writable()
        await assert_rows_exactly_once(cluster, writer)
    told = [json.loads(line) for line in node.log_path.read_text().splitlines()]
    assert sum(line.get("event") == EventName.GUARD_NOTE for line in told) >= TIMES


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
