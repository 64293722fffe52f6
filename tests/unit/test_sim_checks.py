"""The simulator itself: checkers that fail when they must, and a model that tells the truth."""

from __future__ import annotations

import pytest

from metako.model.ids import NodeId, TimelineId
from sim.first.checks import Ack, Checks, ViolationError
from sim.first.heap import Heap
from sim.first.scenario import others, primary, settled, until, writes

A, B = NodeId("a"), NodeId("b")


def test_heap_keeps_the_order_of_scheduling_among_equals_and_never_goes_back() -> None:
    heap = Heap()
    seen: list[tuple[int, str]] = []
    for name in ("first", "second"):
        heap.at(10, lambda name=name: seen.append((heap.now_ns, name)))  # type: ignore[misc]
    heap.at(5, lambda: heap.at(1, lambda: seen.append((heap.now_ns, "late"))))
    heap.run_until(20)
    assert seen == [(5, "late"), (10, "first"), (10, "second")]
    assert heap.now_ns == 20


def test_acknowledgement_of_an_older_timeline_is_a_violation() -> None:
    checks = Checks(0)
    checks.acknowledged(Ack(1, A, 2, "x"))
    checks.acknowledged(Ack(2, B, 3, "y"))
    with pytest.raises(ViolationError, match="timeline 2"):
        checks.acknowledged(Ack(3, A, 2, "z"))


def test_two_servers_on_one_timeline_are_a_violation() -> None:
    checks = Checks(0)
    checks.acknowledged(Ack(1, A, 2, "x"))
    with pytest.raises(ViolationError, match="one timeline"):
        checks.acknowledged(Ack(2, B, 2, "y"))


def test_two_writable_servers_are_a_violation() -> None:
    checks = Checks(0)
    checks.writable(1, [A])
    with pytest.raises(ViolationError, match="a and b are both writable"):
        checks.writable(2, [A, B])


def test_two_winners_of_a_term_are_a_violation() -> None:
    checks = Checks(0)
    checks.elected(A, 1)
    checks.elected(A, 1)
    checks.elected(B, 2)
    with pytest.raises(ViolationError, match="term 1"):
        checks.elected(B, 1)


def test_timeline_made_twice_is_a_violation_even_by_the_same_node() -> None:
    checks = Checks(0)
    checks.minted(A, TimelineId(2))
    with pytest.raises(ViolationError, match="timeline 2"):
        checks.minted(A, TimelineId(2))


@pytest.mark.parametrize(("stored", "what"), [(["x"], "lost 1"), (["x", "y", "y"], "twice")])
def test_lost_and_doubled_values_are_violations(stored: list[str], what: str) -> None:
    checks = Checks(0)
    checks.acknowledged(Ack(1, A, 2, "x"))
    checks.acknowledged(Ack(2, A, 2, "y"))
    checks.nothing_lost(["y", "x", "unacknowledged"])
    with pytest.raises(ViolationError, match=what):
        checks.nothing_lost(stored)


def test_stalled_standby_stays_connected_and_acknowledges_nothing() -> None:
    world = settled()
    name = primary(world)
    standbys = others(world, name)
    world.stalled.update(standbys)
    assert not writes(world)
    assert all(world.nodes[n].server.follows(name) for n in standbys)
    world.stalled.clear()
    until(world, lambda: writes(world), limit_s=1)


def test_commit_needs_as_many_standbys_as_the_setting_says() -> None:
    world = settled("abcd", acks=2)
    name = primary(world)
    one, two, _ = others(world, name)
    world.stalled.update((one, two))
    assert not writes(world)
    world.stalled.discard(one)
    until(world, lambda: writes(world), limit_s=1)


def test_frozen_guard_does_not_fence_and_a_thawed_one_does() -> None:
    world = settled()
    name = primary(world)
    world.pause(name, server=False)
    world.freeze_guard(name)
    world.run(5)
    assert world.nodes[name].server.writable
    world.resume(name)
    world.run(0.1)
    assert not world.nodes[name].server.writable


def test_wait_that_is_not_fulfilled_is_a_violation() -> None:
    world = settled()
    with pytest.raises(ViolationError, match="not within"):
        until(world, lambda: False, limit_s=0.1)
