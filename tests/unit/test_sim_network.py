"""The simulated network: what passes, when, in which order, and what is never delivered."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_net import Net, disturb, steps

from sim.heap import NS_PER_MS
from sim.network import FateKind, Traffic
from sim.shapes import bridge, gray, gray_link, halves, isolate, majorities_ring, one_way

NAMES = ("a", "b", "c")


@pytest.fixture
def net():
    return Net()


def opened(network, hosts=NAMES, traffic=Traffic.GOSSIP):
    """Return the directions that are open."""
    return {
        src + dst
        for src, dst in itertools.permutations(hosts, 2)
        if network.is_open(src, dst, traffic)
    }


ALL = {"ab", "ba", "ac", "ca", "bc", "cb"}


# --- datagrams ---


def test_a_datagram_arrives_once_within_the_delay(net):
    fate = net.send("a", "b")
    assert fate.kind is FateKind.DELIVERED
    [at] = fate.arrivals
    assert 0.2 * NS_PER_MS <= at <= 1.5 * NS_PER_MS
    net.heap.run_until(at - 1)
    assert net.got == []
    net.heap.run_until(at)
    net.wait(1)
    assert net.got == [("x", False)]


def test_parts_of_a_host_are_joined_by_a_loopback_that_nothing_disturbs(net):
    isolate(net.network, "a")
    net.network.set_link("*", "*", loss=1)
    [at] = net.send("a", "a/proxy").arrivals
    assert at < 0.1 * NS_PER_MS


def test_what_is_done_to_a_host_is_done_to_its_parts(net):
    net.network.cut("a", "b")
    assert net.send("a/proxy", "b").kind is FateKind.CUT
    assert net.send("b", "a/proxy").kind is FateKind.DELIVERED


def test_a_packet_more_on_one_link_shifts_nothing_on_another():
    arrivals = []
    for extra in (0, 5):
        net = Net()
        for _ in range(extra):
            net.send("a", "c")
            net.say(net.open("a", "c"), "a", "x")
        began = net.heap.now_ns
        arrivals.append([net.send("a", "b").arrivals[0] - began for _ in range(10)])
    assert arrivals[0] == arrivals[1]


def test_the_same_seed_gives_the_same_fates_and_another_seed_others():
    def fates(seed):
        net = Net(seed, loss=0.2, duplicate=0.2, corrupt=0.1, reorder=0.1, tail=0.1)
        return [net.send("a", "b") for _ in range(100)]

    assert fates(1) == fates(1)
    assert fates(1) != fates(2)


def test_bad_luck_is_as_frequent_as_the_link_says_and_counted():
    net = Net(loss=0.2, duplicate=0.1, corrupt=0.05)
    fates = [net.send("a", "b", number) for number in range(5000)]
    net.wait(1)
    kinds = [fate.kind for fate in fates]
    counters = net.network.counters
    assert 900 < kinds.count(FateKind.LOST) == counters.lost < 1100
    assert 150 < kinds.count(FateKind.CORRUPT) == counters.corrupted < 250
    assert 300 < sum(len(fate.arrivals) == 2 for fate in fates) == counters.duplicated < 500
    assert counters.sent == 5000
    assert len(net.got) == sum(len(fate.arrivals) for fate in fates)
    assert {bad for _, bad in net.got} == {False, True}
    # What the callee is told of the bytes is what the fate said of them.
    for number, bad in net.got:
        assert bad == (fates[number].kind is FateKind.CORRUPT)


def test_reorder_and_tail_make_later_datagrams_overtake():
    net = Net(delay_ms=(1, 1), reorder=0.3, reorder_ms=10, tail=0.2, tail_ms=30)
    for number in range(200):
        net.send("a", "b", number)
        net.wait(0.001)
    net.wait(1)
    order = [number for number, _ in net.got]
    assert sorted(order) == list(range(200))
    assert order != sorted(order)


# --- cuts ---


def test_a_cut_is_one_way_and_of_one_kind(net):
    net.network.cut("a", "b", Traffic.GOSSIP)
    assert opened(net.network) == ALL - {"ab"}
    assert opened(net.network, traffic=Traffic.STREAM) == ALL
    assert net.send("a", "b").kind is FateKind.CUT
    assert net.send("a", "b", traffic=Traffic.CLIENT).kind is FateKind.DELIVERED
    net.network.uncut("a", "b", Traffic.GOSSIP)
    assert opened(net.network) == ALL
    assert net.network.counters.cut == 1


def test_a_partition_cuts_groups_apart_and_those_in_none_see_all(net):
    handle = net.network.partition(["a"], ["b", "d"])
    assert opened(net.network) == ALL - {"ab", "ba"}
    assert not net.network.is_open("d", "a")  # a link that was not there before
    handle.undo()
    handle.undo()
    assert opened(net.network) == ALL


def test_overlapping_faults_end_one_by_one(net):
    first = net.network.partition(["a"], ["b", "c"])
    second = net.network.cut("a", "b")
    slow = net.network.set_link("a", "b", delay_ms=(5, 5), loss=1)
    slower = net.network.set_link("a", "*", delay_ms=(9, 9))
    first.undo()
    assert opened(net.network) == ALL - {"ab"}
    assert (first.active, second.active) == (False, True)
    second.undo()
    assert net.send("a", "b").kind is FateKind.LOST
    slow.undo()
    assert net.send("a", "b").arrivals == (9 * NS_PER_MS,)
    slower.undo()
    assert net.network.link("a", "b").plain


def test_heal_ends_everything_but_the_base(net):
    net.network.set_base("a", "*", delay_ms=(40, 40))
    net.network.partition(["a"], ["b", "c"])
    net.network.clog("a", "b")
    net.network.set_link("*", "*", loss=1, delay_ms=(1, 1))
    net.network.heal()
    assert opened(net.network) == ALL
    assert net.send("a", "b").arrivals == (40 * NS_PER_MS,)


def test_a_fault_is_on_top_of_a_base_that_is_set_later(net):
    net.network.set_link("a", "b", delay_ms=(7, 7))
    net.network.set_base("a", "b", delay_ms=(40, 40))
    assert net.send("a", "b").arrivals == (7 * NS_PER_MS,)


def test_a_clog_holds_everything_and_releases_it_in_order(net):
    net.network.clog("a", "b")
    assert not net.network.is_open("a", "b")
    fates = {net.send("a", "b", number).kind for number in range(20)}
    net.wait(60)
    assert fates == {FateKind.CLOGGED}
    assert net.got == []
    net.network.unclog("a", "b")
    net.wait(0.01)
    assert net.got == [(number, False) for number in range(20)]
    assert net.network.counters.clogged == 20


def test_what_a_clog_releases_into_a_cut_is_lost(net):
    net.network.clog("a", "b")
    net.send("a", "b")
    net.network.cut("a", "b")
    net.network.unclog("a", "b")
    net.network.heal()
    net.wait(1)
    assert net.got == []


# --- shapes ---


def test_isolate_cuts_from_all_or_from_the_others_named(net):
    handle = isolate(net.network, "a")
    assert opened(net.network) == {"bc", "cb"}
    assert not net.network.is_open("client", "a")
    handle.undo()
    isolate(net.network, "a", ["a", "b"])
    assert opened(net.network) == ALL - {"ab", "ba"}


def test_halves_and_the_bridge_between_them(net):
    five = "abcde"
    halves(net.network, five).undo()
    handle = halves(net.network, five)
    assert opened(net.network, five) == {"ab", "ba", "cd", "dc", "ce", "ec", "de", "ed"}
    handle.undo()
    bridge(net.network, five, over="c")
    whole = opened(net.network, five)
    assert {"ac", "ca", "bc", "cb", "cd", "dc", "ce", "ec"} <= whole
    assert {"ab", "de"} <= whole
    assert not {"ad", "da", "be", "eb"} & whole


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 9])
def test_in_a_ring_everybody_hears_a_majority_and_no_two_the_same(net, count):
    hosts = [f"n{index}" for index in range(count)]
    majorities_ring(net.network, hosts)
    heard = [
        frozenset(src for src in hosts if src == dst or net.network.is_open(src, dst))
        for dst in hosts
    ]
    assert {len(each) for each in heard} == {count // 2 + 1}
    assert len(set(heard)) == count
    assert net.network.is_open("client", "n0")


def test_one_way_and_gray(net):
    one_way(net.network, "a")
    assert opened(net.network) == {"ba", "ca", "bc", "cb"}
    net.network.heal()
    gray(net.network, "a", loss=0.5)
    assert net.network.link("b", "a").properties.loss == 0.5
    assert net.network.link("b", "c").plain
    net.network.heal()
    gray_link(net.network, "a", "b", delay_ms=(50, 60))
    assert net.network.link("b", "a").properties.delay_ms == (50, 60)
    assert net.network.link("a", "c").plain
    assert opened(net.network) == ALL


@given(st.integers(0, 2**32), steps)
def test_no_datagram_is_sent_over_a_cut_and_all_others_arrive(seed, sequence):
    net = Net(seed)
    network = net.network
    due, held = [], 0
    for number, (what, end, ms) in enumerate(sequence):
        peer = "b" if end == "a" else "a"
        if what == "send":
            is_open = network.is_open(end, peer)
            fate = net.send(end, peer, number)
            assert is_open or not fate.arrivals
            assert fate.kind is not FateKind.CUT or not is_open
            due += [number] * len(fate.arrivals)
            held += fate.kind is FateKind.CLOGGED
        else:
            disturb(network, what, end, peer)
        net.wait(ms / 1000)
    network.heal()
    net.wait(1)
    arrived = [number for number, _ in net.got]
    assert len(due) <= len(arrived) <= len(due) + held
    assert set(due) <= set(arrived)
