"""Named faults in the simulator: how long each keeps writes away, and that nothing is lost."""

from __future__ import annotations

import pytest

from metako.model.document import Phase
from metako.model.events import EventName
from metako.model.postgres import ProcessState
from sim.first.scenario import document, finish, happened, others, outage, primary, settled, until, writes
from sim.first.world import World

SEEDS = range(3)

CRASH_S = 0.5  # PostgreSQL dies, its agent lives: the lease is released at once
SILENCE_S = 3.0  # nobody speaks for the old primary: its hold of 2 s has to end first
GRACE_S = 1.5  # until a listed standby that is away leaves the sync set


@pytest.mark.parametrize("seed", SEEDS)
def test_crash_of_postgresql_costs_half_a_second(seed: int) -> None:
    world = settled(seed=seed, slowness=0.01)
    old = primary(world)
    world.kill_server(old)
    assert outage(world, other_than=old) <= CRASH_S
    assert finish(world) != old
    assert world.nodes[old].server.follows(primary(world))


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_of_the_host_costs_three_seconds(seed: int) -> None:
    world = settled(seed=seed, slowness=0.01)
    old = primary(world)
    world.kill_node(old)
    assert outage(world, other_than=old) <= SILENCE_S
    world.write_everywhere(3)
    world.start(old)
    until(world, lambda: len(document(world).sync.members) == 2, limit_s=10)
    finish(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_agent_costs_three_seconds_and_its_guard_ends_the_server(seed: int) -> None:
    world = settled(seed=seed, slowness=0.01)
    old = primary(world)
    world.kill_agent(old)
    assert outage(world, other_than=old) <= SILENCE_S
    assert world.nodes[old].server.process is ProcessState.STOPPED
    world.start(old)
    finish(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_agent_restarted_within_its_lease_leaves_the_primary_alone(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    before = document(world)
    timeline = world.nodes[old].server.data
    assert timeline is not None
    history = timeline.history
    world.kill_agent(old)
    world.run(0.2)
    world.write_everywhere(0.2)
    world.start(old)
    world.write_everywhere(4)
    assert finish(world) == old
    assert timeline.history == history
    after = document(world)
    assert (after.term, after.timelines) == (before.term, before.timelines)
    assert after.sync.nodes() == before.sync.nodes()


def test_agent_restarted_after_its_lease_does_not_lead_on() -> None:
    world = settled()
    old = primary(world)
    world.kill_agent(old)
    world.run(2.0)
    assert not world.nodes[old].server.writable
    world.start(old)
    assert world.run_until_primary(5) != old
    finish(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_paused_agent_costs_three_seconds(seed: int) -> None:
    world = settled(seed=seed, slowness=0.01)
    old = primary(world)
    world.pause(old, server=False)
    assert outage(world, other_than=old) <= SILENCE_S
    world.write_everywhere(1)
    world.resume(old)
    assert finish(world) != old


@pytest.mark.parametrize("seed", SEEDS)
def test_resumed_host_of_the_old_primary_is_fenced_and_acknowledges_nothing(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    in_flight = world.write(old)
    world.pause(old, server=True)
    assert outage(world, other_than=old) <= SILENCE_S
    world.write_everywhere(1)
    before = len(world.acked)
    world.resume(old)
    assert world.nodes[old].server.writable  # still: it has not run since
    world.write_everywhere(2)
    assert not [ack for ack in world.acked[before:] if ack.node == old]
    assert finish(world) != old
    assert in_flight not in {ack.value for ack in world.acked if ack.node == old}
    assert world.nodes[old].server.in_recovery is True


@pytest.mark.parametrize("seed", SEEDS)
def test_partitioned_primary_ends_before_the_next_one_begins(seed: int) -> None:
    world = settled(seed=seed, slowness=0.01)
    old = primary(world)
    world.network.partition([old], others(world, old))
    gone = until(world, lambda: not world.nodes[old].server.writable, limit_s=SILENCE_S)
    assert world.primary() is None
    assert gone + outage(world, other_than=old) <= SILENCE_S
    world.write_everywhere(1)
    world.network.heal()
    assert finish(world) != old


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_acknowledged_by_a_primary_that_nothing_fences(seed: int) -> None:
    """The promise needs neither clock nor guard: voters have detached before anybody leads."""
    world = settled(seed=seed)
    old = primary(world)
    world.pause(old, server=False)
    world.freeze_guard(old)
    until(world, lambda: bool(happened(world, EventName.ELECTION_WON)), limit_s=SILENCE_S)
    assert world.nodes[old].server.writable
    before = len(world.acked)
    accepted = [world.write(old) for _ in range(20)]
    world.write_everywhere(2)
    assert all(accepted)
    assert len(world.acked) > before
    assert not [ack for ack in world.acked[before:] if ack.node == old]
    world.resume(old)
    finish(world)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["deaf", "mute"])
@pytest.mark.parametrize("victim", [0, 1])
def test_one_way_cut_of_a_standby_deposes_nobody(direction: str, victim: int) -> None:
    world = settled()
    old = primary(world)
    standby = others(world, old)[victim]
    term = document(world).term
    for other in others(world, standby):
        world.network.cut.add((other, standby) if direction == "deaf" else (standby, other))
    for _ in range(20):
        world.write_everywhere(0.5, per_second=20)
        assert primary(world) == old
    assert document(world).term == term
    world.network.heal()
    world.run(5)
    assert finish(world) == old
    assert all(n == old for n in happened(world, EventName.ELECTION_WON))


@pytest.mark.slow
def test_loss_of_a_third_of_all_messages_deposes_nobody() -> None:
    world = settled()
    old = primary(world)
    term = document(world).term
    world.network.loss = 0.3
    world.write_everywhere(20, per_second=10)
    assert primary(world) == old
    assert document(world).term == term


@pytest.mark.slow
def test_minority_elects_nobody_however_long_it_waits() -> None:
    world = settled()
    old = primary(world)
    world.kill_node(old)
    world.kill_node(others(world, old)[0])
    term = document(world).term
    for _ in range(60):
        world.run(0.5)
        assert world.primary() is None
    last = others(world, old)[1]
    assert not world.nodes[last].server.writable
    assert world.nodes[last].hard.promised_term == term  # pre-votes changed nothing
    world.start(old)
    assert outage(world) <= SILENCE_S
    finish(world)


def test_every_node_powered_off_at_once_comes_back_with_everything() -> None:
    world = settled()
    for name in world.names:
        world.kill_node(name)
    world.run(5)
    for name in world.names:
        world.start(name)
    assert outage(world) <= 4.0  # a full hold after the restart, then an election
    finish(world)
    until(world, lambda: len(document(world).sync.members) == 2, limit_s=10)


def test_single_node_whose_postgresql_crashes_is_the_primary_again() -> None:
    world = World("a")
    world.run_until_primary(10)
    world.write_everywhere(0.3)
    first = document(world).tip
    world.kill_server(world.names[0])
    assert outage(world) <= 1.0
    assert document(world).tip > first
    assert finish(world) == "a"


def test_two_data_nodes_and_a_witness_fail_over_by_themselves() -> None:
    world = settled("abw", witnesses="w")
    old = primary(world)
    world.kill_node(old)
    # The new primary's only standby is the dead one: commits wait until it has left the set.
    assert outage(world, other_than=old) <= SILENCE_S + GRACE_S
    assert primary(world) != "w"
    # The next primary must be able to go on alone, and the old one to come back.
    world.write_everywhere(3)
    assert not document(world).sync.members
    world.start(old)
    until(world, lambda: len(document(world).sync.members) == 1, limit_s=10)
    finish(world)
    assert world.nodes[world.names[2]].server.data is None


@pytest.mark.parametrize("seed", SEEDS)
def test_stopped_primary_releases_its_lease_and_nobody_waits_for_the_hold(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    world.stop(old)
    assert outage(world, other_than=old) <= CRASH_S
    assert world.nodes[old].stopped
    assert happened(world, EventName.LEASE_RELEASED) == [old]
    assert not happened(world, EventName.HOLD_EXPIRED)
    finish(world)


def test_old_primary_with_a_tail_that_nobody_acknowledged_is_rewound() -> None:
    world = settled()
    old = primary(world)
    world.stalled.update(others(world, old))
    tail = world.write(old)
    world.run(0.01)
    world.kill_node(old)
    world.stalled.clear()
    assert tail not in {ack.value for ack in world.acked}
    outage(world, other_than=old)
    world.start(old)
    data = world.nodes[old].server.data
    assert data is not None
    assert tail in data.values()
    before = data.data_id
    until(world, lambda: world.nodes[old].server.follows(primary(world)), limit_s=10)
    rewound = world.nodes[old].server.data
    assert rewound is not None
    assert tail not in rewound.values()
    assert rewound.data_id != before
    finish(world)


def test_bootstrap_waits_for_a_voter_that_is_missing() -> None:
    world = World(down="c")
    world.run(20)
    assert world.primary() is None
    assert all(node.hard.document is None for node in world.nodes.values())
    world.start(world.names[2])
    world.run_until_primary(5)
    assert document(world).phase is Phase.ACTIVE


def test_bootstrap_refuses_when_a_voter_has_data() -> None:
    donor = settled()
    world = World(down="c")
    world.nodes[world.names[2]].server.data = donor.nodes[donor.names[2]].server.data
    world.start(world.names[2])
    world.run(20)
    assert world.primary() is None
    assert all(node.hard.document is None for node in world.nodes.values())
    engine = world.nodes[world.names[0]].engine
    assert engine is not None
    assert "c already has a data directory" in engine.status(world.heap.instant()).blocked


def test_primary_whose_standbys_receive_nothing_acknowledges_nothing() -> None:
    world = settled()
    assert writes(world)
    world.stalled.update(others(world, primary(world)))
    assert not writes(world)
