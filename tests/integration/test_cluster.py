"""A real cluster through real faults: what was acknowledged is there, once, and it goes on."""

import json
import os
import signal
import time

import pytest
import trio
from harness import (
    assert_no_orphans,
    assert_rows_exactly_once,
    connect_directly,
    run_metako,
    wait_writes,
)

from metako.demo.client import ClientError, PgClient, ServerError
from metako.demo.layout import APP_USER, DATABASE
from metako.demo.processes import Kind, node_by_kind, postmaster_pid
from metako.demo.view import active_primary

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FAILOVER_TIMEOUT_S = 30.0
WRITES_TIMEOUT_S = 15.0
REJOIN_TIMEOUT_S = 60.0
CALM_S = 6.0  # three times the default hold: a false failover would have happened
STOP_TIMEOUT_S = 25.0


def guard_pids(cluster, name):
    return [process.pid for process in node_by_kind(cluster.node(name)).get(Kind.GUARD, [])]


async def healthy_primary(cluster):
    return await cluster.wait_healthy(timeout_s=REJOIN_TIMEOUT_S)


async def test_cluster_has_one_primary_and_both_standbys_count(cluster):
    primary = await healthy_primary(cluster)
    others = {node.name for node in cluster.nodes} - {primary.node}
    assert set(primary.sync) == others
    assert primary.sync_k == 1
    views = await cluster.views()
    assert [name for name, view in views.items() if view.lease_ms > 0] == [primary.node]
    assert {view.primary for view in views.values()} == {primary.node}
    assert {view.term for view in views.values()} == {primary.term}


async def test_every_proxy_leads_to_the_primary(cluster):
    primary = await healthy_primary(cluster)
    for node in cluster.nodes:
        client = await PgClient.connect(
            node.host,
            node.proxy_port,
            user=APP_USER,
            password=cluster.layout.app_password,
            database=DATABASE,
            timeout_s=10,
        )
        with client:
            result = await client.query("select inet_server_port()", timeout_s=5)
        assert result.rows == [(str(cluster.node(primary.node).postgres_port),)]


