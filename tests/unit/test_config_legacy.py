"""pg-metako files: the manual's example loads as it is, and every key does what it says."""

from pathlib import Path

import pytest
import yaml

from metako.config import check_runnable, load
from metako.config.node_config import Balance, PairMode
from metako.model.errors import ConfigError
from metako.model.ids import Address

LEAST_CONNECTED = Balance.LEAST_CONNECTED
EXAMPLE = Path(__file__).parents[2] / "configs" / "pg-metako-example.yaml"


def example(**sections):
    """Return the example's text with some sections' keys replaced; None removes a section."""
    values = yaml.safe_load(EXAMPLE.read_text())
    for name, change in sections.items():
        if change is None:
            del values[name]
        elif isinstance(change, dict):
            values[name] = {**values.get(name, {}), **change}
        else:
            values[name] = change
    return yaml.safe_dump(values, sort_keys=False)


@pytest.fixture
def loaded(tmp_path):
    def _loaded(text, environ=None):
        path = tmp_path / "node.yaml"
        path.write_text(text)
        return load(path, environ=environ or {})

    return _loaded


@pytest.fixture
def errors(loaded):
    def _errors(text):
        with pytest.raises(ConfigError) as caught:
            loaded(text)
        return [line.split("node.yaml:")[1] for line in str(caught.value).splitlines()]

    return _errors


def test_example_loads_and_names_the_whole_cluster():
    config = load(EXAMPLE, environ={})
    assert [(m.name, m.gossip) for m in config.cluster.members][1:] == [
        ("pg-metako-node2", Address("192.168.1.102", 8080)),
        ("pg-metako-node3", Address("192.168.1.103", 8080)),
    ]
    assert config.cluster.bootstrap_node == config.node.name == "pg-metako-node1"
    assert config.cluster.min_votes == 2
    assert config.api.listen == config.gossip.listen == Address("0.0.0.0", 8080)
    assert config.gossip.shares_api_port
    assert config.postgresql.port == 5432
    assert config.postgresql.bootstrap.database == "myapp"
    assert config.postgresql.bootstrap.password == "password"
    assert config.postgresql.data_dir_from_server
    assert config.proxy.local_preference == 0.8
    assert config.proxy.read_timeout_ms == 10_000


