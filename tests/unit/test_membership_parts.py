"""The parts that decide whom to probe, to relay for, to contact and to gossip to."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from metako.membership import MembershipConfig
from metako.membership.contact import Contacts, push_pull_scale
from metako.membership.probe import URGENT_MAX, Probe, Prober, sample
from metako.membership.relay import Relay, Relays
from metako.membership.roster import Entry, Roster
from metako.model.ids import Address, NodeId
from metako.model.instant import seconds
from metako.model.member import MemberState

ME = NodeId("me")
HOME = Address("10.0.0.1", 7946)


def names(count: int) -> list[NodeId]:
    return [NodeId(f"n{i:02}") for i in range(count)]


def roster_of(nodes: list[NodeId], state: MemberState = MemberState.ALIVE) -> Roster:
    roster = Roster(node=ME, limit=1000)
    roster.add(Entry(ME, 1, 1, MemberState.ALIVE, HOME))
    for node in nodes:
        roster.add(Entry(node, 1, 1, state, HOME))
    return roster


def prober_of(roster: Roster, seed: int = 1) -> Prober:
    return Prober(roster=roster, rng=random.Random(seed))


# ---------------------------------------------------------------- roster


def test_active_members_are_alive_or_suspect_and_never_oneself() -> None:
    roster = roster_of(names(3))
    entry = roster.get(NodeId("n01"))
    assert entry is not None
    roster.set_state(entry, MemberState.SUSPECT, 5)
    assert roster.active == names(3)
    roster.set_state(entry, MemberState.DEAD, 6)
    assert roster.active == [NodeId("n00"), NodeId("n02")]
    assert roster.size == 3
    assert entry.changed_ns == 6


def test_setting_the_same_state_again_keeps_its_time() -> None:
    roster = roster_of(names(1))
    entry = roster.get(NodeId("n00"))
    assert entry is not None
    roster.set_state(entry, MemberState.DEAD, 6)
    roster.set_state(entry, MemberState.DEAD, 9)
    assert entry.changed_ns == 6


# ---------------------------------------------------------------- probe


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_every_member_is_probed_once_in_a_round(size: int) -> None:
    # SWIM §4.3: round-robin over a shuffled list.
    prober = prober_of(roster_of(names(size)))
    for _ in range(5):
        assert Counter(prober.choose() for _ in range(size)) == Counter(names(size))


def test_gap_between_two_probes_of_a_member_is_below_two_rounds() -> None:
    prober = prober_of(roster_of(names(9)))
    chosen = [prober.choose() for _ in range(900)]
    turns = [i for i, node in enumerate(chosen) if node == "n04"]
    assert max(b - a for a, b in itertools.pairwise(turns)) <= 2 * 9 - 1


def test_newcomer_is_probed_within_the_running_round() -> None:
    roster = roster_of(names(5))
    prober = prober_of(roster)
    prober.choose()
    roster.add(Entry(NodeId("new"), 1, 1, MemberState.ALIVE, HOME))
    assert NodeId("new") in [prober.choose() for _ in range(5)]


def test_member_that_is_gone_is_not_probed() -> None:
    roster = roster_of(names(3))
    prober = prober_of(roster)
    prober.choose()
    for node in names(3)[:2]:
        entry = roster.get(node)
        assert entry is not None
        roster.set_state(entry, MemberState.DEAD, 0)
    assert {prober.choose() for _ in range(6)} == {NodeId("n02")}


def test_nobody_to_probe_is_no_error() -> None:
    prober = prober_of(roster_of([]))
    assert prober.choose() is None
    assert prober.wakeup() is None


def test_suspect_jumps_the_queue_and_the_queue_is_bounded() -> None:
    prober = prober_of(roster_of(names(20)))
    for node in names(20):
        prober.hurry(node)
    assert [prober.choose() for _ in range(URGENT_MAX)] == names(20)[:URGENT_MAX]


def probing(prober: Prober, target: str = "n00") -> Probe:
    probe = Probe(NodeId(target), 7, timeout_ns=200, deadline_ns=500)
    prober.begin(probe)
    return probe


def test_any_word_from_the_target_ends_the_probe_well() -> None:
    prober = prober_of(roster_of(names(3)))
    probing(prober)
    assert not prober.heard(NodeId("n01"))
    assert prober.heard(NodeId("n00"))
    assert prober.current is None
    assert prober.wakeup() == 500


def test_ack_through_a_stranger_or_of_another_sequence_counts_for_nothing() -> None:
    prober = prober_of(roster_of(names(3)))
    probing(prober).relays = frozenset({NodeId("n01")})
    assert not prober.acked(NodeId("n02"), 7)
    assert not prober.acked(NodeId("n01"), 6)
    assert prober.acked(NodeId("n01"), 7)


def test_nack_counts_once_for_each_relay() -> None:
    prober = prober_of(roster_of(names(3)))
    probe = probing(prober)
    probe.relays = frozenset({NodeId("n01")})
    for sender in ("n01", "n01", "n02"):
        prober.nacked(NodeId(sender), 7)
    assert probe.nacks == {NodeId("n01")}


def test_relays_are_never_the_target() -> None:
    prober = prober_of(roster_of(names(4)))
    probing(prober)
    for _ in range(50):
        relays = prober.choose_relays(3)
        assert set(relays) == {NodeId("n01"), NodeId("n02"), NodeId("n03")}


def test_sample_is_distinct_and_short_of_candidates_smaller() -> None:
    rng = random.Random(1)
    for _ in range(50):
        chosen = sample(rng, names(5), 3, without=names(5)[:3])
        assert set(chosen) == set(names(5)[3:])
        assert len(set(sample(rng, names(9), 4))) == 4


# ---------------------------------------------------------------- relay


def relay(nack_ns: int = 160, deadline_ns: int = 500) -> Relay:
    return Relay(NodeId("asker"), 42, NodeId("target"), nack_ns, deadline_ns)


def test_relay_nacks_once_and_still_passes_a_late_ack_on() -> None:
    relays = Relays(limit=4)
    relays.accept(1, relay())
    assert relays.wakeup() == 160
    assert relays.take_due(159) == ()
    assert [r.origin_sequence for r in relays.take_due(160)] == [42]
    assert relays.take_due(300) == ()
    acked = relays.acked(NodeId("target"), 1)
    assert acked is not None
    assert acked.origin == "asker"
    assert relays.acked(NodeId("target"), 1) is None


def test_relay_believes_only_the_target() -> None:
    relays = Relays(limit=4)
    relays.accept(1, relay())
    assert relays.acked(NodeId("other"), 1) is None
    assert relays.acked(NodeId("target"), 2) is None
    assert len(relays) == 1


def test_relays_are_bounded_and_end() -> None:
    relays = Relays(limit=2)
    assert [relays.accept(i, relay()) for i in range(4)] == [True, True, False, False]
    relays.take_due(500)
    assert len(relays) == 0
    assert relays.wakeup() is None


# ---------------------------------------------------------------- contact


def contacts_of(roster: Roster) -> Contacts:
    contacts = Contacts(config=MembershipConfig(), roster=roster, rng=random.Random(1))
    contacts.start(0)
    return contacts


def rounds(contacts: Contacts, until_s: float) -> list[tuple[int, tuple[NodeId, ...]]]:
    found = []
    for _ in range(10_000):
        due_ns = contacts.wakeup()
        if due_ns is None or due_ns > seconds(until_s):
            return found
        found.append((due_ns, contacts.due(due_ns)))
    raise AssertionError("contacts are due without end")


def test_join_asks_every_peer_and_never_gives_up_nor_hurries() -> None:
    contacts = contacts_of(roster_of(names(3), MemberState.EXPECTED))
    found = rounds(contacts, 3600)
    assert set(found[0][1]) == set(names(3))
    config = MembershipConfig()
    gaps_s = [(b - a) / 1e9 for (a, _), (b, _) in itertools.pairwise(found)]
    longest_s = 1.25 * config.join_backoff_max_ms / 1000
    assert max(gaps_s) <= longest_s
    assert min(gaps_s[6:]) >= 0.75 * config.join_backoff_max_ms / 1000
    assert found[-1][0] >= seconds(3600 - longest_s)


def test_node_without_peers_asks_nobody() -> None:
    assert contacts_of(roster_of([])).wakeup() is None


def test_joined_node_exchanges_rosters_with_the_living_and_looks_for_the_lost() -> None:
    roster = roster_of(names(2))
    roster.add(Entry(NodeId("dead"), 1, 1, MemberState.DEAD, HOME))
    contacts = contacts_of(roster)
    contacts.heard(0)
    found = Counter(node for _, nodes in rounds(contacts, 300) for node in nodes)
    assert 300 / 15 / 1.25 <= found["n00"] + found["n01"] <= 300 / 15 / 0.75
    assert 300 / 2 / 1.25 - 1 <= found["dead"] <= 300 / 2 / 0.75


def test_member_that_left_is_not_looked_for() -> None:
    contacts = contacts_of(roster_of(names(2), MemberState.LEFT))
    contacts.heard(0)
    assert [nodes for _, nodes in rounds(contacts, 100) if nodes] == []


@pytest.mark.parametrize(("members", "scale"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3)])
def test_push_pull_interval_grows_with_each_doubling(members: int, scale: int) -> None:
    assert push_pull_scale(members) == scale
