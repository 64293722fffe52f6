"""Members come, go and come back on real servers, under load, by the command of an operator."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from harness import wait_writes
from orders_kit import assert_rows_exactly_once_on_members, order
from own_cluster import TIMEOUT_S, blocked, eventually, own_cluster, status

from metako.demo.cluster import LocalCluster, _write_private
from metako.demo.layout import node_config_text
from metako.demo.processes import Kind, node_by_kind, postmaster_pid
from metako.demo.view import active_primary, streaming_standbys

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FIRST = ("n1", "n2", "n3")
WRITES_TIMEOUT_S = 15.0


class GrowingCluster(LocalCluster):
    """Three nodes that know of three, and two more, of which the second is a witness."""

    def write_files(self):
        super().write_files()
        first = replace(self.layout, nodes=tuple(n for n in self.nodes if n.name in FIRST))
        for node in first.nodes:
            _write_private(node.config_path, node_config_text(first, node))

    async def start(self, *, timeout_s=TIMEOUT_S):
        self.write_files()
        for name in FIRST:
            self.start_agent(name)
        return await self.whole(2, timeout_s=timeout_s)

    async def whole(self, standbys, *, timeout_s=TIMEOUT_S):
        """Wait for a primary that so many standbys stream from, all of them in S."""

        def is_whole(views):
            primary = active_primary(views)
            if primary is None or len(streaming_standbys(primary)) != standbys:
                return None
            return primary if len(primary.sync) == standbys else None

        return await self.wait_until(is_whole, f"{standbys} standbys", timeout_s=timeout_s)


@pytest.fixture
async def cluster(test_bindir, keep_directories) -> AsyncIterator[GrowingCluster]:
    shape = {"nodes": 5, "last_is_witness": True, "make": GrowingCluster}
    async with own_cluster(test_bindir, keep=keep_directories, **shape) as growing:
        yield growing


async def members(cluster, asked, what, *options):
    """Run `metako members …` on a node; return its exit code, its JSON and what it says."""
    return await order(cluster, asked, f"members {what}", *options)


async def done(cluster, asked, *arguments):
    code, told, said = await members(cluster, asked, *arguments)
    assert code == 0, (told, said)
    assert told["ok"] is True
    return told


async def document(cluster, name):
    return (await status(cluster, name))["document"]


async def stop_agent(cluster, name):
    """SIGTERM: the node stops in good order."""
    agents = node_by_kind(cluster.node(name)).get(Kind.AGENT, [])
    os.kill(agents[0].pid, signal.SIGTERM)

    async def ended():
        return cluster.agent_exit(name) is not None

    await eventually(ended, f"{name} has stopped")


def lose_record(cluster, name):
    (cluster.node(name).state_dir / "record").unlink()


async def test_a_cluster_grows_loses_a_host_for_good_and_shrinks(cluster, writer, monitor):
    first = await cluster.whole(2)
    # Strangers run, and are told what to do.
    cluster.start_agent("n4")
    cluster.start_agent("n5")

    async def stranger_says():
        return "metako members add n4" in await blocked(cluster, "n4")

    await eventually(stranger_says, "n4 knows that it is no member")
    assert postmaster_pid(cluster.node("n4")) is None
    told = await done(cluster, "n2", "add", "n4", "--learner")
    assert told["membership"] == "learner"
    assert (await document(cluster, "n2"))["voters"] == list(FIRST)
    told = await done(cluster, "n2", "add", "n4")
    assert told["membership"] == "voter"

    async def votes():
        return "n4" in (await document(cluster, "n4"))["voters"]

    await eventually(votes, "n4 knows that it votes")
    primary = await cluster.whole(3)
    assert primary.node == first.node
    assert primary.timeline == first.timeline
    await done(cluster, "n3", "add", "n5")

    async def grown():
        shown = await document(cluster, first.node)
        return (len(shown["voters"]), shown["witnesses"]) == (5, ["n5"])

    await eventually(grown, "the primary knows of five voters")

    # Its configuration names three members only, and so does that of the one that takes over.
    await cluster.kill_host(first.node)
    second = await cluster.wait_primary(timeout_s=TIMEOUT_S, other_than=first.node)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    code, told, said = await members(cluster, second.node, "remove", second.node)
    assert code == 1
    assert "metako switchover" in (told.get("reason") or said)
    await done(cluster, "n4", "remove", first.node)

    async def removed():
        return first.node not in (await document(cluster, "n5"))["voters"]

    await eventually(removed, f"n5 knows that {first.node} was removed")
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)

    # It comes back and is nobody: its server does not run, and it votes for nobody. Until it hears
    # that, it may have started the server, as the standby that it last knew itself to be.
    cluster.start_agent(first.node)

    async def knows():
        return "no member of the cluster" in await blocked(cluster, first.node)

    async def keeps_it_stopped():
        return postmaster_pid(cluster.node(first.node)) is None

    await eventually(knows, f"{first.node} knows that it was removed")
    await eventually(keeps_it_stopped, f"{first.node} stops its server")
    code, told, _ = await members(cluster, first.node, "add", first.node)
    assert (code, "one that does" in told["reason"]) == (1, True)
    await done(cluster, "n4", "add", first.node)
    await cluster.whole(3)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once_on_members(cluster, writer)
    monitor.assert_never_two_writable()


async def test_a_lost_record_and_a_replaced_host_are_admitted_again(cluster, writer, monitor):
    primary = await cluster.whole(2)
    one, other = sorted(primary.sync)
    await stop_agent(cluster, one)
    lose_record(cluster, one)
    cluster.start_agent(one)

    async def lost():
        return "lost its durable record" in await blocked(cluster, one)

    await eventually(lost, f"{one} knows that it lost its record")

    async def unlisted():
        return one not in (await document(cluster, primary.node))["sync"]["nodes"]

    await eventually(unlisted, f"commits do not wait for {one}")
    told = await done(cluster, other, "add", one)
    assert told["membership"] == "voter"
    await cluster.whole(2)

    # The other host burns down, and a new one with nothing takes its name.
    await cluster.kill_host(other)
    node = cluster.node(other)
    shutil.rmtree(node.state_dir)
    shutil.rmtree(node.data_dir)
    cluster.start_agent(other)
    await eventually(lambda: lost_record(cluster, other), f"{other} is new")
    await done(cluster, primary.node, "add", other)
    whole = await cluster.whole(2)
    assert whole.node == primary.node

    # Both count: the primary is lost, and each of the two votes is needed.
    await cluster.kill_host(primary.node)
    second = await cluster.wait_primary(timeout_s=TIMEOUT_S, other_than=primary.node)
    assert second.node in (one, other)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.start_agent(primary.node)
    await cluster.whole(2)
    await assert_rows_exactly_once_on_members(cluster, writer)
    monitor.assert_never_two_writable()


async def lost_record(cluster, name):
    return "lost its durable record" in await blocked(cluster, name)
