"""Agreement in the simulator: the sync set, who may stand, and candidacies that meet."""

from __future__ import annotations

import pytest

from metako.election.settings import ElectionSettings
from metako.model.document import Durability
from metako.model.events import EventName
from metako.model.ids import NodeId
from sim.first.scenario import (
    CALM,
    document,
    finish,
    happened,
    others,
    outage,
    primary,
    settled,
    until,
    writes,
)
from sim.first.world import World

SEEDS = range(3)
SILENCE_S = 3.0


def lists(world: World, *nodes: str) -> bool:
    """Return whether the sync set is exactly these nodes, in the document and in PostgreSQL."""
    server = world.nodes[primary(world)].server
    return document(world).sync.nodes() == set(nodes) == set(server.config.sync.nodes)


def test_standbys_lost_one_after_the_other_leave_the_set_and_writes_go_on() -> None:
    world = settled()
    old = primary(world)
    first, second = others(world, old)
    world.kill_server(first)
    world.nodes[first].server.durations_ms["Start"] = 10_000_000
    assert writes(world)  # the other standby acknowledges
    until(world, lambda: lists(world, second), limit_s=4)
    world.kill_server(second)
    world.nodes[second].server.durations_ms["Start"] = 10_000_000
    assert not writes(world)  # until the set is empty
    until(world, lambda: lists(world), limit_s=4)
    assert writes(world)
    assert primary(world) == old
    for name in (first, second):
        world.nodes[name].server.durations_ms["Start"] = 250
        world.nodes[name].server.abandon_step()
    until(world, lambda: lists(world, first, second), limit_s=10)
    assert finish(world) == old


