"""Simulated connections: in order, nothing lost while both ends live, each end told once."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_net import ENDS, Net, disturb, steps

from sim.connections import GIVE_UP_NS
from sim.heap import NS_PER_MS, NS_PER_S
from sim.network import Traffic


@pytest.fixture
def net():
    return Net()


# --- connecting ---


def test_connecting_takes_a_round_trip(net):
    results = net.dial()
    assert results == []
    net.heap.run_until(400_000 - 1)
    assert results == []
    net.heap.run_until(3 * NS_PER_MS + 2)
    [(connection, why)] = results
    assert (connection.open, why) == (True, "")
    assert net.network.connections == (connection,)


def test_where_nothing_listens_a_connection_is_refused(net):
    net.network.listening = lambda end, traffic: False
    results = net.dial()
    net.wait(0.01)
    assert results == [(None, "refused")]
    assert net.network.connections == ()


@pytest.mark.parametrize("cut", [("a", "b"), ("b", "a")])
def test_over_a_cut_a_connection_times_out(net, cut):
    net.network.cut(*cut)
    results = net.dial(timeout_ns=2 * NS_PER_S)
    net.wait(1.99)
    assert results == []
    net.wait(0.02)
    assert results == [(None, "timeout")]


def test_a_dead_host_is_a_black_hole(net):
    net.network.listening = lambda end, traffic: None
    results = net.dial()
    net.wait(60)
    assert results == [(None, "timeout")]


def test_a_cut_that_refuses_says_so_at_once(net):
    net.network.cut("a", "b", refuse=True)
    results = net.dial()
    net.wait(0.01)
    assert results == [(None, "refused")]


def test_a_request_to_connect_is_repeated(net):
    net.network.cut("a", "b")
    results = net.dial()
    net.wait(0.5)
    net.network.heal()
    net.wait(1)
    assert [why for _, why in results] == [""]


def test_a_cancelled_attempt_calls_nobody(net):
    results = []
    dial = net.network.connect("a", "b", Traffic.STREAM, lambda *result: results.append(result))
    dial.cancel()
    net.wait(60)
    assert results == []
    assert net.network.connections == ()


def test_the_ends_of_a_connection_have_names_of_their_own(net):
    with pytest.raises(AssertionError):
        net.dial("a", "a")
    assert net.open("a/proxy", "a").open


def test_a_server_that_closes_at_once_is_noticed(net):
    def accept(end, traffic):
        net.heap.after(0, net.network.close_all, "b")
        return True

    def opened(connection, why):
        connection.on_closed["a"] = partial(net.got.append, "a closed")

    net.network.listening = accept
    for _ in range(50):
        net.got.clear()
        net.network.connect("a", "b", Traffic.STREAM, opened)
        net.wait(0.01)
        assert net.got == ["a closed"]


def test_a_client_that_no_longer_waits_does_not_leave_the_server_with_a_connection(net):
    net.network.set_link("*", "*", delay_ms=(600, 600))
    results = net.dial(timeout_ns=NS_PER_S)
    net.wait(0.7)
    [connection] = net.network.connections
    net.note_closing(connection)
    net.wait(2)
    assert results == [(None, "timeout")]
    assert net.got == ["b closed"]
    assert net.network.connections == ()


# --- connections ---


def test_what_is_sent_arrives_in_order_both_ways():
    net = Net(reorder=0.3, tail=0.2)
    connection = net.open()
    for number in range(100):
        net.say(connection, "a", ("a", number))
        net.say(connection, "b", ("b", number))
    net.wait(5)
    for end in "ab":
        assert [n for frm, n in net.got if frm == end] == list(range(100))


def test_loss_on_a_connection_is_a_delay(net):
    connection = net.open()
    net.network.set_link("a", "b", loss=0.3, corrupt=0.1)
    for number in range(100):
        net.say(connection, "a", number)
    net.wait(0.15)
    assert len(net.got) < 100
    net.wait(60)
    assert net.got == list(range(100))


def test_a_late_segment_holds_up_those_behind_it(net):
    connection = net.open()
    slow = net.network.set_link("a", "b", delay_ms=(50, 50))
    net.say(connection, "a", "late")
    slow.undo()
    net.say(connection, "a", "behind it")
    net.wait(0.049)
    assert net.got == []
    net.wait(0.002)
    assert net.got == ["late", "behind it"]


def test_a_segment_that_meets_a_cut_on_its_way_is_sent_again(net):
    connection = net.open()
    net.say(connection, "a", "met")
    net.network.cut("a", "b")
    net.say(connection, "a", "held")
    net.wait(0.1)
    assert net.got == []
    net.network.heal()
    net.wait(0.3)
    assert net.got == ["met", "held"]


def test_a_cut_direction_holds_and_the_other_one_does_not(net):
    connection = net.open()
    net.network.cut("a", "b")
    net.say(connection, "a", "held")
    net.say(connection, "b", "passes")
    net.wait(10)
    assert net.got == ["passes"]
    assert connection.backlog("a") == 1
    net.network.heal()
    net.wait(0.001)
    assert net.got == ["passes"]
    net.wait(net.network.retransmit_max_ns / NS_PER_S + 0.01)
    assert net.got == ["passes", "held"]


def test_a_clog_releases_connections_in_a_burst(net):
    connection = net.open()
    net.network.clog("a", "b")
    for number in range(5):
        net.say(connection, "a", number)
    net.wait(10)
    net.network.unclog("a", "b")
    net.wait(0.002)
    assert net.got == list(range(5))


def test_a_connection_that_makes_no_progress_is_given_up(net):
    connection = net.open()
    net.note_closing(connection)
    net.network.cut("a", "b")
    net.say(connection, "a", "x")
    net.wait(GIVE_UP_NS / NS_PER_S - 1)
    assert connection.open
    net.wait(5)
    assert net.got == ["a closed"]


def test_what_was_sent_before_a_close_arrives_before_it(net):
    connection = net.open()
    net.note_closing(connection)
    net.say(connection, "a", "last words")
    connection.close("a")
    assert not connection.open
    net.wait(0.01)
    assert net.got == ["last words", "b closed"]
    assert net.network.connections == ()


def test_a_close_over_a_cut_is_told_after_the_heal(net):
    connection = net.open()
    net.note_closing(connection)
    net.network.cut("a", "b")
    connection.close("a")
    net.wait(20)
    assert net.got == []
    net.network.heal()
    net.wait(2.1)
    assert net.got == ["b closed"]


def test_a_close_that_is_not_told_is_learnt_by_sending(net):
    connection = net.open()
    net.note_closing(connection)
    connection.close("a", reset_reaches_peer=False)
    net.wait(60)
    assert net.got == []
    net.say(connection, "b", "never heard")
    net.wait(0.01)
    assert net.got == ["b closed"]


def test_a_host_without_power_tells_nobody_until_it_is_back(net):
    connection = net.open()
    net.note_closing(connection)
    up = {"b": None}
    net.network.listening = lambda end, traffic: up.get(end, True)
    net.say(connection, "b", "on its way")
    net.network.abandon_all("b")
    net.say(connection, "a", "into the void")
    net.wait(30)
    assert net.got == ["on its way"]
    up["b"] = False
    net.wait(2.1)
    assert net.got == ["on its way", "a closed"]


def test_what_a_dead_host_would_have_to_send_again_never_arrives(net):
    connection = net.open()
    net.network.cut("a", "b")
    net.say(connection, "a", "held")
    net.network.abandon_all("a")
    net.network.heal()
    net.wait(60)
    assert net.got == []


def test_a_reset_is_not_told_over_a_cut(net):
    connection = net.open()
    net.note_closing(connection)
    connection.abandon("b")
    net.network.cut("b", "a")
    net.say(connection, "a", "x")
    net.wait(30)
    assert net.got == []
    net.network.heal()
    net.wait(2.1)
    assert net.got == ["a closed"]


def test_a_cut_that_refuses_resets_who_sends(net):
    connection = net.open()
    net.note_closing(connection)
    net.network.cut("a", "b", refuse=True)
    net.say(connection, "a", "x")
    net.wait(0.01)
    assert net.got == ["a closed"]


def test_what_waits_is_lost_with_a_connection_that_is_reset(net):
    connection = net.open()
    net.note_closing(connection)
    net.network.cut("a", "b")
    net.say(connection, "a", "held")
    net.network.cut("a", "b", refuse=True)
    net.say(connection, "a", "refused")
    net.wait(0.01)
    net.network.heal()
    net.wait(60)
    assert net.got == ["a closed"]


def test_two_ends_that_have_gone_leave_nothing_behind(net):
    connection = net.open()
    net.network.partition(["a"], ["b"])
    for end in ENDS:
        net.say(connection, end, "never heard")
        connection.close(end)
    assert connection.backlog("a") == connection.backlog("b") == 0
    assert net.network.connections == ()
    before = net.heap.executed
    net.wait(60)
    assert net.heap.executed == before


def test_the_end_of_a_process_closes_its_connections_of_a_kind(net):
    stream_, other = net.open(), net.open(traffic=Traffic.REPLICATION)
    results = net.dial("a", "c")
    for each in (stream_, other):
        net.note_closing(each)
    net.network.close_all("a", Traffic.STREAM)
    net.wait(10)
    assert net.got == ["b closed"]
    assert (stream_.open, other.open) == (False, True)
    assert results == []


# --- any sequence ---


@pytest.mark.slow
@given(st.integers(0, 2**32), steps)
def test_a_connection_keeps_order_through_any_disturbance_and_loses_nothing(seed, sequence):
    net = Net(seed)
    network = net.network
    connection = net.open()
    sent, got = {"a": [], "b": []}, {"a": [], "b": []}

    def arrive(frm, number):
        # Nothing is delivered over a cut.
        assert network.is_open(frm, connection.peer(frm), Traffic.STREAM)
        got[frm].append(number)

    for number, (what, end, ms) in enumerate(sequence):
        if what == "send":
            sent[end].append(number)
            connection.send(end, partial(arrive, end, number))
        else:
            disturb(network, what, end, connection.peer(end))
        net.wait(ms / 1000)
        for each in ENDS:
            assert got[each] == sent[each][: len(got[each])]
    network.heal()
    net.wait(600)
    assert got == sent
    assert connection.open
    assert connection.backlog("a") == connection.backlog("b") == 0


@pytest.mark.slow
@given(st.integers(0, 2**32), steps, st.sampled_from(["close", "abandon"]), st.sampled_from(ENDS))
def test_each_end_is_told_at_most_once_and_hears_nothing_afterwards(seed, sequence, how, first):
    net = Net(seed)
    network = net.network
    connection = net.open()
    told, gone = [], set()

    def closed(end):
        assert end not in gone
        told.append(end)
        gone.add(end)

    def arrive(to):
        assert to not in gone

    for end in ENDS:
        connection.on_closed[end] = partial(closed, end)
    for number, (what, end, ms) in enumerate(sequence):
        if number == len(sequence) // 2 and first not in gone:
            getattr(connection, how)(first)
            gone.add(first)
        if what == "send":
            connection.send(end, partial(arrive, connection.peer(end)))
        else:
            disturb(network, what, end, connection.peer(end))
        net.wait(ms / 1000)
    network.heal()
    if first in gone:
        # Whoever is left and sends is told.
        connection.send(connection.peer(first), partial(arrive, first))
    net.wait(600)
    assert len(told) == len(set(told)) <= 1
    assert bool(sequence) == (gone == set(ENDS))
    assert (network.connections == ()) == bool(sequence)
