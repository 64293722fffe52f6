"""Failovers that may lose commits: by an operator's order, and with durability `async`."""

from __future__ import annotations

import pytest
from harness import end_writer, wait_writes
from orders_kit import failover, nobody_leads, until_dead
from own_cluster import TIMEOUT_S, blocked, eventually, own_cluster, status
from writer import steady_writer

from metako.demo.cluster import LocalCluster
from metako.demo.processes import postmaster_pid
from metako.demo.view import active_primary, streaming_standbys
from metako.demo.writer import rows_on

pytestmark = [pytest.mark.integration, pytest.mark.slow]


async def test_a_standby_that_was_away_leads_when_told_and_not_before(
    test_bindir, keep_directories
):
    shape = {"nodes": 3, "last_is_witness": True}
    async with own_cluster(test_bindir, keep=keep_directories, **shape) as cluster:
        await led_by_order(cluster)


async def led_by_order(cluster):
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
        await nobody_leads(cluster, standby, 5)
        shown = await status(cluster, standby)
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


async def test_the_last_of_three_goes_on_without_the_others(test_bindir, keep_directories):
    async with own_cluster(test_bindir, keep=keep_directories, nodes=3) as cluster:
        primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
        last, other = sorted(primary.sync)
        async with steady_writer(cluster, "without") as writer:
            await wait_writes(writer, timeout_s=15)
            code, told, _ = await failover(cluster, last, "--accept-loss", "--lost", other)
            assert (code, "leads" in told["reason"]) == (1, True)
            await cluster.kill_host(primary.node)
            await cluster.kill_host(other)
            await nobody_leads(cluster, last, 1)
            lost = ("--lost", primary.node, "--lost", other)
            await until_dead(cluster, last, primary.node, other)
            code, told, said = await failover(cluster, last, "--accept-loss", *lost)
            assert code == 0, (told, said)
            await wait_writes(writer, timeout_s=20)
            await end_writer(writer)
        document = (await status(cluster, last))["document"]
        assert document["voters"] == [last]
        assert document["timelines"][-1]["reason"].startswith("failover by order, without ")
        rows = await rows_on(cluster.layout, cluster.node(last), writer.table, timeout_s=10)
        assert writer.record.acknowledged
        # Every commit waited for one of two, and this may have been the other one.
        assert len(set(writer.record.acknowledged) - set(rows)) < 20
        # One that is switched on again is nobody.
        cluster.start_agent(other)

        async def knows():
            return "no member" in await blocked(cluster, other)

        await eventually(knows, f"{other} knows that it is no member")
        assert postmaster_pid(cluster.node(other)) is None


async def test_async_fails_over_to_a_standby_that_is_hardly_behind(test_bindir, keep_directories):
    async with own_cluster(
        test_bindir, keep=keep_directories, nodes=3, durability="async", make=Unlisted
    ) as cluster:
        primary = await cluster.wait_primary(timeout_s=TIMEOUT_S)
        async with steady_writer(cluster, "unlisted") as writer:
            await wait_writes(writer, timeout_s=15, rows=50)
            await cluster.kill_host(primary.node)
            second = await cluster.wait_primary(timeout_s=TIMEOUT_S, other_than=primary.node)
            await wait_writes(writer, timeout_s=20)
            cluster.start_agent(primary.node)
            await cluster.start_streaming()
            await end_writer(writer)
        assert second.sync == ()
        rows = await rows_on(cluster.layout, cluster.node(second.node), writer.table, timeout_s=10)
        # What was on its way is lost, and nothing that was there a second before.
        assert len(set(writer.record.acknowledged) - set(rows)) < 100
        assert len(set(rows)) > 50


class Unlisted(LocalCluster):
    """One of which no standby is listed: it is whole when they stream."""

    async def start(self, *, timeout_s=TIMEOUT_S):
        self.write_files()
        for node in self.nodes:
            self.start_agent(node.name)
        return await self.start_streaming(timeout_s=timeout_s)

    async def start_streaming(self, *, timeout_s=TIMEOUT_S):
        """Wait until all others stream from the primary."""

        def streams(views):
            found = active_primary(views)
            others = len(self.nodes) - 1
            return found if found and len(streaming_standbys(found)) == others else None

        return await self.wait_until(streams, "standbys that stream", timeout_s=timeout_s)
