"""The only standby with every commit must not lead: another one gets them from it, and leads."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import trio
from harness import ServerMonitor, assert_rows_exactly_once, end_writer, wait_writes
from own_cluster import TIMEOUT_S, eventually, own_cluster, status
from writer import steady_writer

from metako.demo.cluster import LocalCluster
from metako.demo.layout import Layout
from metako.demo.processes import postmaster_pid
from metako.demo.view import active_primary
from metako.postgres.observe import receiver_processes

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FIRST, NEVER_LEADS, BEHIND = "n1", "n2", "n3"


def with_one_that_never_leads(layout: Layout, **options: object) -> LocalCluster:
    """Return a local cluster in which one node has priority 0."""
    nodes = (replace(node, never_leads=node.name == NEVER_LEADS) for node in layout.nodes)
    return LocalCluster(replace(layout, nodes=tuple(nodes)), **options)  # type: ignore[arg-type]


def freeze_receiver(cluster: LocalCluster, name: str) -> int:
    """Let a standby get no WAL any more, though its connection stays."""
    postmaster = postmaster_pid(cluster.node(name))
    assert postmaster is not None
    (receiver,) = receiver_processes(postmaster).certain
    os.kill(receiver, signal.SIGSTOP)
    return receiver


async def test_a_standby_that_is_behind_leads_with_what_priority_0_has(
    test_bindir, keep_directories
):
    shape = {"nodes": 3, "make": with_one_that_never_leads}
    async with own_cluster(test_bindir, keep=keep_directories, **shape) as cluster:
        primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
        assert primary.node == FIRST
        monitor = ServerMonitor(cluster.layout)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor.run)
            await takes_over_with_every_row(cluster)
            nursery.cancel_scope.cancel()
        monitor.assert_never_two_writable()


async def takes_over_with_every_row(cluster: LocalCluster) -> None:
    async with steady_writer(cluster, "catch_up") as writer:
        await wait_writes(writer, timeout_s=15)
        freeze_receiver(cluster, BEHIND)

        async def left() -> bool:
            document = (await status(cluster, FIRST))["document"]
            return [member["node"] for member in document["sync"]["members"]] == [NEVER_LEADS]

        await eventually(left, f"no commit waits for {BEHIND}")
        await wait_writes(writer, timeout_s=15, rows=200)
        await cluster.kill_host(FIRST)

        async def leads() -> bool:
            found = active_primary(await cluster.views())
            return found is not None and found.node == BEHIND

        await eventually(leads, f"{BEHIND} leads")
        await wait_writes(writer, timeout_s=15)
        log = cluster.node(BEHIND).log_path.read_text()
        assert log.count('"caught_up"') == 1, "it had nothing to catch up with"
        # The lost one comes back: it has nothing that the others lack.
        cluster.start_agent(FIRST)
        await cluster.wait_streaming(FIRST, timeout_s=TIMEOUT_S)
        await cluster.wait_streaming(NEVER_LEADS, timeout_s=TIMEOUT_S)
        await end_writer(writer)
        await assert_rows_exactly_once(cluster, writer)
