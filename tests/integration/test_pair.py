"""Two servers without a witness: what goes on by itself, what waits, and for whose word."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
from harness import ServerMonitor, monitored, wait_writes
from orders_kit import (
    assert_rows_exactly_once_on_members,
    failover,
    nobody_leads,
    order,
    until_dead,
)
from own_cluster import TIMEOUT_S, blocked, eventually, own_cluster, status
from shared_cluster import SharedCluster
from writer import steady_writer

from metako.demo.cluster import LocalCluster, _write_private
from metako.demo.layout import node_config_text, plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.demo.view import active_primary, streaming_standbys

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WRITES_TIMEOUT_S = 20.0
WAITS_S = 10.0
"""For so long a standby that must not lead is watched: five holds."""


class TwoOfThree(LocalCluster):
    """Two nodes that know of each other alone, and a witness that is a stranger to them."""

    def write_files(self):
        super().write_files()
        pair = replace(self.layout, nodes=self.layout.data_nodes)
        for node in pair.nodes:
            _write_private(node.config_path, node_config_text(pair, node))

    async def start(self, *, timeout_s=TIMEOUT_S):
        self.write_files()
        for node in self.layout.data_nodes:
            self.start_agent(node.name)
        return await self.wait_healthy(timeout_s=timeout_s)

    async def wait_healthy(self, *, timeout_s):
        """Wait for a primary from which the other one streams; the witness may run or not."""

        def is_whole(views):
            primary = active_primary(views)
            if primary is None or any(n.name not in views for n in self.layout.data_nodes):
                return None
            return primary if primary.sync and streaming_standbys(primary) else None

        return await self.wait_until(is_whole, "a standby in S", timeout_s=timeout_s)


def new_pair(bindir: str | None) -> TwoOfThree:
    """Return one in a new directory, not started."""
    layout = plan_layout(make_directory(), nodes=3, bindir=bindir, os_user=ensure_os_user(print))
    witness = replace(layout.nodes[-1], witness=True)
    return TwoOfThree(replace(layout, nodes=(*layout.nodes[:-1], witness)), say=print)


@pytest.fixture(scope="module")
def shared_cluster(test_bindir, keep_directories) -> Iterator[SharedCluster]:
    """A pair that has chosen no rule, so it goes by `manual`."""
    shared = SharedCluster(lambda: new_pair(test_bindir), keep=keep_directories)
    yield shared
    trio.run(shared.discard)


async def led_by_order(cluster, writer, node, *, lost):
    """Have an operator's order make a node lead without the other one, and see it take writes."""
    await until_dead(cluster, node, lost)
    code, told, said = await failover(cluster, node, "--lost", lost, "--accept-loss")
    assert (code, told.get("primary")) == (0, node), (told, said)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)


async def under_rule(cluster, mode):
    """Wait until both know that the pair's rule is in force; return who leads and who follows.

    The standby knows by the heartbeat after the one that brought it the document. Before that it
    does not decide, whatever the document says.
    """
    primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    (standby,) = primary.sync

    async def in_force():
        documents = [(await status(cluster, n))["document"] for n in (primary.node, standby)]
        agreed = documents[0]["ref"] == documents[1]["ref"]
        return agreed and all(d["pair_mode"] == mode and d["committed"] for d in documents)

    await eventually(in_force, f"pair_mode is {mode}")
    return primary, standby


async def tip(cluster, name):
    return (await status(cluster, name))["document"]["timeline"]


async def runs_as_standby(cluster, name):
    """Wait until a node's own server is a standby: before that it may not be told to lead."""

    async def standby():
        shown = await status(cluster, name)
        return shown["postgres"]["role"] == "standby"

    await eventually(standby, f"{name} is a standby")


def none_writable_since(monitor: ServerMonitor, moment_s: float) -> None:
    late = [s for s in monitor.samples if s.asked_s > moment_s and s.writable]
    assert not late, late[:3]


async def test_the_synchronous_standby_takes_over_alone_and_stops_the_primary_when_lost(
    test_bindir, keep_directories
):
    async with (
        own_cluster(test_bindir, keep=keep_directories, nodes=2, pair_mode="takeover") as cluster,
        monitored(cluster) as monitor,
        steady_writer(cluster, "takeover") as writer,
    ):
        await taken_over_alone(cluster, writer, monitor)


async def taken_over_alone(cluster, writer, monitor):
    first, standby = await under_rule(cluster, "takeover")
    await cluster.kill_host(first.node)
    second = await cluster.wait_primary(timeout_s=WRITES_TIMEOUT_S, other_than=first.node)
    assert second.node == standby
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.start_agent(first.node)
    await cluster.wait_streaming(first.node, timeout_s=TIMEOUT_S)
    await under_rule(cluster, "takeover")

    # Now the other one decides, so without it nobody serves, until it is said that it is off.
    await cluster.kill_host(first.node)
    await nobody_leads(cluster, standby, 0)
    stopped_s = time.monotonic()
    await nobody_leads(cluster, standby, WAITS_S / 3)
    none_writable_since(monitor, stopped_s)
    await runs_as_standby(cluster, standby)
    await led_by_order(cluster, writer, standby, lost=first.node)

    # Whoever comes back follows, and then takes over as the first one did.
    cluster.start_agent(first.node)
    await cluster.wait_streaming(first.node, timeout_s=TIMEOUT_S)
    await under_rule(cluster, "takeover")
    await cluster.kill_host(standby)
    third = await cluster.wait_primary(timeout_s=WRITES_TIMEOUT_S, other_than=standby)
    assert third.node == first.node
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once_on_members(cluster, writer)
    monitor.assert_never_two_writable()