async def test_killed_postmaster_fails_over_and_loses_nothing(cluster, writer, monitor):
    old = await healthy_primary(cluster)
    cluster.kill_postmaster(old.node)
    new = await cluster.wait_primary(timeout_s=FAILOVER_TIMEOUT_S, above_timeline=old.timeline)
    assert new.term >= old.term
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await cluster.wait_healthy(timeout_s=REJOIN_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_killed_host_fails_over_and_its_return_is_a_standby(cluster, writer, monitor):
    old = await healthy_primary(cluster)
    await cluster.kill_host(old.node)
    new = await cluster.wait_primary(
        timeout_s=FAILOVER_TIMEOUT_S, above_timeline=old.timeline, other_than=old.node
    )
    assert new.term > old.term
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.start_agent(old.node)
    back = await cluster.wait_streaming(old.node, timeout_s=REJOIN_TIMEOUT_S)
    assert back.node == new.node
    with await connect_directly(cluster.layout, cluster.node(old.node), timeout_s=5) as client:
        result = await client.query("select pg_is_in_recovery()", timeout_s=5)
    assert result.rows == [("t",)]
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_stopped_agent_is_fenced_by_its_guard_before_another_leads(cluster, writer, monitor):
    old = await healthy_primary(cluster)
    cluster.stop_agent(old.node)
    new = await cluster.wait_primary(
        timeout_s=FAILOVER_TIMEOUT_S, above_timeline=old.timeline, other_than=old.node
    )
    assert new.term > old.term
    # The agent still sleeps: only the guard can have ended its server.
    agents = node_by_kind(cluster.node(old.node))[Kind.AGENT]
    assert all(agent.stopped for agent in agents)
    assert postmaster_pid(cluster.node(old.node)) is None
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.resume(old.node)
    await cluster.wait_streaming(old.node, timeout_s=REJOIN_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_restarted_agents_leave_their_servers_alone(cluster, writer, monitor):
    primary = await healthy_primary(cluster)
    for name in (*primary.sync, primary.node):
        node = cluster.node(name)
        before = postmaster_pid(node)
        assert before is not None
        for agent in node_by_kind(node)[Kind.AGENT]:
            os.kill(agent.pid, signal.SIGKILL)
        with trio.fail_after(5):
            while name not in cluster.dead_nodes():  # noqa: ASYNC110 - a process that is ending
                await trio.sleep(0.01)
        cluster.start_agent(name)
        await trio.sleep(CALM_S / 2)  # longer than the lease that the killed agent had
        now = await healthy_primary(cluster)
        if name == primary.node and now.timeline != primary.timeline:
            # On a busy machine the agent may come back too late for its lease: a failover then.
            assert postmaster_pid(node) != before
        else:
            assert (now.node, now.timeline) == (primary.node, primary.timeline)
            assert postmaster_pid(node) == before
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_killed_guards_are_replaced(cluster, writer, monitor):
    primary = await healthy_primary(cluster)
    standby = primary.sync[0]
    for name in (standby, primary.node):
        guards = node_by_kind(cluster.node(name))[Kind.GUARD]
        assert len(guards) == 1
        os.kill(guards[0].pid, signal.SIGKILL)
        if name == primary.node:
            await cluster.wait_primary(
                timeout_s=FAILOVER_TIMEOUT_S, above_timeline=primary.timeline
            )
        else:
            # The others do not notice at once; a new guard is the sign that the node has.
            with trio.fail_after(REJOIN_TIMEOUT_S):
                while guard_pids(cluster, name) in ([], [guards[0].pid]):  # noqa: ASYNC110 - /proc
                    await trio.sleep(0.05)
        await cluster.wait_healthy(timeout_s=REJOIN_TIMEOUT_S)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_frozen_host_loses_nothing_and_acknowledges_nothing_when_it_thaws(cluster, writer):
    # Nobody can stop a frozen server from waking up writable for a moment, so the claim is about
    # what it acknowledges: nothing, whoever asks it directly.
    old = await healthy_primary(cluster)
    direct = await connect_directly(cluster.layout, cluster.node(old.node), timeout_s=5)
    await cluster.pause_host(old.node)
    new = await cluster.wait_primary(
        timeout_s=FAILOVER_TIMEOUT_S, above_timeline=old.timeline, other_than=old.node
    )
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.resume(old.node)
    acknowledged = True
    try:
        result = await direct.query(
            f"insert into {writer.table} (id, via) values (-1, 'thawed')", timeout_s=5
        )
        acknowledged = not result.warnings
    except (ClientError, ServerError):
        acknowledged = False
    finally:
        direct.close()
    assert not acknowledged
    back = await cluster.wait_streaming(old.node, timeout_s=REJOIN_TIMEOUT_S)
    assert back.node == new.node
    await assert_rows_exactly_once(cluster, writer)


async def test_dead_standby_costs_no_failover_and_writes_go_on(cluster, writer, monitor):
    primary = await healthy_primary(cluster)
    standby = next(node.name for node in cluster.nodes if node.name != primary.node)
    await cluster.kill_host(standby)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    end_s = time.monotonic() + CALM_S
    while time.monotonic() < end_s:
        await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S, rows=20)
    now = active_primary(await cluster.views())
    assert now is not None
    assert (now.node, now.timeline) == (primary.node, primary.timeline)
    cluster.start_agent(standby)
    await cluster.wait_streaming(standby, timeout_s=REJOIN_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_status_names_the_primary_on_every_node(cluster):
    primary = await healthy_primary(cluster)
    for node in cluster.nodes:
        result = await run_metako(
            "status", "-c", str(node.config_path), "--json", cwd=node.directory
        )
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["primary"] == primary.node
    plain = await run_metako("status", "-c", str(node.config_path), cwd=node.directory)
    assert plain.returncode == 0, plain.stderr
    assert all(node.name in plain.stdout.decode() for node in cluster.nodes)


async def test_logs_tell_who_became_primary(cluster):
    primary = await healthy_primary(cluster)
    node = cluster.node(primary.node)
    result = await run_metako(
        "logs", "-c", str(node.config_path), "-n", "100000", "--json", cwd=node.directory
    )
    assert result.returncode == 0, result.stderr
    events = [json.loads(line).get("event") for line in result.stdout.splitlines()]
    assert "primary_active" in events


async def test_sigterm_leaves_no_process_and_the_data_survives_a_restart(cluster, writer):
    await healthy_primary(cluster)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    writer.stop()
    await writer.finished.wait()
    assert await cluster.terminate(timeout_s=STOP_TIMEOUT_S), cluster.describe_processes()
    assert_no_orphans(cluster)
    assert [cluster.agent_exit(node.name) for node in cluster.nodes] == [0, 0, 0]
    for node in cluster.nodes:
        cluster.start_agent(node.name)
    await cluster.wait_healthy(timeout_s=REJOIN_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
