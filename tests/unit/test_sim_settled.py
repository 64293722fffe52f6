"""The ground that directed scenarios stand on: time, stalled standbys, commits, guards, waiting."""

from __future__ import annotations

import pytest

from metako.model.ids import NodeId
from sim.heap import Heap
from sim.postgres.commits import Outcome, SyncLevel
from sim.settled import (
    follows,
    keep_down,
    let_up,
    others,
    outage,
    primary,
    settled,
    stall,
    unstall,
    until,
    writes,
)
from sim.watch import ViolationError


def test_heap_keeps_the_order_of_scheduling_among_equals_and_never_goes_back() -> None:
    heap = Heap()
    seen: list[tuple[int, str]] = []

    def see(name: str) -> None:
        seen.append((heap.now_ns, name))

    for name in ("first", "second"):
        heap.at(10, see, name)
    heap.at(5, lambda: heap.at(1, see, "late"))
    heap.cancel(heap.at(7, see, "cancelled"))
    heap.run_until(20)
    assert seen == [(5, "late"), (10, "first"), (10, "second")]
    assert heap.now_ns == 20


def test_stalled_standby_stays_connected_and_acknowledges_nothing() -> None:
    world = settled()
    name = primary(world)
    standbys = others(world, name)
    stall(world, *standbys)
    assert not writes(world)
    assert all(follows(world, n, name) for n in standbys)
    unstall(world)
    until(world, lambda: writes(world), limit_s=1)


def test_commit_needs_as_many_standbys_as_the_setting_says() -> None:
    world = settled("abcd", acks=2)
    name = primary(world)
    one, two, _ = others(world, name)
    stall(world, one, two)
    assert not writes(world)
    world.nodes[one].server.receive_stalled = False
    until(world, lambda: writes(world), limit_s=1)


def test_write_is_told_to_the_story_when_it_returns_and_not_before() -> None:
    world = settled()
    name = primary(world)
    stall(world, *others(world, name))
    outcomes: list[Outcome] = []
    value = world.write(name, outcomes.append)
    world.run(0.1)
    assert not outcomes
    assert value not in {ack.value for ack in world.acked}
    unstall(world)
    world.run(0.1)
    assert outcomes == [Outcome.OK]
    assert world.acked[-1].value == value
    assert world.acked[-1].node == name


def test_weak_commit_returns_without_a_standby() -> None:
    world = settled()
    name = primary(world)
    stall(world, *others(world, name))
    outcomes: list[Outcome] = []
    world.write(name, outcomes.append, level=SyncLevel.LOCAL)
    world.run(0.1)
    assert outcomes == [Outcome.OK]


def test_standby_and_witness_take_no_writes() -> None:
    world = settled("abw", witnesses="w")
    assert world.write("b") is None
    assert world.write("w") is None
    assert not follows(world, "w", primary(world))


def test_frozen_guard_does_not_fence_and_a_thawed_one_does() -> None:
    world = settled()
    node = world.nodes[primary(world)]
    node.pause_agent()
    node.pause_guard()
    world.run(5)
    assert node.server.writable
    node.resume_guard()
    world.run(0.01)
    assert node.server.being_killed
    world.run(world.election.fence_margin_ms / 1000)
    assert not node.server.writable


def test_server_that_is_kept_down_comes_up_when_it_may() -> None:
    world = settled()
    name = primary(world)
    standby = others(world, name)[0]
    keep_down(world, standby)
    world.run(3)
    assert not follows(world, standby, name)
    let_up(world, standby)
    until(world, lambda: follows(world, standby, name), limit_s=10)


def test_outage_is_as_long_as_nobody_acknowledges() -> None:
    world = settled()
    old = primary(world)
    assert outage(world) == 0.01  # one write
    began = world.heap.now_ns
    world.nodes[old].kill_host()
    away_s = outage(world, other_than=old)
    assert away_s == (world.heap.now_ns - began) / 1e9
    assert world.acked[-1].node == primary(world) != NodeId(old)


def test_wait_that_is_not_fulfilled_is_a_violation() -> None:
    world = settled()
    with pytest.raises(ViolationError, match=r"not within 0\.1 s"):
        until(world, lambda: False, limit_s=0.1)