def test_example_data_directory_is_the_nodes_own_and_state_lies_beside_it(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    config = load(EXAMPLE, environ={})
    assert config.postgresql.data_dir == Path("/var/lib/metako/pg-metako-node1")
    assert config.node.state_dir == Path("/var/lib/metako/pg-metako-node1.state")


def test_example_does_not_run_for_want_of_key_and_certificates():
    with pytest.raises(ConfigError) as caught:
        check_runnable(load(EXAMPLE, environ={}))
    text = str(caught.value)
    assert "metako keygen" in text
    assert "/path/to/cert.pem does not exist" in text
    assert len(text.splitlines()) == 3


def test_example_tells_which_of_two_timings_is_in_force():
    notes = load(EXAMPLE, environ={}).notes
    assert any(
        note.startswith("coordination.heartbeat_interval 10s: the timing profile's 250ms")
        for note in notes
    )
    assert any(note.startswith("health_check.interval 30s: metako's 500ms") for note in notes)
    assert any("no effect yet" in n and n.startswith("load_balancer.algorithm") for n in notes)


@pytest.mark.parametrize(
    ("section", "change", "read", "expected"),
    [
        ("coordination", {"heartbeat_interval": "200ms"}, "timing.heartbeat_ms", 200),
        ("coordination", {"communication_timeout": "3s"}, "gossip.exchange_timeout_ms", 3000),
        ("coordination", {"communication_timeout": "150ms"}, "gossip.probe_timeout_ms", 150),
        ("coordination", {"failover_timeout": "1s"}, "timing.candidacy_timeout_ms", 1000),
        ("coordination", {"min_consensus_nodes": 3}, "cluster.min_votes", 3),
        ("coordination", {"local_node_preference": 0.25}, "proxy.local_preference", 0.25),
        (
            "coordination",
            {"cluster_mode": {"heartbeat_interval": "10s"}},
            "timing.heartbeat_ms",
            250,
        ),
        ("coordination", {"enable_pair_mode": True}, "cluster.pair_mode", PairMode.TAKEOVER),
        ("coordination", {"pair_mode": {"enable": True}}, "cluster.pair_mode", PairMode.TAKEOVER),
        ("coordination", {"pair_mode": {"enable": False}}, "cluster.pair_mode", None),
        ("coordination", {"pair_failover_delay": "7s"}, "cluster.takeover_delay_ms", 7000),
        ("coordination", {"pair_mode": {"failure_threshold": 5}}, "cluster.takeover_failures", 5),
        ("health_check", {"interval": "100ms"}, "postgresql.health.interval_ms", 100),
        ("health_check", {"timeout": "1s"}, "postgresql.health.timeout_ms", 1000),
        ("health_check", {"failure_threshold": 9}, "postgresql.health.failure_threshold", 9),
        (
            "load_balancer",
            {"algorithm": "least_connected"},
            "proxy.balance",
            Balance.LEAST_CONNECTED,
        ),
        ("load_balancer", {"read_timeout": "1m30s"}, "proxy.read_timeout_ms", 90_000),
        ("load_balancer", {"write_timeout": "500ms"}, "proxy.write_timeout_ms", 500),
        ("security", {"tls_enabled": False}, "tls.enabled", False),
        ("security", {"cert_file": "/c"}, "tls.cert_file", Path("/c")),
        ("identity", {"api_port": 9090}, "gossip.listen.port", 9090),
        ("identity", {"api_host": "192.168.1.101"}, "gossip.advertise.host", "192.168.1.101"),
        ("local_db", {"host": "127.0.0.1"}, "postgresql.port", 5432),
        ("local_db", {"role": "slave"}, "cluster.bootstrap_node", None),
    ],
)
def test_a_key_reaches_the_configuration(loaded, section, change, read, expected):
    value = loaded(example(**{section: change}))
    for name in read.split("."):
        value = getattr(value, name)
    assert value == expected


def test_another_nodes_master_role_names_the_bootstrap_node(loaded):
    text = example(
        local_db={"role": "slave"},
        cluster_members=[
            {"node_name": "m2", "api_host": "h2", "api_port": 1, "role": "master"},
            {"node_name": "m3", "api_host": "h3", "api_port": 1, "role": "slave"},
        ],
    )
    assert loaded(text).cluster.bootstrap_node == "m2"


def test_a_file_in_which_nobody_is_master_loads_and_does_not_run(loaded):
    with pytest.raises(ConfigError, match=r"cluster\.bootstrap_node: is missing"):
        check_runnable(loaded(example(local_db={"role": "slave"})))


def test_own_sections_beside_it_win_over_settings_and_say_so(loaded):
    config = loaded(
        example(
            timing={"heartbeat": "300ms"},
            proxy={"read_timeout": "4s"},
            gossip={"port": 7946},
            postgresql={"data_dir": "/data"},
        )
    )
    assert config.timing.heartbeat_ms == 300
    assert config.proxy.read_timeout_ms == 4000
    assert not config.postgresql.data_dir_from_server
    assert config.postgresql.data_dir == Path("/data")
    # All files of a cluster are alike: the others' gossip moves to the port said here as well.
    assert {m.gossip.port for m in config.cluster.members} == {7946}
    assert not config.gossip.shares_api_port
    wins = [note for note in config.notes if note.endswith("is set as well and wins")]
    assert [note.split(":")[0].split(" ")[0] for note in wins] == [
        "coordination.heartbeat_interval",
        "load_balancer.read_timeout",
    ]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"node": {"name": "other"}}, "identity.node_name: contradicts 'node.name'"),
        ({"postgresql": {"port": 5433}}, "local_db.port: contradicts 'postgresql.port'"),
        ({"api": {"port": 8008}}, "identity.api_port: contradicts 'api.port'"),
        ({"local_db": {"port": 5433}}, "local_db.port: contradicts 'identity.local_db_port'"),
        ({"local_db": {"host": "10.1.1.1"}}, "local_db.host: contradicts 'identity.local_db_host'"),
        (
            {"coordination": {"cluster_mode": {"min_consensus_nodes": 3}}},
            "coordination.cluster_mode.min_consensus_nodes: contradicts",
        ),
        (
            {"cluster": {"bootstrap_node": "pg-metako-node2"}},
            "local_db.role: contradicts 'cluster.bootstrap_node'",
        ),
        (
            {"cluster": {"members": [{"name": "pg-metako-node2", "host": "10.0.0.9"}]}},
            "cluster_members[0].api_host: contradicts the host of 'pg-metako-node2'",
        ),
    ],
)
def test_a_fact_may_be_repeated_but_not_contradicted(errors, sections, expected):
    assert any(expected in line for line in errors(example(**sections)))


def test_a_fact_that_is_repeated_alike_is_no_mistake(loaded):
    config = loaded(example(node={"name": "pg-metako-node1"}, postgresql={"port": 5432}))
    assert config.node.name == "pg-metako-node1"


def test_two_masters_are_refused_at_the_second_ones_line(errors):
    text = EXAMPLE.read_text().replace('role: "slave"', 'role: "master"', 1)
    line = text.splitlines().index('    role: "master"') + 1
    expected = f"{line}: cluster_members[0].role: 'pg-metako-node1' has the role of the primary"
    assert [e.startswith(expected) for e in errors(text)] == [True]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"round_robin"', '"round-robin"', "load_balancer.algorithm: 'round-robin' is not one of"),
        ('role: "master"', 'role: "boss"', "local_db.role: 'boss' is not one of master, slave"),
        ("node_name: ", "nodename: ", "identity.nodename: unknown key; did you mean 'node_name'?"),
        ('"10s"', "10", "coordination.heartbeat_interval: 10 has no unit; write 10s or 10ms"),
        ("min_consensus_nodes: 2", "min_consensus_nodes: 4", "min_consensus_nodes: 4 votes can"),
        ("preference: 0.8", "preference: 1.8", "local_node_preference: 1.8 is more than 1"),
        ("local_db_port: 5432", "local_db_port: 0", "identity.local_db_port: 0 is less than 1"),
    ],
)
def test_mistakes_are_told_under_the_name_that_the_operator_wrote(errors, old, new, expected):
    text = EXAMPLE.read_text()
    assert old in text
    changed = text.replace(old, new, 1)
    line = next(
        i
        for i, (a, b) in enumerate(zip(text.splitlines(), changed.splitlines(), strict=True), 1)
        if a != b
    )
    found = errors(changed)
    assert any(e.startswith(f"{line}: ") and expected in e for e in found), found


def test_a_heartbeat_too_short_is_told_under_its_old_name(errors):
    found = errors(example(coordination={"heartbeat_interval": "10ms"}))
    assert any("coordination.heartbeat_interval: 10ms is less than 20ms" in e for e in found)