async def test_the_primary_goes_on_alone_and_hands_over_with_both_agents_alive(
    cluster, writer, monitor
):
    primary, standby = await under_rule(cluster, "manual")
    # The standby's host is lost: no election, and a short break.
    await cluster.kill_host(standby)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    shown = await status(cluster, primary.node)
    assert (shown["primary"], shown["term"]) == (primary.node, primary.term)

    # Its server crashes while it is alone: it leads again, by its own vote.
    cluster.kill_postmaster(primary.node)
    again = await cluster.wait_primary(timeout_s=TIMEOUT_S, above_timeline=primary.timeline)
    assert again.node == primary.node
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)

    # The other host is back, and follows by itself.
    cluster.start_agent(standby)
    await cluster.wait_streaming(standby, timeout_s=TIMEOUT_S)

    # With both agents alive nobody has to say a word: a crash of PostgreSQL moves the primary.
    before = await tip(cluster, primary.node)
    cluster.kill_postmaster(primary.node)
    second = await cluster.wait_primary(timeout_s=TIMEOUT_S, above_timeline=before)
    assert second.node == standby
    await cluster.wait_streaming(primary.node, timeout_s=TIMEOUT_S)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)

    code, told, said = await order(cluster, standby, "switchover")
    assert (code, told.get("primary")) == (0, primary.node), (told, said)
    await cluster.wait_streaming(standby, timeout_s=TIMEOUT_S)
    # The right to go on alone went with it.
    await cluster.kill_host(standby)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.start_agent(standby)
    await cluster.wait_streaming(standby, timeout_s=TIMEOUT_S)
    await assert_rows_exactly_once_on_members(cluster, writer)
    monitor.assert_never_two_writable()


async def test_the_loss_of_the_primary_waits_for_a_word_or_for_its_return(cluster, writer, monitor):
    primary, standby = await under_rule(cluster, "manual")
    await cluster.kill_host(primary.node)
    lost_s = time.monotonic()

    async def names_the_way():
        return f"metako failover --lost {primary.node}" in await blocked(cluster, standby)

    await eventually(names_the_way, f"{standby} says what it waits for")
    await nobody_leads(cluster, standby, WAITS_S)
    assert await names_the_way()
    none_writable_since(monitor, lost_s)
    await led_by_order(cluster, writer, standby, lost=primary.node)

    # It is a member still: it comes back, is rewound if need be, and follows by itself.
    cluster.start_agent(primary.node)
    second = await cluster.wait_streaming(primary.node, timeout_s=TIMEOUT_S)
    assert (second.node, set(second.voters)) == (standby, {primary.node, standby})
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)

    # Both are lost, and the one that led comes back alone: it cannot know what happened meanwhile.
    await cluster.kill_host(primary.node)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await cluster.kill_host(standby)
    lost_s = time.monotonic()
    cluster.start_agent(standby)
    await runs_as_standby(cluster, standby)
    await nobody_leads(cluster, standby, WAITS_S / 3)
    none_writable_since(monitor, lost_s)
    cluster.start_agent(primary.node)
    await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once_on_members(cluster, writer)
    monitor.assert_never_two_writable()


async def test_a_witness_that_is_added_lets_a_pair_fail_over_by_itself(cluster, writer, monitor):
    primary, standby = await under_rule(cluster, "manual")
    witness = cluster.nodes[2].name
    cluster.start_agent(witness)

    async def is_stranger():
        return f"metako members add {witness}" in await blocked(cluster, witness)

    await eventually(is_stranger, f"{witness} knows that it is no member")
    code, told, said = await order(cluster, standby, "members add", witness)
    assert (code, told.get("membership")) == (0, "witness"), (told, said)

    async def three_vote():
        document = (await status(cluster, standby))["document"]
        return (len(document["voters"]), document["pair_mode"]) == (3, None)

    await eventually(three_vote, f"{standby} knows that a majority of three decides")
    await cluster.kill_host(primary.node)
    second = await cluster.wait_primary(timeout_s=WRITES_TIMEOUT_S, other_than=primary.node)
    assert second.node == standby
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.start_agent(primary.node)
    await cluster.wait_streaming(primary.node, timeout_s=TIMEOUT_S)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    # Without it they are a pair as before.
    code, told, said = await order(cluster, primary.node, "members remove", witness)
    assert (code, told.get("ok")) == (0, True), (told, said)
    assert (await under_rule(cluster, "manual"))[0].node == standby
    await assert_rows_exactly_once_on_members(cluster, writer)
    monitor.assert_never_two_writable()