@pytest.mark.slow
def test_strict_durability_blocks_when_the_last_standby_is_lost() -> None:
    world = settled(durability=Durability.STRICT)
    old = primary(world)
    standbys = others(world, old)
    for name in standbys:
        world.kill_server(name)
        world.nodes[name].server.durations_ms["Start"] = 10_000_000
    before = len(world.acked)
    for _ in range(20):
        world.run(0.5)
        assert world.write(old) is not None  # accepted, and never acknowledged
    assert len(world.acked) == before
    assert document(world).sync.members
    assert primary(world) == old
    for name in standbys:
        world.nodes[name].server.durations_ms["Start"] = 250
        world.nodes[name].server.abandon_step()
    until(world, lambda: writes(world), limit_s=5)
    assert len(world.acked) > before + 20  # those that waited are acknowledged now
    finish(world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_election_while_the_set_is_empty_and_its_primary_is_gone(seed: int) -> None:
    """With S = ∅ commits are on the primary alone: only its return makes a primary."""
    world = settled(seed=seed)
    old = primary(world)
    for name in others(world, old):
        world.kill_node(name)
    # The primary has no majority any more either. One of them comes back without its server.
    back = others(world, old)[0]
    world.nodes[back].server.durations_ms["Start"] = 10_000_000
    world.start(back)
    until(world, lambda: world.primary() is not None and lists(world), limit_s=20)
    assert writes(world)
    world.kill_node(old)
    world.nodes[back].server.durations_ms["Start"] = 250
    world.nodes[back].server.abandon_step()
    world.start(others(world, old)[1])
    for _ in range(20):
        world.run(0.5)
        assert world.primary() is None
    world.start(old)
    assert outage(world) <= SILENCE_S + 2
    finish(world)


@pytest.mark.parametrize("lagging", [0, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_lagging_standby_is_never_preferred_over_one_with_the_commit(
    seed: int, lagging: int
) -> None:
    world = settled(seed=seed)
    old = primary(world)
    behind = others(world, old)[lagging]
    ahead = others(world, old, behind)[0]
    world.stalled.add(behind)
    assert writes(world)
    world.kill_node(old)
    world.stalled.clear()
    outage(world, other_than=old)
    assert primary(world) == ahead
    finish(world)


@pytest.mark.slow
def test_lagging_standby_alone_with_a_witness_waits_for_the_other() -> None:
    """A majority is not enough: the commit may be on the standby that is not there."""
    world = settled("abcvw", witnesses="vw")
    old = primary(world)
    ahead, behind = (n for n in others(world, old) if n not in "vw")
    world.stalled.add(behind)
    assert writes(world)
    world.kill_node(old)
    world.kill_node(ahead)
    world.stalled.clear()
    for _ in range(20):
        world.run(0.5)
        assert world.primary() is None
    engine = world.nodes[behind].engine
    assert engine is not None
    assert "data: 1 of 2 promises" in engine.status(world.heap.instant()).blocked
    world.start(ahead)
    outage(world)
    assert primary(world) == ahead
    finish(world)


def test_candidate_that_is_behind_hands_over_at_once() -> None:
    """Its pre-vote was won with the witnesses' help; the votes show who has more WAL."""
    world = settled("cbavw", witnesses="vw")
    old = primary(world)
    behind, ahead = NodeId("a"), NodeId("b")
    assert old == "c"
    world.stalled.add(behind)
    assert writes(world)
    # Both pre-votes meet the same voters at the same time, and `behind` ranks first by its name
    # because gossip has not told yet who is ahead.
    world.kill_server(old)
    world.nodes[old].server.durations_ms["MeasurePosition"] = 10_000_000
    world.network.cut.add((ahead, behind))
    until(world, lambda: happened(world, EventName.CANDIDACY_STARTED) == [behind], limit_s=1)
    world.network.heal()
    world.stalled.clear()
    until(world, lambda: world.primary() is not None, limit_s=2)
    assert happened(world, EventName.CANDIDACY_HANDED_OVER) == [behind]
    assert primary(world) == ahead
    finish(world)


@pytest.mark.parametrize("seed", range(6))
def test_split_votes_settle(seed: int) -> None:
    """Nodes of equal rank that always stand at the same moment, but for the jitter."""
    election = ElectionSettings(stagger_ms=1, jitter_ms=3)
    world = settled("abcde", seed=seed, election=election)
    old = primary(world)
    world.kill_node(old)
    assert outage(world, other_than=old) <= 5.0
    finish(world)


@pytest.mark.slow
def test_votes_are_really_split_in_that_setting() -> None:
    election = ElectionSettings(stagger_ms=1, jitter_ms=3)
    lost = 0
    for seed in range(6):
        world = settled("abcde", seed=seed, election=election)
        old = primary(world)
        world.kill_node(old)
        outage(world, other_than=old)
        lost += len(happened(world, EventName.CANDIDACY_LOST))
    assert lost > 0


@pytest.mark.slow
def test_standby_that_lost_its_record_does_not_vote() -> None:
    world = settled()
    old = primary(world)
    wiped = others(world, old)[0]
    world.kill_node(wiped)
    world.wipe_record(wiped)
    world.start(wiped)
    world.run(3)
    assert primary(world) == old
    engine = world.nodes[wiped].engine
    assert engine is not None
    assert "lost its durable record" in engine.status(world.heap.instant()).blocked
    # Two of three voters are left; without one of them the wiped node is no replacement.
    world.kill_node(old)
    for _ in range(10):
        world.run(0.5)
        assert world.primary() is None
    assert world.nodes[wiped].hard.voted_for is None
    world.start(old)
    outage(world)
    finish(world)


def test_standby_that_lost_its_data_is_cloned_and_counts_under_its_new_identity() -> None:
    world = settled()
    old = primary(world)
    wiped = others(world, old)[0]
    before = document(world).sync.data_id_of(wiped)
    world.kill_node(wiped)
    world.wipe_data(wiped)
    world.start(wiped)

    def counted_again() -> bool:
        now = document(world).sync.data_id_of(wiped)
        return now is not None and now != before

    until(world, counted_again, limit_s=10)
    assert primary(world) == old
    finish(world)


@pytest.mark.slow
def test_second_standby_lost_while_the_first_is_cloned_loses_nothing() -> None:
    world = settled()
    old = primary(world)
    first, second = others(world, old)
    world.kill_node(first)
    world.wipe_data(first)
    world.start(first)
    world.write_everywhere(0.3)
    world.kill_node(second)
    world.write_everywhere(4)
    world.kill_node(old)
    world.start(second)
    world.run(6)
    world.start(old)
    outage(world, limit_s=20)
    finish(world)


@pytest.mark.slow
def test_one_leader_a_term_over_many_failovers() -> None:
    world = settled("abcde")
    world.slowness = CALM
    terms = []
    for _ in range(5):
        world.kill_server(primary(world))
        outage(world)
        terms.append(document(world).term)
        world.write_everywhere(0.5)
    assert terms == sorted(set(terms))
    finish(world)
