"""An operator has a node lead that may lack commits, in a cluster of two servers and a witness."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
from harness import end_writer, run_metako, wait_writes
from writer import steady_writer

from metako.api.client import fetch_status
from metako.demo.cluster import LocalCluster
from metako.demo.layout import plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.demo.writer import rows_on

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 60.0


@pytest.fixture
async def cluster(test_bindir, keep_directories) -> AsyncIterator[LocalCluster]:
    os_user = ensure_os_user(print)
    layout = plan_layout(make_directory(), nodes=3, bindir=test_bindir, os_user=os_user)
    nodes = (*layout.nodes[:2], replace(layout.nodes[2], witness=True))
    pair = LocalCluster(replace(layout, nodes=nodes), say=print)
    try:
        await pair.start()
        yield pair
    except BaseException:
        sys.stderr.write(pair.describe_logs(60))
        raise
    finally:
        with trio.CancelScope(shield=True):
            await pair.stop()
        if not keep_directories:
            pair.remove_directory()


async def failover(cluster, name, *options):
    node = cluster.node(name)
    result = await run_metako(
        *("failover", "-c", str(node.config_path), "--json", *options), cwd=node.directory
    )
    told = json.loads(result.stdout) if result.stdout else {}
    return result.returncode, told, result.stderr.decode()


async def status(cluster, name):
    return await trio.to_thread.run_sync(fetch_status, cluster.node(name).api_url, 3.0)


async def test_a_standby_that_was_away_leads_when_told_and_not_before(cluster):
    primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    (standby,) = primary.sync
    async with steady_writer(cluster, "by_order") as writer:
        await wait_writes(writer, timeout_s=15)
        code, _, said = await failover(cluster, standby)
        assert (code, "--accept-loss" in said) == (2, True)
        code, told, _ = await failover(cluster, standby, "--accept-loss")
        assert (code, "metako switchover" in told["reason"]) == (1, True)

        await cluster.kill_host(standby)
        # Commits stand on the primary alone from here on, and then it is lost as well.
        await wait_writes(writer, timeout_s=20, rows=100)
        await cluster.kill_host(primary.node)
        cluster.start_agent(standby)
        with trio.move_on_after(8):
            while True:
                await trio.sleep(0.2)
                assert not writer.record.count_after(0) < 0
        shown = await status(cluster, standby)
        assert shown["primary"] is None
        assert f"the promise of {primary.node}" in shown["blocked"]

        code, told, said = await failover(cluster, standby, "--accept-loss")
        assert code == 0, (told, said)
        assert (told["ok"], told["primary"]) == (True, standby)
        await wait_writes(writer, timeout_s=20)
        # The lost one comes back, keeps what it had beside its data, and follows.
        cluster.start_agent(primary.node)
        await cluster.wait_streaming(primary.node, timeout_s=TIMEOUT_S)
        await end_writer(writer)
        rows = await rows_on(cluster.layout, cluster.node(standby), writer.table, timeout_s=10)
        lost = set(writer.record.acknowledged) - set(rows)
        assert 0 < len(lost) < len(writer.record.acknowledged)
        aside = list((cluster.node(primary.node).state_dir / "diverged").iterdir())
        assert aside
        view = await status(cluster, primary.node)
        assert view["document"]["timelines"][-1]["reason"] == "failover by order"
