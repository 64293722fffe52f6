"""The wires of a lab: what the rules and the relay do to frames between real hosts."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator

import pytest

from chaos.kit import PATIENCE_S, Datagrams, connection, dial, listener, socket_in, why_no_lab
from chaos.lab import Lab
from chaos.tools import LabError
from chaos.wire import Wire, apply, new_network
from sim.links import Traffic

pytestmark = pytest.mark.chaos

NODES = ("n1", "n2", "n3")
NOTHING = "table netdev metako {}\ndelete table netdev metako\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    why = why_no_lab()
    if why is not None:
        pytest.skip(f"no lab can be made: {why}")
    with Lab(NODES) as made:
        yield made
    assert made.leftovers() == []


@pytest.fixture
def wire(lab: Lab) -> Iterator[Wire]:
    with Wire(lab, new_network(1)) as made:
        yield made


@pytest.fixture
def gossip(lab: Lab) -> Iterator[Datagrams]:
    datagrams = Datagrams(lab, 7400)
    yield datagrams
    datagrams.close()


def test_a_one_way_cut_of_a_class_stops_that_and_nothing_else(
    lab: Lab, wire: Wire, gossip: Datagrams
) -> None:
    cut = wire.network.cut("n1", "n2", Traffic.GOSSIP)
    assert wire.show()
    assert not wire.show()
    assert not gossip.passes("n1", "n2")
    assert gossip.passes("n2", "n1")
    assert gossip.passes("n1", "n3")
    with listener(lab, "n2", 7400):
        assert dial(lab, "n1", "n2", 7400) == "open"
    cut.undo()
    assert wire.show()
    assert gossip.passes("n1", "n2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("traffic", "src", "cut_ports"),
    [
        (Traffic.STREAM, "n1", {7400}),
        (Traffic.REPLICATION, "n1", {5432}),
        (Traffic.CLIENT, "n1", {6432}),
        (Traffic.CLIENT, "c", {5432, 6432}),
        (None, "n1", {5432, 6432, 7400, 7480}),
    ],
)
def test_a_cut_of_a_class_stops_its_ports(
    lab: Lab, wire: Wire, traffic: Traffic | None, src: str, cut_ports: set[int]
) -> None:
    wire.network.cut(src, "n2", traffic)
    wire.show()
    silent = set()
    for port in (5432, 6432, 7400, 7480):
        with listener(lab, "n2", port):
            if dial(lab, src, "n2", port) == "silence":
                silent.add(port)
    assert silent == cut_ports


def test_the_answers_of_a_server_are_cut_with_their_class(lab: Lab, wire: Wire) -> None:
    wire.network.cut("n2", "n1", Traffic.REPLICATION)
    wire.show()
    with listener(lab, "n2", 5432), listener(lab, "n2", 6432):
        assert dial(lab, "n1", "n2", 5432) == "silence"
        assert dial(lab, "n1", "n2", 6432) == "open"
        assert dial(lab, "n3", "n2", 5432) == "open"


@pytest.mark.slow
def test_a_connection_that_is_open_is_cut_and_goes_on_afterwards(lab: Lab, wire: Wire) -> None:
    with connection(lab, "n1", "n2", 5432) as (near, far):
        wire.network.partition(["n1"], ["n2"])
        wire.show()
        near.sendall(b"late")
        far.settimeout(0.3)
        with pytest.raises(TimeoutError):
            far.recv(10)
        wire.network.heal()
        wire.show()
        far.settimeout(PATIENCE_S)
        assert far.recv(10) == b"late"


def test_a_refusal_is_heard_at_once(lab: Lab, wire: Wire, gossip: Datagrams) -> None:
    with (
        listener(lab, "n2", 6432),
        connection(lab, "n1", "n2", 5432) as (near, _far),
        connection(lab, "n3", "n2", 7400) as (other, other_far),
    ):
        wire.network.cut("n1", "n2", refuse=True)
        wire.show()
        begin_s = time.monotonic()
        assert dial(lab, "n1", "n2", 6432, PATIENCE_S) == "refused"
        near.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            near.recv(10)
        assert time.monotonic() - begin_s < 1.0
        other.sendall(b"x")
        assert other_far.recv(10) == b"x"
    assert not gossip.passes("n1", "n2")
    assert gossip.passes("n2", "n1")


def test_a_refused_datagram_is_reported_to_a_connected_socket(
    lab: Lab, wire: Wire, gossip: Datagrams
) -> None:
    wire.network.cut("n1", "n2", Traffic.GOSSIP, refuse=True)
    wire.show()
    with socket_in(lab, "n1", socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((lab.address("n2"), 7400))
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)
    assert gossip.receive("n2", 0.05) is None


@pytest.mark.slow
def test_as_many_datagrams_are_lost_as_was_said(wire: Wire, gossip: Datagrams) -> None:
    wire.network.set_link("n1", "n2", loss=0.3)
    wire.show()
    arrived = {("n1", "n2"): 0, ("n2", "n1"): 0}
    for src, dst in arrived:
        for _ in range(20):
            # No more at a time than the receiver's buffer takes.
            for _ in range(50):
                gossip.send(src, dst, b"x")
            while gossip.receive(dst, 0.01) is not None:
                arrived[src, dst] += 1
    # 1000 draws of 0.3 have a standard deviation of 14.5: this is five of them.
    assert 628 <= arrived["n1", "n2"] <= 772
    assert arrived["n2", "n1"] == 1000


@pytest.mark.slow
def test_a_delay_holds_in_its_direction_until_it_ends(wire: Wire, gossip: Datagrams) -> None:
    slow = wire.network.set_link("n1", "n2", delay_ms=(20.0, 20.0))
    wire.show()
    there = [gossip.journey_s("n1", "n2") for _ in range(11)]
    back = [gossip.journey_s("n2", "n1") for _ in range(11)]
    assert min(there) >= 0.02
    assert statistics.median(there) < 0.04
    assert statistics.median(back) < 0.01
    slow.undo()
    wire.show()
    assert statistics.median(gossip.journey_s("n1", "n2") for _ in range(11)) < 0.01


def test_much_data_passes_a_slow_connection_unharmed(lab: Lab, wire: Wire) -> None:
    data = os.urandom(1 << 20)
    wire.network.set_pairs(lambda a, b: {a, b} == {"n1", "n2"}, delay_ms=(2.0, 2.0))
    wire.show()
    with connection(lab, "n1", "n2", 5432) as (near, far):
        near.setblocking(False)
        received, sent = bytearray(), 0
        deadline_s = time.monotonic() + PATIENCE_S
        while len(received) < len(data) and time.monotonic() < deadline_s:
            if sent < len(data):
                try:
                    sent += near.send(data[sent : sent + 65536])
                except BlockingIOError:
                    received += far.recv(1 << 20)
            else:
                received += far.recv(1 << 20)
    assert bytes(received) == data
    assert wire.delays.counters().lost == 0


def test_what_was_clogged_comes_in_order_when_it_ends(wire: Wire, gossip: Datagrams) -> None:
    wire.network.clog("n1", "n2")
    wire.show()
    for number in range(5):
        gossip.send("n1", "n2", b"%d" % number)
    assert gossip.receive("n2") is None
    assert gossip.passes("n2", "n1")
    wire.network.unclog("n1", "n2")
    wire.show()
    gossip.send("n1", "n2", b"5")
    assert [gossip.receive("n2") for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_datagram_arrives_twice_or_damaged(wire: Wire, gossip: Datagrams) -> None:
    wire.network.set_link("n1", "n2", duplicate=1.0)
    wire.network.set_link("n1", "n3", corrupt=1.0)
    wire.show()
    gossip.send("n1", "n2", b"twice")
    assert [gossip.receive("n2") for _ in range(3)] == [b"twice", b"twice", None]
    gossip.send("n1", "n3", b"\0" * 10)
    damaged = gossip.receive("n3")
    assert damaged is not None
    assert sum(byte.bit_count() for byte in damaged) == 1


def test_a_relay_that_has_died_is_noticed(lab: Lab, wire: Wire, gossip: Datagrams) -> None:
    assert wire.delays.pid is not None
    os.kill(wire.delays.pid, signal.SIGKILL)
    wire.network.set_link("n1", "n2", delay_ms=(5.0, 5.0))
    with pytest.raises(LabError, match=r"the relay has ended|does not listen"):
        wire.show()
    assert gossip.passes("n1", "n2")


def test_a_script_that_is_refused_changes_nothing(lab: Lab, wire: Wire, gossip: Datagrams) -> None:
    wire.network.cut("n1", "n2")
    wire.show()
    with pytest.raises(LabError, match="nft"):
        apply(lab, NOTHING + "table netdev metako { chain broken { nonsense } }\n")
    assert not gossip.passes("n1", "n2")


@pytest.mark.slow
def test_the_end_of_the_wires_lets_everything_pass(lab: Lab, gossip: Datagrams) -> None:
    with Wire(lab, new_network(1)) as wire:
        wire.network.set_link("*", "*", delay_ms=(5.0, 5.0))
        wire.network.cut("n1", "n2")
        wire.show()
        relay = wire.delays.pid
        assert relay in lab.processes()
        assert not gossip.passes("n1", "n2")
    assert gossip.passes("n1", "n2")
    assert lab.processes() == {}
