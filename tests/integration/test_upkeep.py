"""What an operator does while a cluster is at work: pause it, restart it, plan a switchover."""

import json
import os
import signal
import time

import pytest
import trio
from harness import assert_rows_exactly_once, run_metako, wait_writes
from own_cluster import TIMEOUT_S, blocked, eventually, status

from metako.demo.processes import postmaster_pid
from metako.demo.view import active_primary

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WRITES_TIMEOUT_S = 15.0
WITHOUT_S = 4.0
"""More than the hold that voters grant, after which another node would take over."""
AT_S = 3


async def command(cluster, asked, *arguments):
    """Run a command on a node; return its exit code, its JSON and what it says on stderr."""
    name, *options = arguments
    node = cluster.node(asked)
    result = await run_metako(
        *(name, "-c", str(node.config_path), "--json", *options), cwd=node.directory
    )
    told = json.loads(result.stdout) if result.stdout else {}
    return result.returncode, told, result.stderr.decode()


async def done(cluster, asked, *arguments):
    code, told, said = await command(cluster, asked, *arguments)
    assert (code, told.get("ok")) == (0, True), (told, said)
    return told


async def text_of_status(cluster, asked):
    node = cluster.node(asked)
    result = await run_metako("status", "-c", str(node.config_path), cwd=node.directory)
    return result.stdout.decode()


async def assert_nobody_leads(cluster, seconds):
    """Nobody becomes the primary for so long."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        assert active_primary(await cluster.views()) is None
        await trio.sleep(0.2)


def kill_postgres(cluster, name):
    pid = postmaster_pid(cluster.node(name))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_in_a_paused_cluster_the_lost_primary_leads_again(cluster, writer, monitor):
    old = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    asked, other = sorted(old.sync)
    told = await done(cluster, asked, "pause")
    assert (told["paused"], told["primary"]) == (True, old.node)
    shown = await text_of_status(cluster, other)
    assert f"nobody takes over from {old.node} until `metako resume`" in shown

    await cluster.kill_host(old.node)

    async def gone():
        return (await status(cluster, asked))["primary"] is None

    await eventually(gone, f"{asked} knows that nobody leads")
    await assert_nobody_leads(cluster, WITHOUT_S)
    assert f"paused, and nobody takes over from {old.node}" in await blocked(cluster, other)
    cluster.start_agent(old.node)
    again = await cluster.wait_primary(timeout_s=TIMEOUT_S, above_timeline=old.timeline)
    assert again.node == old.node
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    assert (await status(cluster, asked))["document"]["paused"] is True

    told = await done(cluster, other, "resume")
    assert (told["paused"], told["primary"]) == (False, old.node)
    kill_postgres(cluster, old.node)
    new = await cluster.wait_primary(timeout_s=TIMEOUT_S, other_than=old.node)
    assert new.node in (asked, other)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_a_pause_without_a_primary_is_ended_where_it_is_asked_for(cluster, writer, monitor):
    old = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    asked = sorted(old.sync)[0]
    await done(cluster, asked, "pause")
    await cluster.kill_host(old.node)

    async def free():
        return (await status(cluster, asked))["hold_remaining_ms"] == 0

    await eventually(free, f"{asked} holds for nobody")
    told = await done(cluster, asked, "resume")
    assert (told["paused"], told["primary"]) == (False, asked)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    cluster.start_agent(old.node)
    await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_every_server_is_restarted_and_no_row_is_lost(cluster, writer, monitor):
    old = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    names = [node.name for node in cluster.nodes]
    before = {name: postmaster_pid(cluster.node(name)) for name in names}
    code, _, said = await command(cluster, old.node, "restart")
    assert (code, "--yes" in said) == (2, True)
    told = await done(cluster, sorted(old.sync)[0], "restart", "--yes")
    assert (sorted(told["restarted"]), told["left"]) == (names, [])
    assert told["restarted"][-1] == old.node
    after = {name: postmaster_pid(cluster.node(name)) for name in names}
    assert None not in after.values()
    assert all(after[name] != before[name] for name in names), (before, after)
    new = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    assert new.node == told["primary"] != old.node
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_one_standby_is_restarted_and_the_others_go_on(cluster, writer):
    primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    one, other = sorted(primary.sync)
    before = {name: postmaster_pid(cluster.node(name)) for name in (primary.node, one, other)}
    node = cluster.node(other)
    result = await run_metako(
        *("restart", one, "-c", str(node.config_path), "--yes", "--timeout", "30"),
        cwd=node.directory,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    first, second, last = result.stdout.decode().splitlines()
    assert first == f"accepted: restarts {one}"
    assert second.startswith(f"{one} restarted after ")
    assert last == f"1 restarted, {primary.node} is the primary"
    after = {name: postmaster_pid(cluster.node(name)) for name in before}
    assert {name for name in before if before[name] != after[name]} == {one}
    code, told, _ = await command(cluster, other, "restart", "--cancel")
    assert (code, told["reason"]) == (1, "no restart is under way")
    code, told, _ = await command(cluster, other, "restart", "n99", "--yes")
    assert (code, "no member" in told["reason"]) == (1, True)
    await assert_rows_exactly_once(cluster, writer)


async def test_a_switchover_by_the_clock_is_cancelled_and_another_one_is_done(cluster, writer):
    old = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    asked, target = sorted(old.sync)
    await done(cluster, asked, "switchover", "--at", "+1h")

    async def planned():
        return "scheduled" in await text_of_status(cluster, target)

    await eventually(planned, f"{target} shows that it is planned")
    code, told, _ = await command(cluster, asked, "switchover", "--at", "+2h")
    assert (code, "one is scheduled already" in told["reason"]) == (1, True)
    await done(cluster, target, "switchover", "--cancel")

    at_s = time.time() + AT_S
    told = await done(cluster, asked, "switchover", "--to", target, "--at", f"+{AT_S}s")
    assert told["to"] == target
    while time.time() < at_s - 0.2:
        now = active_primary(await cluster.views())
        assert now is not None
        assert now.node == old.node
        await trio.sleep(0.1)
    new = await cluster.wait_primary(timeout_s=TIMEOUT_S, other_than=old.node)
    assert new.node == target
    await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    assert (await status(cluster, asked))["document"]["scheduled"] is None
    await assert_rows_exactly_once(cluster, writer)
