"""Planned changes of the primary on real servers: nothing lost, nobody rewound, an end always."""

import json
import os
import signal

import pytest
import trio
from harness import (
    assert_rows_exactly_once,
    run_metako,
    wait_writes,
)

from metako.demo.processes import Kind, node_by_kind, postmaster_pid
from metako.demo.view import active_primary

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HEALTHY_TIMEOUT_S = 60.0
WRITES_TIMEOUT_S = 15.0
ENDS_TIMEOUT_S = 20.0


async def healthy_primary(cluster):
    return await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)


async def switchover(cluster, asked, *options):
    """Run the command on a node; return its exit code, its JSON and what it says on stderr."""
    node = cluster.node(asked)
    result = await run_metako(
        *("switchover", "-c", str(node.config_path), "--json", *options), cwd=node.directory
    )
    told = json.loads(result.stdout) if result.stdout else {}
    return result.returncode, told, result.stderr.decode()


def events_since(cluster, name, offset):
    """Return the log lines of a node beyond an offset, decoded."""
    with cluster.node(name).log_path.open("rb") as log:
        log.seek(offset)
        return [json.loads(line) for line in log if line.startswith(b"{")]


def log_sizes(cluster):
    return {node.name: node.log_path.stat().st_size for node in cluster.nodes}


def steps_of(lines):
    return [line.get("step") for line in lines if line.get("event") == "step_finished"]


def data_id(cluster, name):
    return (cluster.node(name).data_dir / "metako.data_id").read_text()


async def assert_followed_as_it_was(cluster, old, offsets, before):
    """The old primary follows with the data that it had: neither rewound nor cloned."""
    await cluster.wait_streaming(old, timeout_s=HEALTHY_TIMEOUT_S)
    steps = steps_of(events_since(cluster, old, offsets[old]))
    assert "Start" in steps
    assert not {"Rewind", "Clone"} & set(steps), steps
    assert data_id(cluster, old) == before


async def test_ordered_on_any_node_it_ends_where_it_was_meant_to(cluster, writer, monitor):
    old = await healthy_primary(cluster)
    standbys = sorted(old.sync)
    offsets, before = log_sizes(cluster), data_id(cluster, old.node)
    code, told, said = await switchover(cluster, standbys[0], "--to", standbys[1])
    assert code == 0, (told, said)
    assert told["ok"] is True
    assert (told["from"], told["to"], told["primary"]) == (old.node, standbys[1], standbys[1])
    assert told["timeline"] > old.timeline
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_followed_as_it_was(cluster, old.node, offsets, before)
    new = await healthy_primary(cluster)
    assert new.node == standbys[1]
    assert new.document.startswith(f"{told['term']}.")
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_leader_chooses_and_the_change_back_needs_no_repair(cluster, writer, monitor):
    first = await healthy_primary(cluster)
    offsets, before = log_sizes(cluster), data_id(cluster, first.node)
    code, told, said = await switchover(cluster, first.node)
    assert code == 0, (told, said)
    second = await healthy_primary(cluster)
    assert second.node == told["primary"] != first.node
    code, told, said = await switchover(cluster, second.node, "--to", first.node)
    assert code == 0, (told, said)
    await healthy_primary(cluster)
    assert not {"Rewind", "Clone"} & set(
        steps_of(events_since(cluster, first.node, offsets[first.node]))
    )
    assert data_id(cluster, first.node) == before
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_frozen_standby_does_not_hold_up_the_shutdown(cluster, writer, monitor):
    """PostgreSQL waits for every standby that is connected: this one confirms nothing."""
    old = await healthy_primary(cluster)
    target, frozen = sorted(old.sync)
    await cluster.pause_host(frozen)
    with trio.fail_after(ENDS_TIMEOUT_S):
        code, told, said = await switchover(cluster, old.node, "--to", target, "--timeout", "10")
    assert code == 0, (told, said)
    assert told["duration_ms"] < 5000
    cluster.resume(frozen)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await healthy_primary(cluster)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()


async def test_frozen_target_gives_it_up_and_applications_notice_nothing(cluster, writer):
    old = await healthy_primary(cluster)
    target = sorted(old.sync)[0]
    postmaster = postmaster_pid(cluster.node(old.node))
    await cluster.pause_host(target)
    code, told, said = await switchover(cluster, old.node, "--to", target, "--timeout", "2")
    assert code == 1, (told, said)
    assert told["ok"] is False
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    now = active_primary(await cluster.views())
    assert now is not None
    assert (now.node, now.timeline) == (old.node, old.timeline)
    assert postmaster_pid(cluster.node(old.node)) == postmaster
    cluster.resume(target)
    await healthy_primary(cluster)
    await assert_rows_exactly_once(cluster, writer)


async def test_impossible_targets_are_refused_with_the_reason(cluster):
    primary = await healthy_primary(cluster)
    for target, reason in ((primary.node, "the primary already"), ("n99", "no member")):
        code, told, said = await switchover(cluster, primary.node, "--to", target)
        assert code == 1, (told, said)
        assert reason in told["reason"]
    code, told, _ = await switchover(cluster, primary.node, "--cancel")
    assert code == 1
    assert "no switchover is under way" in told["reason"]
    now = active_primary(await cluster.views())
    assert now is not None
    assert (now.node, now.timeline) == (primary.node, primary.timeline)


async def test_sigterm_of_the_primary_hands_over_and_it_comes_back_as_it_was(
    cluster, writer, monitor
):
    old = await healthy_primary(cluster)
    offsets, before = log_sizes(cluster), data_id(cluster, old.node)
    (agent,) = node_by_kind(cluster.node(old.node))[Kind.AGENT]
    os.kill(agent.pid, signal.SIGTERM)
    new = await cluster.wait_primary(
        timeout_s=ENDS_TIMEOUT_S, above_timeline=old.timeline, other_than=old.node
    )
    with trio.fail_after(ENDS_TIMEOUT_S):
        while old.node not in cluster.dead_nodes():  # noqa: ASYNC110 - a process that is ending
            await trio.sleep(0.01)
    released = [
        line
        for line in events_since(cluster, old.node, offsets[old.node])
        if line.get("event") == "lease_released"
    ]
    assert [line["successor"] for line in released] == [new.node]
    assert cluster.agent_exit(old.node) == 0
    cluster.start_agent(old.node)
    await assert_followed_as_it_was(cluster, old.node, offsets, before)
    await wait_writes(writer, timeout_s=WRITES_TIMEOUT_S)
    await assert_rows_exactly_once(cluster, writer)
    monitor.assert_never_two_writable()
