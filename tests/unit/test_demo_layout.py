"""The local cluster's files: ports, record, configuration text."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from metako.config import check_runnable, load
from metako.demo.layout import (
    HOST,
    Layout,
    is_port_free,
    node_config_text,
    plan_layout,
    read_record,
    record_text,
)
from metako.demo.prepare import open_layout
from metako.model.document import PairMode
from metako.model.errors import DataDirectoryError, PortInUseError, UsageError
from metako.runtime.paths import agent_socket


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    # pytest's own temporary paths are longer than Unix sockets allow.
    return plan_layout(Path("/tmp/x"), nodes=3)


def test_no_two_nodes_share_a_port(layout):
    ports = [port for node in layout.nodes for port in node.ports()]
    assert len(set(ports)) == 12


def test_picked_ports_are_below_the_ephemeral_range(layout):
    assert all(20_000 <= port < 32_768 for node in layout.nodes for port in node.ports())


def test_taken_port_of_the_range_asked_for_is_named():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_port_free(port)
        with pytest.raises(PortInUseError, match=str(port)):
            plan_layout(Path("/tmp/x"), nodes=1, base_port=port)


def test_taken_udp_port_is_not_free():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, 0))
        assert not is_port_free(taken.getsockname()[1])


def test_range_beyond_the_last_port_is_refused():
    with pytest.raises(UsageError, match="do not exist"):
        plan_layout(Path("/tmp/x"), nodes=3, base_port=65_530)


def test_path_too_long_for_unix_sockets_is_refused():
    with pytest.raises(UsageError, match="shorter"):
        plan_layout(Path("/tmp") / ("x" * 60))


@pytest.mark.parametrize("count", [0, 10])
def test_number_of_nodes_is_bounded(count):
    with pytest.raises(UsageError):
        plan_layout(Path("/tmp/x"), nodes=count)


def test_two_layouts_have_different_secrets():
    one, other = plan_layout(Path("/tmp/x")), plan_layout(Path("/tmp/x"))
    assert one.gossip_key != other.gossip_key
    assert one.app_password != other.app_password
    assert one.replication_password != other.replication_password


def test_configuration_names_every_member_and_its_own_ports(layout):
    node = layout.nodes[1]
    config = yaml.safe_load(node_config_text(layout, node))
    assert config["node"]["name"] == "n2"
    assert config["cluster"]["bootstrap_node"] == "n1"
    assert [m["name"] for m in config["cluster"]["members"]] == ["n1", "n2", "n3"]
    assert [m["gossip_port"] for m in config["cluster"]["members"]] == [
        n.gossip_port for n in layout.nodes
    ]
    assert config["postgresql"]["port"] == node.postgres_port
    assert config["proxy"]["port"] == node.proxy_port
    assert config["api"]["port"] == node.api_port
    assert config["gossip"] == {
        "host": HOST,
        "port": node.gossip_port,
        "key": layout.gossip_key,
    }


def test_configuration_is_one_that_an_agent_accepts(layout, tmp_path):
    for node in layout.nodes:
        path = tmp_path / f"{node.name}.yaml"
        path.write_text(node_config_text(layout, node))
        config = load(path)
        check_runnable(config)
        assert config.node.name == node.name
        assert agent_socket(config) == node.agent_socket


@pytest.mark.parametrize("mode", list(PairMode))
def test_the_rule_of_a_pair_is_in_the_configuration(layout, tmp_path, mode):
    pair = replace(layout, nodes=layout.nodes[:2], pair_mode=str(mode), takeover_delay_ms=1500)
    path = tmp_path / "n1.yaml"
    path.write_text(node_config_text(pair, pair.nodes[0]))
    config = load(path)
    assert config.cluster.pair_mode is mode
    assert not any("pair_mode" in note or "takeover" in note for note in config.notes)
    if mode is PairMode.TAKEOVER:
        assert config.cluster.takeover_delay_ms == 1500


def test_strange_values_do_not_break_the_file(layout):
    odd = replace(layout, bindir='/opt/a "b": {c} # d', app_password="x: y'\\")
    config = yaml.safe_load(node_config_text(odd, odd.nodes[0]))
    assert config["postgresql"]["bindir"] == odd.bindir
    assert config["postgresql"]["bootstrap"]["password"] == odd.app_password


def test_record_round_trip(tmp_path):
    layout = replace(plan_layout(Path("/tmp/x")), directory=tmp_path)
    (tmp_path / "demo.json").write_text(record_text(layout))
    assert read_record(tmp_path) == layout


def test_directory_without_record_has_none(tmp_path):
    assert read_record(tmp_path) is None


def test_record_of_a_moved_directory_is_refused(tmp_path):
    (tmp_path / "demo.json").write_text(record_text(plan_layout(Path("/tmp/x"))))
    with pytest.raises(UsageError, match="moved"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"directory": "/x"}', "{"])
def test_damaged_record_is_one_clear_error(tmp_path, text):
    (tmp_path / "demo.json").write_text(text)
    with pytest.raises(UsageError, match="not the record"):
        read_record(tmp_path)


def test_foreign_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(DataDirectoryError, match="not empty"):
        open_layout(tmp_path, nodes=3, base_port=None, bindir=None, os_user=None, timing="default")
    assert (tmp_path / "precious").read_text() == "data"
