"""Agreement in the simulator: the sync set, who may stand, and candidacies that meet."""

from __future__ import annotations

import pytest

from metako.election.heirs import Heirs
from metako.election.settings import ElectionSettings
from metako.model.document import Durability
from metako.model.events import EventName
from metako.model.ids import NodeId
from sim.network import Traffic
from sim.settled import (
    Stage,
    document,
    finish,
    happened,
    keep_down,
    let_up,
    others,
    outage,
    primary,
    settled,
    status,
    until,
    writes,
)

SEEDS = range(3)
SILENCE_S = 3.0
BOOT_S = 0.5


def lists(world: Stage, *nodes: str) -> bool:
    """Return whether the sync set is exactly these nodes, in the document and in PostgreSQL."""
    config = world.nodes[primary(world)].server.config
    assert config is not None
    return document(world).sync.nodes() == set(nodes) == set(config.sync.nodes)


def test_standbys_lost_one_after_the_other_leave_the_set_and_writes_go_on() -> None:
    world = settled()
    old = primary(world)
    first, second = others(world, old)
    keep_down(world, first)
    assert writes(world)  # the other standby acknowledges
    until(world, lambda: lists(world, second), limit_s=4)
    keep_down(world, second)
    assert not writes(world)  # until the set is empty
    until(world, lambda: lists(world), limit_s=4)
    assert writes(world)
    assert primary(world) == old
    let_up(world, first, second)
    until(world, lambda: lists(world, first, second), limit_s=10)
    assert finish(world) == old


