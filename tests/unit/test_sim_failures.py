"""Named faults in the simulator: how long each keeps writes away, and that nothing is lost."""

from __future__ import annotations

import pytest

from metako.model.document import Phase
from metako.model.events import EventName
from metako.model.postgres import ProcessState
from sim.heap import NS_PER_MS
from sim.network import Traffic
from sim.settled import (
    Stage,
    document,
    finish,
    follows,
    happened,
    others,
    outage,
    primary,
    settled,
    stall,
    status,
    unstall,
    until,
    wait_primary,
    writes,
)

SEEDS = range(3)

CRASH_S = 0.5  # PostgreSQL dies, its agent lives: the lease is released at once
SILENCE_S = 3.0  # nobody speaks for the old primary: its hold of 2 s has to end first
GRACE_S = 1.5  # until a listed standby that is away leaves the sync set
BOOT_S = 0.5  # until an agent that was started takes its first step, at most


@pytest.mark.parametrize("seed", SEEDS)
def test_crash_of_postgresql_costs_half_a_second(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    world.nodes[old].kill_postgres()
    assert outage(world, other_than=old) <= CRASH_S
    assert finish(world) != old
    assert follows(world, old, primary(world))


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_of_the_host_costs_three_seconds(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    world.nodes[old].kill_host()
    assert outage(world, other_than=old) <= SILENCE_S
    world.write_everywhere(3)
    world.nodes[old].start()
    until(world, lambda: len(document(world).sync.members) == 2, limit_s=10)
    finish(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_agent_costs_three_seconds_and_its_guard_ends_the_server(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    world.nodes[old].kill_agent()
    assert outage(world, other_than=old) <= SILENCE_S
    assert world.nodes[old].server.process is ProcessState.STOPPED
    assert world.marks.counts["old_primary_fenced"] == 1
    world.nodes[old].start()
    finish(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_agent_restarted_within_its_lease_leaves_the_primary_alone(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    before = document(world)
    data = world.nodes[old].server.data
    assert data is not None
    history = data.history
    world.nodes[old].kill_agent()
    world.run(0.2)
    world.write_everywhere(0.2)
    world.nodes[old].start()
    world.write_everywhere(4, per_second=20)
    assert finish(world) == old
    assert world.nodes[old].server.data is data
    assert data.history == history
    after = document(world)
    assert (after.term, after.timelines) == (before.term, before.timelines)
    assert after.sync.nodes() == before.sync.nodes()


def test_agent_restarted_after_its_lease_does_not_lead_on() -> None:
    world = settled()
    old = primary(world)
    world.nodes[old].kill_agent()
    world.run(2.0)
    assert not world.nodes[old].server.writable
    world.nodes[old].start()
    assert wait_primary(world, 5) != old
    finish(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_paused_agent_costs_three_seconds(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    world.nodes[old].pause_agent()
    assert outage(world, other_than=old) <= SILENCE_S
    world.write_everywhere(1)
    world.nodes[old].resume_agent()
    assert finish(world) != old


@pytest.mark.parametrize("seed", SEEDS)
def test_resumed_host_of_the_old_primary_is_fenced_and_acknowledges_nothing(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    in_flight = world.write(old)
    assert in_flight is not None
    world.nodes[old].pause_host()
    assert outage(world, other_than=old) <= SILENCE_S
    world.write_everywhere(1)
    before = len(world.acked)
    assert world.nodes[old].server.in_recovery is False  # still: it has not run since
    world.nodes[old].resume_host()
    world.write_everywhere(2)
    assert not [ack for ack in world.acked[before:] if ack.node == old]
    assert finish(world) != old
    assert in_flight not in {ack.value for ack in world.acked}
    assert world.nodes[old].server.in_recovery is True


@pytest.mark.parametrize("seed", SEEDS)
def test_partitioned_primary_ends_before_the_next_one_begins(seed: int) -> None:
    world = settled(seed=seed)
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
    world.nodes[old].pause_agent()
    world.nodes[old].pause_guard()
    until(world, lambda: bool(happened(world, EventName.ELECTION_WON)), limit_s=SILENCE_S)
    assert world.nodes[old].server.writable
    before = len(world.acked)
    accepted = [world.write(old) for _ in range(20)]
    world.write_everywhere(2)
    assert all(accepted)
    assert len(world.acked) > before
    assert not [ack for ack in world.acked[before:] if ack.node == old]
    world.nodes[old].resume_host()
    finish(world)


@pytest.mark.parametrize("direction", ["deaf", "mute"])
@pytest.mark.parametrize("victim", [0, 1])
def test_one_way_cut_of_a_standby_deposes_nobody(direction: str, victim: int) -> None:
    world = settled()
    old = primary(world)
    standby = others(world, old)[victim]
    term = document(world).term
    if direction == "deaf":
        world.network.cut("*", standby)
    else:
        world.network.cut(standby, "*")
    for _ in range(20):
        world.write_everywhere(0.5, per_second=20)
        assert primary(world) == old
    assert document(world).term == term
    world.network.heal()
    world.run(5)
    assert finish(world) == old
    assert all(n == old for n in happened(world, EventName.ELECTION_WON))


def test_loss_of_a_third_of_all_messages_deposes_nobody() -> None:
    world = settled()
    old = primary(world)
    term = document(world).term
    world.network.set_link("*", "*", loss=0.3)
    world.write_everywhere(20, per_second=10)
    assert primary(world) == old
    assert document(world).term == term


def test_minority_elects_nobody_however_long_it_waits() -> None:
    world = settled()
    old = primary(world)
    last = others(world, old)[1]
    world.nodes[old].kill_host()
    world.nodes[others(world, old)[0]].kill_host()
    term = document(world).term
    for _ in range(60):
        world.run(0.5)
        assert world.primary() is None
    hard = world.nodes[last].hard
    assert hard is not None
    assert not world.nodes[last].server.writable
    assert hard.promised_term == term  # pre-votes changed nothing
    world.nodes[old].start()
    assert outage(world) <= BOOT_S + SILENCE_S
    finish(world)


def test_every_node_powered_off_at_once_comes_back_with_everything() -> None:
    world = settled()
    for node in world.nodes.values():
        node.kill_host()
    world.run(5)
    for node in world.nodes.values():
        node.start()
    assert outage(world) <= BOOT_S + 4.0  # a full hold after the restart, then an election
    finish(world)
    until(world, lambda: len(document(world).sync.members) == 2, limit_s=10)


def test_single_node_whose_postgresql_crashes_is_the_primary_again() -> None:
    world = Stage("a")
    wait_primary(world)
    world.write_everywhere(0.3)
    first = document(world).tip
    world.nodes[world.names[0]].kill_postgres()
    assert outage(world) <= 1.0
    assert document(world).tip > first
    assert finish(world) == "a"


def test_two_data_nodes_and_a_witness_fail_over_by_themselves() -> None:
    world = settled("abw", witnesses="w")
    old = primary(world)
    world.nodes[old].kill_host()
    # The new primary's only standby is the dead one: commits wait until it has left the set.
    assert outage(world, other_than=old) <= SILENCE_S + GRACE_S
    assert primary(world) != "w"
    # The next primary must be able to go on alone, and the old one to come back.
    world.write_everywhere(3)
    assert not document(world).sync.members
    world.nodes[old].start()
    until(world, lambda: len(document(world).sync.members) == 1, limit_s=10)
    finish(world)
    assert world.nodes[world.names[2]].server.data is None


@pytest.mark.parametrize("seed", SEEDS)
def test_stopped_primary_releases_its_lease_and_nobody_waits_for_the_hold(seed: int) -> None:
    world = settled(seed=seed)
    old = primary(world)
    world.nodes[old].stop()
    assert outage(world, other_than=old) <= CRASH_S
    assert world.nodes[old].stopped
    assert happened(world, EventName.LEASE_RELEASED) == [old]
    assert not happened(world, EventName.HOLD_EXPIRED)
    finish(world)


def test_old_primary_with_a_tail_that_nobody_acknowledged_is_rewound() -> None:
    world = settled()
    old = primary(world)
    world.network.cut(old, "*", Traffic.REPLICATION)
    tail = world.write(old)
    world.run(0.01)  # it is flushed there
    world.nodes[old].kill_host()
    world.network.heal()
    assert tail not in {ack.value for ack in world.acked}
    outage(world, other_than=old)
    world.nodes[old].start()
    data = world.nodes[old].server.data
    assert data is not None
    assert tail in {value for record in data.wal for _, value in record.values}
    before = data.data_id
    until(world, lambda: follows(world, old, primary(world)), limit_s=10)
    rewound = world.nodes[old].server.data
    assert rewound is not None
    assert tail not in {value for record in rewound.wal for _, value in record.values}
    assert rewound.data_id != before
    assert world.marks.counts["rewind_used"] == 1
    finish(world)


def test_bootstrap_waits_for_a_voter_that_is_missing() -> None:
    world = Stage(down="c")
    world.run(20)
    assert world.primary() is None
    assert world.document() is None
    world.nodes[world.names[2]].start()
    wait_primary(world, 5)
    assert document(world).phase is Phase.ACTIVE


def test_bootstrap_refuses_when_a_voter_has_data() -> None:
    world = Stage(down="c")
    world.nodes[world.names[2]].foreign_data()
    world.nodes[world.names[2]].start()
    world.run(20)
    assert world.primary() is None
    assert world.document() is None
    assert "c already has a data directory" in status(world, "a").blocked


def test_primary_whose_standbys_receive_nothing_acknowledges_nothing() -> None:
    world = settled()
    assert writes(world)
    stall(world, *others(world, primary(world)))
    assert not writes(world)
    unstall(world)
    until(world, lambda: writes(world), limit_s=1)


def test_a_wal_sender_that_is_killed_takes_the_primary_down() -> None:
    world = settled()
    old = primary(world)
    assert not world.nodes[others(world, old)[0]].kill_sender()
    assert world.nodes[old].kill_sender()
    assert outage(world, other_than=old) <= CRASH_S
    assert finish(world) != old


def test_a_startup_process_that_is_killed_takes_its_standby_down_and_nobody_else() -> None:
    world = settled()
    old = primary(world)
    standby = others(world, old)[0]
    assert not world.nodes[old].kill_startup()
    assert world.nodes[standby].kill_startup()
    assert world.nodes[standby].server.process is not ProcessState.RUNNING
    until(world, lambda: follows(world, standby, old), limit_s=10)
    assert finish(world) == old


def test_busy_cores_make_agents_late_and_depose_nobody() -> None:
    world = settled()
    old, term = primary(world), document(world).term
    for node in world.nodes.values():
        node.burn(2)
        assert node.agent.step_ns > 0
    world.run(20)
    assert (primary(world), document(world).term) == (old, term)
    world.nodes[old].slow_agent(1)
    world.nodes[old].burn(0)
    assert world.nodes[old].agent.step_ns == NS_PER_MS
    world.nodes[old].slow_agent(0)
    assert world.nodes[old].agent.step_ns == 0
