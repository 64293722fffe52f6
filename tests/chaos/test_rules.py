"""The rules that follow from the simulator's network, as text."""

from __future__ import annotations

import pytest

from chaos.relay import Shape
from chaos.wire import caveat, new_network, ruleset, shapes, unsupported
from sim.faults import Fault
from sim.links import Traffic
from sim.network import Network
from sim.shapes import majorities_ring

NODES = ("n1", "n2", "n3")
HOSTS = {"n1": "10.77.0.11", "n2": "10.77.0.12", "n3": "10.77.0.13", "c": "10.77.0.99"}
NOTHING = "table netdev metako {}\ndelete table netdev metako\n"

TCP_RESET = "reject with tcp reset"
UNREACHABLE = "reject with icmp type port-unreachable"


def rules(network: Network, src: str, dst: str) -> list[str]:
    """Return the rules of one direction, as they stand in the script."""
    lines = [line.strip() for line in ruleset(network, HOSTS).splitlines()]
    name = f"chain {src}_to_{dst} {{"
    if name not in lines:
        return []
    start = lines.index(name) + 1
    return lines[start : lines.index("}", start)]


def test_an_undisturbed_network_has_no_rules() -> None:
    assert ruleset(new_network(1), HOSTS) == NOTHING
    assert shapes(new_network(1), HOSTS) == {}


def test_a_disturbed_direction_has_a_chain_behind_a_lookup_by_address() -> None:
    network = new_network(1)
    network.cut("n1", "n2", Traffic.GOSSIP)
    network.set_link("n1", "c", loss=0.25)
    network.set_link("n3", "n1", delay_ms=(20, 30))
    assert ruleset(network, HOSTS) == NOTHING + (
        "table netdev metako {\n"
        "\tchain n1_to_n2 {\n"
        "\t\tudp dport 7400 drop\n"
        "\t\tudp sport 7400 drop\n"
        "\t}\n"
        "\tchain n1_to_c {\n"
        "\t\tnumgen random mod 10000 < 2500 drop\n"
        "\t}\n"
        "\tchain from_n1 {\n"
        '\t\ttype filter hook ingress device "p-n1" priority 0; policy accept;\n'
        "\t\tip daddr vmap { 10.77.0.12 : jump n1_to_n2, 10.77.0.99 : jump n1_to_c }\n"
        "\t}\n"
        "\tchain n3_to_n1 {\n"
        '\t\tfwd to "delay"\n'
        "\t}\n"
        "\tchain from_n3 {\n"
        '\t\ttype filter hook ingress device "p-n3" priority 0; policy accept;\n'
        "\t\tip daddr vmap { 10.77.0.11 : jump n3_to_n1 }\n"
        "\t}\n"
        "}\n"
    )
    assert shapes(network, HOSTS) == {("n3", "n1"): Shape(low_ms=20, high_ms=30)}


def test_equal_disturbances_give_equal_texts_whatever_was_asked_before() -> None:
    first, second = new_network(1), new_network(2)
    ruleset(first, HOSTS)
    for network in (first, second):
        majorities_ring(network, NODES)
    assert ruleset(first, HOSTS) == ruleset(second, HOSTS) != NOTHING


def test_a_cut_of_everything_is_one_rule_for_frames_of_any_kind() -> None:
    network = new_network(1)
    network.cut("n1", "*")
    assert rules(network, "n1", "n2") == rules(network, "n1", "c") == ["drop"]
    assert rules(network, "n2", "n1") == []


def test_a_refused_cut_is_answered_in_the_way_of_the_protocol() -> None:
    network = new_network(1)
    network.partition(["n1"], ["n2"], refuse=True)
    expected = [f"ip protocol tcp {TCP_RESET}", UNREACHABLE]
    assert rules(network, "n1", "n2") == rules(network, "n2", "n1") == expected
    assert rules(network, "n1", "n3") == []


def test_of_two_cuts_the_one_that_refuses_is_answered_and_the_rest_dropped() -> None:
    network = new_network(1)
    network.cut("n1", "n2")
    refusal = network.cut("n1", "n2", Traffic.STREAM, refuse=True)
    assert rules(network, "n1", "n2")[-3:] == [
        "tcp dport 6432 drop",
        "tcp sport 6432 drop",
        "drop",
    ]
    assert f"tcp dport 7400 {TCP_RESET}" in rules(network, "n1", "n2")
    refusal.undo()
    assert rules(network, "n1", "n2") == ["drop"]


@pytest.mark.parametrize("traffic", [Traffic.REPLICATION, Traffic.PROXY])
def test_replication_and_proxies_share_a_port_between_nodes(traffic: Traffic) -> None:
    network = new_network(1)
    network.cut("n1", "*", traffic)
    assert rules(network, "n1", "n2") == ["tcp dport 5432 drop", "tcp sport 5432 drop"]
    assert rules(network, "n1", "c") == []


def test_a_client_reaches_proxies_and_servers() -> None:
    network = new_network(1)
    network.cut("c", "n1", Traffic.CLIENT, refuse=True)
    assert rules(network, "c", "n1") == [
        f"tcp dport 6432 {TCP_RESET}",
        f"tcp sport 6432 {TCP_RESET}",
        f"tcp dport 5432 {TCP_RESET}",
        f"tcp sport 5432 {TCP_RESET}",
    ]


def test_loss_comes_before_delay_and_total_loss_leaves_nothing_to_delay() -> None:
    network = new_network(1)
    network.set_link("n1", "n2", loss=0.3, delay_ms=(1, 1))
    assert rules(network, "n1", "n2") == [
        "numgen random mod 10000 < 3000 drop",
        'fwd to "delay"',
    ]
    network.set_link("n1", "n2", loss=1.0)
    assert rules(network, "n1", "n2") == ["drop"]


def test_a_clog_is_held_by_the_relay_and_a_cut_goes_first() -> None:
    network = new_network(1)
    network.clog("n1", "n2")
    network.cut("n1", "n2", Traffic.GOSSIP)
    assert rules(network, "n1", "n2")[-1] == 'fwd to "delay"'
    assert rules(network, "n1", "n2")[0] == "udp dport 7400 drop"
    assert shapes(network, HOSTS) == {("n1", "n2"): Shape(held=True)}


def test_healing_leaves_what_is_normal() -> None:
    network = new_network(1)
    network.set_base("n1", "n2", delay_ms=(5, 5))
    normal = ruleset(network, HOSTS)
    network.cut("n1", "n2")
    network.set_link("*", "*", loss=0.5, duplicate=0.1)
    network.heal()
    assert ruleset(network, HOSTS) == normal != NOTHING


def test_only_a_delay_beyond_all_timeouts_is_unsupported() -> None:
    def link(delay_s: int, jitter_s: int) -> Fault:
        args = {"delay": delay_s * 10**9, "jitter": jitter_s * 10**9}
        return Fault.make(0, "link", args)

    assert unsupported(link(59, 1)) is None
    assert "memory" in (unsupported(link(59, 2)) or "")
    assert unsupported(Fault.make(0, "clog", {"from": ("n1",), "to": "*"})) is None
    assert unsupported(Fault.make(0, "kill", {"node": "n1"})) is None


def test_a_cut_that_is_wider_than_its_name_says_so() -> None:
    assert "proxies" in (caveat(Fault.make(0, "cut", {"traffic": "replication"})) or "")
    assert "replication" in (caveat(Fault.make(0, "cut", {"traffic": "client"})) or "")
    assert caveat(Fault.make(0, "cut", {"traffic": "agents"})) is None
    assert caveat(Fault.make(0, "heal")) is None