def test_strict_durability_blocks_when_the_last_standby_is_lost() -> None:
    world = settled(durability=Durability.STRICT)
    old = primary(world)
    standbys = others(world, old)
    keep_down(world, *standbys)
    before = len(world.acked)
    for _ in range(20):
        world.run(0.5)
        assert world.write(old) is not None  # accepted, and never acknowledged
    assert len(world.acked) == before
    assert document(world).sync.members
    assert primary(world) == old
    let_up(world, *standbys)
    until(world, lambda: writes(world), limit_s=8)
    assert len(world.acked) > before + 20  # those that waited are acknowledged now
    finish(world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_election_while_the_set_is_empty_and_its_primary_is_gone(seed: int) -> None:
    """With S = ∅ commits are on the primary alone: only its return makes a primary."""
    world = settled(seed=seed)
    old = primary(world)
    back, away = others(world, old)
    for name in (back, away):
        world.nodes[name].kill_host()
    # The primary has no majority any more either. One of them comes back without its server.
    keep_down(world, back)
    world.nodes[back].start()
    until(world, lambda: world.primary() is not None and lists(world), limit_s=20)
    assert writes(world)
    world.nodes[old].kill_host()
    let_up(world, back)
    world.nodes[away].start()
    for _ in range(20):
        world.run(0.5)
        assert world.primary() is None
    world.nodes[old].start()
    assert outage(world) <= BOOT_S + SILENCE_S + 2
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
    world.network.cut(old, behind, Traffic.REPLICATION)
    assert writes(world)
    world.nodes[old].kill_host()
    world.network.heal()
    outage(world, other_than=old)
    assert primary(world) == ahead
    finish(world)


def test_lagging_standby_alone_with_a_witness_waits_for_the_other() -> None:
    """A majority is not enough: the commit may be on the standby that is not there."""
    world = settled("abcvw", witnesses="vw")
    old = primary(world)
    ahead, behind = (n for n in others(world, old) if n not in "vw")
    world.network.cut(old, behind, Traffic.REPLICATION)
    assert writes(world)
    world.nodes[old].kill_host()
    world.nodes[ahead].kill_host()
    world.network.heal()
    for _ in range(20):
        world.run(0.5)
        assert world.primary() is None
    assert "data: 1 of the 2 promises needed" in status(world, behind).blocked
    world.nodes[ahead].start()
    outage(world)
    assert primary(world) == ahead
    finish(world)


def test_candidate_that_is_behind_hands_over_at_once() -> None:
    """Its pre-vote was won with the witnesses' help; the votes show who has more WAL."""
    world = settled("cbavw", witnesses="vw")
    old = primary(world)
    behind, ahead = NodeId("a"), NodeId("b")
    assert old == "c"
    world.network.cut(old, behind, Traffic.REPLICATION)
    assert writes(world)
    # `behind` takes itself for the best, because gossip has not told yet who is ahead, and `ahead`
    # comes to hear of anything only when the other stands already.
    world.nodes[ahead].pause_agent()
    world.nodes[old].kill_host()
    until(world, lambda: happened(world, EventName.CANDIDACY_STARTED) == [behind], limit_s=4)
    world.nodes[ahead].resume_agent()
    until(world, lambda: world.primary() is not None, limit_s=2)
    assert happened(world, EventName.CANDIDACY_HANDED_OVER) == [behind]
    assert primary(world) == ahead
    world.nodes[old].start()
    world.network.heal()
    finish(world)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_vote_that_is_asked_for_before_the_release_is_there_does_not_cost_a_hold(
    seed: int, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one node can stand, and every other voter hears later than it that nobody leads.

    If the release names it, it asks for votes at once, else it asks for pre-votes first.
    """
    if not named:
        monkeypatch.setattr(Heirs, "best", lambda *_, **__: None)
    world = settled("abvwx", seed=seed, witnesses="vwx")
    old = primary(world)
    (standby,) = others(world, old, *world.witnesses)
    for witness in world.witnesses:
        world.network.set_link(old, witness, delay_ms=(30, 30))
    world.nodes[old].kill_postgres()
    assert outage(world, other_than=old) < 1.0
    assert primary(world) == standby
    # They were asked too early, or this has shown nothing.
    refused = [standby] * len(world.witnesses)
    assert happened(world, EventName.PRE_VOTE_REFUSED) == ([] if named else refused)
    assert bool(world.marks.counts["vote_refused_hold"]) is named
    world.network.heal()
    finish(world)


@pytest.mark.parametrize("seed", range(6))
def test_split_votes_settle(seed: int) -> None:
    """Nodes of equal rank that always stand at the same moment, but for the jitter."""
    election = ElectionSettings(stagger_ms=1, jitter_ms=3)
    world = settled("abcde", seed=seed, election=election)
    old = primary(world)
    world.nodes[old].kill_host()
    assert outage(world, other_than=old) <= 5.0
    finish(world)


@pytest.mark.slow
def test_votes_are_really_split_in_that_setting() -> None:
    election = ElectionSettings(stagger_ms=1, jitter_ms=3)
    lost = 0
    for seed in range(6):
        world = settled("abcde", seed=seed, election=election)
        old = primary(world)
        world.nodes[old].kill_host()
        outage(world, other_than=old)
        lost += len(happened(world, EventName.CANDIDACY_LOST))
    assert lost > 0


def test_standby_that_lost_its_record_does_not_vote() -> None:
    world = settled()
    old = primary(world)
    wiped = others(world, old)[0]
    node = world.nodes[wiped]
    node.kill_host()
    assert node.lose_record()
    node.start()
    world.run(3)
    assert primary(world) == old
    assert "lost its durable record" in status(world, wiped).blocked
    # Two of three voters are left; without one of them the wiped node is no replacement.
    world.nodes[old].kill_host()
    for _ in range(10):
        world.run(0.5)
        assert world.primary() is None
    assert node.hard is not None
    assert node.hard.voted_for is None
    world.nodes[old].start()
    outage(world)
    finish(world)


def test_standby_that_lost_its_data_is_cloned_and_counts_under_its_new_identity() -> None:
    world = settled()
    old = primary(world)
    wiped = others(world, old)[0]
    before = document(world).sync.data_id_of(wiped)
    world.nodes[wiped].kill_host()
    assert world.nodes[wiped].lose_data()
    world.nodes[wiped].start()

    def counted_again() -> bool:
        now = document(world).sync.data_id_of(wiped)
        return now is not None and now != before

    until(world, counted_again, limit_s=10)
    assert primary(world) == old
    finish(world)


def test_standby_with_a_restored_backup_counts_only_under_its_new_identity() -> None:
    world = settled()
    old = primary(world)
    broken = others(world, old)[0]
    node = world.nodes[broken]
    assert not node.restore_backup()  # there is none
    assert world.nodes[old].take_backup()
    assert writes(world)
    assert not node.restore_backup()  # it runs
    held = node.server.data
    assert held is not None
    node.kill_host()
    assert not node.take_backup()
    assert node.restore_backup()
    restored, source = node.server.data, world.nodes[old].server.data
    assert restored is not None
    assert source is not None
    assert restored.end < held.end
    assert restored.data_id == source.data_id  # every file came along
    assert restored.wal is not source.wal
    node.start()
    until(world, lambda: document(world).sync.data_id_of(broken) == restored.data_id, limit_s=10)
    assert primary(world) == old
    finish(world)


def test_second_standby_lost_while_the_first_is_cloned_loses_nothing() -> None:
    world = settled()
    old = primary(world)
    first, second = others(world, old)
    world.nodes[first].kill_host()
    assert world.nodes[first].lose_data()
    world.nodes[first].start()
    world.write_everywhere(0.8)
    assert world.nodes[first].server.data is None  # the clone is under way
    world.nodes[second].kill_host()
    world.write_everywhere(4)
    world.nodes[old].kill_host()
    world.nodes[second].start()
    world.run(6)
    world.nodes[old].start()
    outage(world, limit_s=20)
    finish(world)


@pytest.mark.slow
def test_one_leader_a_term_over_many_failovers() -> None:
    world = settled("abcde")
    terms = []
    for _ in range(5):
        world.nodes[primary(world)].kill_postgres()
        outage(world)
        terms.append(document(world).term)
        world.write_everywhere(0.5)
    assert terms == sorted(set(terms))
    assert len(terms) == 5
    finish(world)
