"""metako's own sections: what loads, what it becomes, and what is refused with which words."""

from pathlib import Path

import pytest

from metako.config import check_runnable, generate_key, load, profiles, resolve_advertised
from metako.config.node_config import TlsConfig
from metako.config.parameters import check_parameters
from metako.election.settings import CLOCK_RATE_ERROR, ElectionSettings
from metako.model.document import Durability
from metako.model.errors import ConfigError
from metako.model.ids import Address
from metako.model.sslmode import SslMode
from metako.postgres import settings

CONFIGS = Path(__file__).parents[2] / "configs"
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
THREE = """\
node: {name: n1}
cluster:
  bootstrap_node: n1
  members:
    - {name: n1, host: 10.0.0.1}
    - {name: n2, host: 10.0.0.2, postgres_port: 5555}
    - {name: n3, host: 10.0.0.3, gossip_port: 8000, witness: true}
"""


@pytest.fixture
def write(tmp_path):
    def _write(text, name="node.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


@pytest.fixture
def errors(write):
    """Return the error lines of a text, without the file's directory."""

    def _errors(text):
        path = write(text)
        with pytest.raises(ConfigError) as caught:
            load(path, environ={})
        return str(caught.value).replace(f"{path}:", "F:").splitlines()

    return _errors


def loaded(path, **environ):
    return load(path, environ=environ)


def test_shipped_default_configuration_is_runnable_without_a_key_or_notes():
    config = loaded(CONFIGS / "config.yaml")
    check_runnable(config)
    assert config.notes == ()
    assert config.cluster.voters() == ("n1",)
    assert config.cluster.bootstrap_node == "n1"
    ports = {config.gossip.listen.port, config.postgresql.port}
    ports |= {config.proxy.listen.port, config.api.listen.port}
    assert ports == {7946, 5433, 6432, 8008}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_shipped_three_node_configurations_agree_and_only_lack_the_key(number):
    config = loaded(CONFIGS / "three-nodes" / f"node{number}.yaml")
    first = loaded(CONFIGS / "three-nodes" / "node1.yaml")
    assert config.cluster == first.cluster
    assert config.gossip.advertise == Address(f"10.0.0.{number}", 7946)
    assert config.postgresql.advertise == Address(f"10.0.0.{number}", 5432)
    with pytest.raises(ConfigError, match=r"gossip key: .*gossip\.key cannot be read") as caught:
        check_runnable(config)
    assert len(str(caught.value).splitlines()) == 1


def test_defaults_of_a_three_node_cluster(write):
    config = loaded(write(THREE))
    members = {m.name: (m.gossip, m.postgres) for m in config.cluster.members}
    assert members == {
        "n1": (Address("10.0.0.1", 7946), Address("10.0.0.1", 5432)),
        "n2": (Address("10.0.0.2", 7946), Address("10.0.0.2", 5555)),
        "n3": (Address("10.0.0.3", 8000), None),
    }
    assert config.cluster.voters() == ("n1", "n2", "n3")
    assert config.cluster.witnesses() == ("n3",)
    assert config.gossip.listen == Address("0.0.0.0", 7946)
    assert config.postgresql.listen == "*"
    assert config.postgresql.hba == ("host all all all scram-sha-256",)
    assert config.durability.mode is Durability.QUORUM
    assert config.durability.max_lag_on_failover_bytes == 1 << 20
    assert config.api.advertise is None  # the API listens on loopback only
    assert config.proxy.advertise == Address("10.0.0.1", 6432)
    assert config.postgresql.orphan_timeout_ms == 60_000


def test_a_node_missing_from_the_members_is_added_first(write):
    config = loaded(write(THREE.replace("{name: n1}", "{name: n9}", 1)))
    assert [m.name for m in config.cluster.members] == ["n9", "n1", "n2", "n3"]


def test_own_entry_in_the_members_sets_ports_and_witness(write):
    text = THREE.replace("{name: n1}", "{name: n3}", 1)
    config = loaded(write(text))
    assert config.node.witness
    assert config.gossip.listen.port == 8000


def test_default_directories_keep_state_and_data_apart(write, tmp_path, monkeypatch):
    path = write("node: {name: n1}")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    root = loaded(path, HOME=str(tmp_path))
    assert root.node.state_dir == Path("/var/lib/metako/n1")
    assert root.postgresql.data_dir == Path("/var/lib/metako/n1/pg/data")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    user = loaded(path, HOME=str(tmp_path))
    assert user.node.state_dir == tmp_path / ".local/state/metako/n1"


def test_data_lie_below_a_state_directory_that_is_named(write, tmp_path):
    config = loaded(write("node: {name: n1, state_dir: s}"))
    assert config.postgresql.data_dir == tmp_path / "s" / "pg" / "data"


def test_relative_paths_start_at_the_file(write, tmp_path):
    text = "node: {name: n1, state_dir: s}\nlogging: {file: ~/l.log}\npostgresql: {bindir: ../b}"
    config = loaded(write(text), HOME="/h")
    assert config.node.state_dir == tmp_path / "s"
    assert config.logging.file == Path("/h/l.log")
    assert config.postgresql.bindir == str(tmp_path / "../b")


@pytest.mark.parametrize("profile", sorted(profiles.TIMING_MS))
def test_every_profile_keeps_every_relation_and_that_of_the_election(write, profile):
    config = loaded(write(f"node: {{name: n1}}\ntiming: {{profile: {profile}}}"))
    values = {f: getattr(config.timing, f) for f in config.timing.__slots__ if f != "profile"}
    assert ElectionSettings(**values).hold_ms == config.timing.hold_ms


def test_default_profile_and_clock_error_are_those_of_the_election(write):
    config = loaded(write("node: {name: n1}"))
    values = {f: getattr(config.timing, f) for f in config.timing.__slots__ if f != "profile"}
    assert ElectionSettings(**values) == ElectionSettings()
    assert profiles.CLOCK_RATE_ERROR == CLOCK_RATE_ERROR


def test_timing_overrides_one_value_of_a_profile(write):
    config = loaded(write("node: {name: n1}\ntiming: {profile: fast, hold: 1s}"))
    assert (config.timing.heartbeat_ms, config.timing.hold_ms) == (100, 1000)


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        ("{heartbeat: 1s}", "timing.hold: 2s is less than four heartbeats of 1s"),
        ("{heartbeat: 5ms}", "timing.heartbeat: 5ms is less than 20ms"),
        ("{fence_margin: 1s}", "timing.fence_margin: 1s is not less than half the hold of 2s"),
        ("{jitter: 200ms}", "timing.jitter: 200ms is more than the stagger of 80ms"),
        ("{retry: 1s}", "timing.candidacy_timeout: 2s leaves no time for four requests"),
        ("{standby_settle: 2s}", "timing.standby_settle: 2s is more than the standby_grace"),
        ("{profile: fast, heartbeat: 200ms, fence_margin: 390ms}", "leaves less than two"),
    ],
)
def test_broken_timing_relations_are_refused(errors, timing, words):
    lines = errors(f"node: {{name: n1}}\ntiming: {timing}")
    assert any(words in line and line.startswith("F:2: ") for line in lines), lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node: {nme: n1}", "F:1: node.nme: unknown key; did you mean 'name'?"),
        ("node: {name: n1, bindir: /x}", "node.bindir: unknown key here; it is known as"),
        ("node: {name: n1}\nposgresql: {}", "F:2: posgresql: unknown key; did you mean"),
        ("cluster: {}", "F:1: node: is missing; write at least 'node: {name: n1}'"),
        ("node:\n  zone: a", "F:1: node.name: is missing"),
        ("node: {name: 7}", "F:1: node.name: is not a text; put it in quotes"),
        ("node: {name: ''}", "F:1: node.name: '' is not a name; use 1 to 63 letters"),
        ("node: {name: n1, priority: high}", "node.priority: 'high' is not a number"),
        ("node: {name: n1, priority: '7'}", "is not a number; write it without quotes"),
        ("node: {name: n1, priority: 1001}", "node.priority: 1001 is more than 1000"),
        ("node:\n  name: n1\n  priority:", "F:3: node.priority: has no value"),
        ("node: {name: n1}\napi:\n  port: 0", "F:3: api.port: 0 is less than 1"),
        ("node: {name: n1}\napi: 8008", "F:2: api: is not a mapping"),
        ("node: {name: n1}\nproxy: {enabled: 3}", "proxy.enabled: 3 is not true or false"),
        ("node: {name: n1}\ntiming: {hold: 2}", "timing.hold: 2 has no unit; write 2s or 2ms"),
        ("node: {name: n1}\ntiming: {hold: 2 s}", "'2 s' is not a duration; write it like"),
        ("node: {name: n1}\ntiming: {hold: -2s}", "timing.hold: '-2s' is negative"),
        ("node: {name: n1}\ntiming: {hold: 1h}", "timing.hold: 1h is more than 10m"),
        ("node: {name: n1}\ntiming: {profile: fsat}", "did you mean 'fast'?"),
        ("node: {name: n1}\ndurability: {mode: quorom}", "did you mean 'quorum'?"),
        ("node: {name: n1}\nlogging: {rotation: 50}", "50 has no unit"),
        ("node: {name: n1}\ncluster: {members: n2}", "cluster.members: is not a list"),
        (
            "node: {name: n1}\ncluster:\n  members:\n  - {name: n2, host: h}\n  - {name: n3}",
            "F:5: cluster.members[1].host: is missing",
        ),
        ("node: {name: n1}\napi: {host: 'http://x'}", "is not a host; write a name or"),
        ("node: {name: n1}\nproxy: {port: 8008}", "api.port: 8008 is also the port of proxy.port"),
        ("node: {name: n1}\napi: {port: 7946}", "7946 is also the port of gossip.port"),
        ("node: {name: n1}\ncluster: {min_votes: 3}", "3 votes can never be had from 1 voters"),
        ("node: {name: n1}\ndurability: {acks: 2}", "2 is more than the 0 standbys"),
        ("node: {name: n1}\ndurability: {mode: strict}", "blocks every commit"),
        ("node: {name: n1, witness: true}", "no member can be the primary"),
        ("node: {name: n1}\ngossip: {key: abc}", "gossip.key: is not base64; make one with"),
        (f"node: {{name: n1}}\ngossip: {{key: {KEY[:20]}}}", "gossip.key: has 15 bytes, not 32"),
        (f"node: {{name: n1}}\ngossip: {{key: {KEY}, key_file: f}}", "gossip.key_file is set"),
        ("node: {name: n1}\ngossip: {probe_timeout: 400ms}", "no time would be left"),
        ("node: {name: n1}\ntls: {enabled: true}", "tls.enabled: needs tls.cert_file"),
        ("node: {name: n1}\ntls: {required: true}", "because tls.enabled is not true"),
        ("node: {name: n1}\nproxy: {server_tls: on}", "F:2: proxy.server_tls: "),
        ("node: {name: n1}\nproxy: {server_tls: verify-ca}", "verify-ca needs proxy.server_ca"),
        ("node: {name: n1}\nproxy: {server_ca_file: f}", "nothing is verified with server_tls"),
        ("node: {name: n1}\npostgresql: {bindir: 'embedded:x'}", "write it like embedded:18"),
        ("node: {name: n1}\npostgresql: {bootstrap: {password: p}}", "there is no username"),
    ],
)
def test_a_mistake_is_told_with_line_key_and_hint(errors, text, expected):
    lines = errors(text)
    assert any(expected in line for line in lines), lines
    assert all(line.startswith("F:") for line in lines), lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "F:1: the file is empty"),
        ("# only a remark\n", "F:1: the file is empty"),
        ("- a\n- b", "F:1: the file is not a mapping of sections"),
        ("node:\n\tname: n1", "F:2: a tab stands where YAML wants spaces; indent with spaces"),
        ("node: {name: n1", "F:1: not valid YAML"),
        ("node: {name: n1}\nnode: {name: n2}", "F:2: node: the key is already set on line 1"),
        ("a: 1\n---\nb: 2", "F:2: not valid YAML: a second document begins here"),
        ("node: {name: !!python/object:os.system x}", "F:1: not valid YAML"),
        ("node: {name: n1}\n? [a]\n: 1", "a key must be a word"),
        ('node: {name: "a\\0b"}', "the value contains a character that is no text"),
        ("node: {name: !!binary aGFsbG8=}", "a value of this type has no use here"),
        (b"node: {name: n1}\nx: \xff", "F:2: is not UTF-8 text; save it as UTF-8"),
        ("node: {name: \x07}", "the character U+0007 is not allowed"),
    ],
)
def test_what_is_no_mapping_of_sections_is_one_clear_line(errors, text, expected):
    lines = errors(text)
    assert len(lines) == 1, lines
    assert expected in lines[0]


def test_an_alias_bomb_is_refused_quickly(errors):
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    lines = errors(f"a0: &a0 [x]\n{levels}")
    assert "more than 20000 values" in lines[0]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(errors):
    lines = errors("api: {port: 0}\nnode: {nam: x}\nnode: {}\ntiming:\n  hold: 3\n  hold: 4\n")
    assert [line.split(":")[1] for line in lines] == sorted(line.split(":")[1] for line in lines)
    assert {"F:1", "F:3", "F:6"} <= {":".join(line.split(":")[:2]) for line in lines}


def test_relations_between_keys_are_told_at_once(errors):
    lines = errors(
        "node: {name: n1}\napi: {port: 6432}\ntiming: {hold: 50ms}\ncluster: {min_votes: 2}"
    )
    assert [line[:3] for line in lines] == ["F:2", "F:3", "F:3", "F:3", "F:4"]


@pytest.mark.parametrize("key", ["password: 12345", "password: [geheim]", "username: [geheim]"])
def test_an_error_never_shows_a_secret(errors, key):
    text = f"node: {{name: n1}}\ngossip: {{key: [geheim]}}\npostgresql: {{bootstrap: {{{key}}}}}"
    assert not any("geheim" in line or "12345" in line for line in errors(text))


def test_repr_of_a_configuration_shows_no_secret(write):
    text = (
        f"node: {{name: n1}}\ngossip: {{key: {KEY}}}\npostgresql:\n  replication_password: geheim\n"
        "  bootstrap: {username: u, password: geheim}"
    )
    config = loaded(write(text))
    assert config.gossip.keys == (b"01234567890123456789012345678901",)
    assert "geheim" not in repr(config)
    assert "0123456789" not in repr(config)


@pytest.mark.parametrize("name", ["no-such.yaml", "."])
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(tmp_path, name):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, environ={})
    assert str(caught.value).startswith(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("{name: n2, host: h9}", "cluster.members[3].name: 'n2' is listed twice"),
        ("{name: n4, host: 10.0.0.2}", "10.0.0.2:7946 is the gossip address of 'n2' already"),
        ("{name: n4, host: 0.0.0.0}", "is no address that others can reach"),
        ("{name: n4, host: h, witness: true, learner: true}", "nothing but its vote"),
    ],
)
def test_contradictions_among_members_are_refused(errors, member, words):
    lines = errors(THREE + f"    - {member}\n")
    assert any(words in line and line.startswith("F:8: ") for line in lines), lines


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("gossip: {port: 8001}", "contradicts 8001 in gossip.port"),
        ("gossip: {advertise_host: 10.9.9.9}", "contradicts '10.9.9.9' in gossip.advertise_host"),
    ],
)
def test_own_sections_must_agree_with_the_own_entry(errors, section, words):
    text = THREE.replace("10.0.0.1}", "10.0.0.1, gossip_port: 8000}") + section
    assert any(words in line for line in errors(text))


@pytest.mark.parametrize(
    ("said", "words"),
    [("n7", "'n7' is not a member"), ("n3", "is a witness and cannot be the first primary")],
)
def test_bootstrap_node_must_be_able_to_be_the_primary(errors, said, words):
    lines = errors(THREE.replace("bootstrap_node: n1", f"bootstrap_node: {said}"))
    assert [line.startswith("F:3: cluster.bootstrap_node: ") for line in lines] == [True]
    assert words in lines[0]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("port: 1", "is managed by metako; use postgresql.port"),
        ("Primary_Conninfo: x", "is managed by metako; remove it"),
        ("recovery_target_time: x", "is managed by metako"),
        ("restore_command: x", "is managed by metako; remove it"),
        ("wal_level: minimal", "'minimal' is too low; use replica or logical"),
        ("fsync: off", "loses acknowledged commits"),
        ("synchronous_commit: local", "acknowledges commits that a failover can lose"),
        ("'work mem': 1MB", "is not the name of a PostgreSQL setting"),
        ("{}: 1", "a key must be a word"),
        ("work_mem: [1]", "is not a single value"),
        ('work_mem: "1\\n2"', "must be a single line"),
    ],
)
def test_a_setting_that_metako_must_own_or_forbid_is_refused_by_name(errors, setting, words):
    text = f"node: {{name: n1}}\npostgresql:\n  parameters:\n    {setting}"
    lines = errors(text)
    assert words in lines[0]
    assert lines[0].startswith("F:4: ")


def test_every_setting_that_the_driver_manages_is_refused():
    accepted = [
        name
        for name in settings.MANAGED - {"wal_level"}  # two of its values are the user's choice
        if not check_parameters({name: "x"}, Durability.ASYNC)[1]
    ]
    assert accepted == []


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_what_every_durability_rests_on_cannot_be_switched_off(name, durability):
    """The driver would refuse it as well, and the node would end at its first start."""
    _, problems = check_parameters({name: "off"}, durability)
    assert len(problems) == 1
    assert problems[0].hint == "remove it"
    assert not check_parameters({name: "on"}, durability)[1]


def test_settings_become_texts_as_postgresql_reads_them(write):
    text = (
        "node: {name: n1}\npostgresql:\n  parameters: "
        "{Work_Mem: 4MB, autovacuum: off, max_connections: 50, random_page_cost: 1.1, jit: on}"
    )
    assert loaded(write(text)).postgresql.parameters == (
        ("autovacuum", "off"),
        ("jit", "on"),
        ("max_connections", "50"),
        ("random_page_cost", "1.1"),
        ("work_mem", "4MB"),
    )


def test_async_durability_may_turn_off_what_protects_commits(write):
    text = (
        "node: {name: n1}\ndurability: {mode: async}\n"
        "postgresql: {parameters: {synchronous_commit: local}}"
    )
    assert loaded(write(text)).postgresql.parameters == (("synchronous_commit", "local"),)


@pytest.mark.parametrize(
    ("line", "words"),
    [("hots all all all md5", "is no kind of pg_hba line"), ("host all all md5", "is too short")],
)
def test_a_pg_hba_line_of_the_wrong_shape_is_refused(errors, line, words):
    lines = errors(f"node: {{name: n1}}\npostgresql:\n  hba:\n    - {line}")
    assert words in lines[0]
    assert lines[0].startswith("F:4: postgresql.hba[0]: ")


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("'  host  all\tall   all md5 '", "host all all all md5"),
        (r'"host all\u00a0all all md5"', "host all all all md5"),  # pasted from a web page
        # Names that differ by their blanks are names of different roles.
        ("""'host all "my  role"  all reject'""", 'host all "my  role" all reject'),
        (r'"host all \"a\u00a0b\",c  all reject"', 'host all "a\u00a0b",c all reject'),
    ],
)
def test_blanks_of_a_pg_hba_line_are_one_each_but_inside_of_quotes(write, written, line):
    text = f"node: {{name: n1}}\npostgresql:\n  hba:\n    - {written}"
    assert loaded(write(text)).postgresql.hba == (line,)


def test_an_empty_hba_list_lets_nobody_in(write):
    assert loaded(write("node: {name: n1}\npostgresql: {hba: []}")).postgresql.hba == ()


def test_a_key_is_needed_as_soon_as_anything_is_off_loopback(write):
    with pytest.raises(ConfigError, match="metako keygen"):
        check_runnable(loaded(write(THREE)))
    check_runnable(loaded(write(THREE), METAKO_GOSSIP_KEY=KEY))
    with pytest.raises(ConfigError, match="metako keygen"):
        check_runnable(loaded(write("node: {name: n1}\ngossip: {host: 0.0.0.0}")))
    check_runnable(loaded(write("node: {name: n1}")))


def test_a_generated_key_is_accepted_and_differs_each_time(write):
    one, other = generate_key(), generate_key()
    assert one != other
    config = loaded(write(THREE), METAKO_GOSSIP_KEY=one)
    assert [len(key) for key in config.gossip.keys] == [32]


def test_the_environment_wins_over_the_files_key_and_says_so(write):
    config = loaded(write(THREE + f"gossip: {{key: {generate_key()}}}"), METAKO_GOSSIP_KEY=KEY)
    assert config.gossip.keys == (b"01234567890123456789012345678901",)
    assert any("METAKO_GOSSIP_KEY is set and wins" in note for note in config.notes)


def test_a_key_file_is_a_ring_whose_first_key_encrypts(write, tmp_path):
    ring = write(f"# new\n{KEY}\n\n# old\n{generate_key()}\n", "ring")
    ring.chmod(0o600)
    config = loaded(write(THREE + "gossip: {key_file: ring}"))
    assert config.gossip.keys[0] == b"01234567890123456789012345678901"
    assert len(config.gossip.keys) == 2
    check_runnable(config)
    ring.chmod(0o604)
    with pytest.raises(ConfigError, match="open to everyone; chmod 600"):
        check_runnable(config)


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "contains no key"), ("abc", "line 1 is not base64"), (b"\xff", "is not a text file")],
)
def test_a_useless_key_file_loads_but_does_not_run(write, content, words):
    write(content, "ring")
    config = loaded(write(THREE + "gossip: {key_file: ring}"))
    with pytest.raises(ConfigError, match=words):
        check_runnable(config)


def test_missing_bootstrap_node_and_certificates_do_not_run(write):
    text = THREE.replace("  bootstrap_node: n1\n", "")
    config = loaded(write(text + "tls: {enabled: true, cert_file: /no/c, key_file: /no/k}"))
    with pytest.raises(ConfigError) as caught:
        check_runnable(config)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert sum("does not exist" in line for line in lines) == 2
    assert any("cluster.bootstrap_node: is missing" in line for line in lines)


def test_tls_of_both_hops_is_read_and_the_api_said_to_do_without(write):
    text = (
        "tls: {enabled: true, required: true, cert_file: c, key_file: /k, client_ca_file: ca}\n"
        "proxy: {server_tls: verify-full, server_ca_file: s}\n"
    )
    path = write(f"node: {{name: n1}}\n{text}")
    config = loaded(path)
    here = path.parent
    assert config.tls == TlsConfig(
        enabled=True,
        cert_file=here / "c",
        key_file=Path("/k"),
        required=True,
        client_ca_file=here / "ca",
    )
    assert config.proxy.server_tls is SslMode.VERIFY_FULL
    assert config.proxy.server_ca_file == here / "s"
    assert any("API speaks PLAIN HTTP" in note for note in config.notes)
    plain = loaded(write("node: {name: n1}\ntls: {enabled: false}\n"))
    assert plain.proxy.server_tls is SslMode.PREFER
    assert not any("tls" in note for note in plain.notes)


class _Socket:
    """Stands in for a datagram socket on a machine whose only route begins at 10.7.7.7."""

    def __init__(self, *_):
        self._to = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def connect(self, address):
        if not address[0].startswith("192.0.2."):
            raise OSError("no route")
        self._to = address

    def getsockname(self):
        return ("10.7.7.7", 12345)


UNTOLD = (
    "node: {name: n1}\ngossip: {host: 0.0.0.0}\napi: {host: 0.0.0.0}\n"
    "cluster: {bootstrap_node: n1, members: [{name: n2, host: HOST, gossip_port: 9}]}"
)


def test_an_address_that_the_file_does_not_tell_is_taken_from_the_route(write, monkeypatch):
    config = loaded(write(UNTOLD.replace("HOST", "192.0.2.77")))
    assert config.gossip.advertise == Address("0.0.0.0", 7946)
    monkeypatch.setattr("socket.socket", _Socket)
    resolved = resolve_advertised(config)
    assert resolved.gossip.advertise == Address("10.7.7.7", 7946)
    assert resolved.postgresql.advertise == Address("10.7.7.7", 5432)
    assert resolved.api.advertise == Address("10.7.7.7", 8008)
    assert resolved.proxy.advertise == Address("10.7.7.7", 6432)
    assert resolved.cluster.members[0].postgres == Address("10.7.7.7", 5432)
    assert resolved.cluster.members[1] == config.cluster.members[1]


def test_without_a_route_to_any_member_the_address_must_be_written(write, monkeypatch):
    config = loaded(write(UNTOLD.replace("HOST", "203.0.113.5")))
    monkeypatch.setattr("socket.socket", _Socket)
    with pytest.raises(ConfigError, match="advertise_host"):
        resolve_advertised(config)


def test_a_cluster_on_loopback_advertises_loopback(write):
    config = loaded(write(UNTOLD.replace("HOST", "127.0.0.2")))
    assert config.gossip.advertise.host == "127.0.0.1"
    assert resolve_advertised(config) is config


def test_keys_without_effect_are_named_at_start(write):
    notes = loaded(
        write("node: {name: n1}\nproxy: {balance: least_connected, local_preference: 0.5}")
    ).notes
    assert any(note.startswith("proxy.balance: has no effect yet") for note in notes)
    assert any(note.startswith("proxy.local_preference: has no effect yet") for note in notes)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("durability: {mode: async}", "durability.mode: async"),
        ("proxy: {balance: least_connected}", "proxy.balance"),
        ("postgresql: {health: {interval: 3s}}", "postgresql.health.interval"),
    ],
)
def test_what_this_version_does_not_do_is_told(tmp_path: Path, section: str, named: str) -> None:
    path = tmp_path / "node.yaml"
    base = "node: {name: n1}\ncluster: {name: main, bootstrap_node: n1}\n"
    path.write_text(base)
    assert not any(named in note for note in load(path, environ={}).notes)
    path.write_text(base + section + "\n")
    assert any(named in note for note in load(path, environ={}).notes)


def test_the_console_is_the_superusers_unless_somebody_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    base = "node: {name: n1}\ncluster: {name: main, bootstrap_node: n1}\n"
    base += "postgresql: {superuser: root}\n"
    for section, admins in (
        ("", ("root",)),
        ("proxy: {admin_users: [anna, 'b, c']}\n", ("anna", "b, c")),
        ("proxy: {admin_users: []}\n", ()),
    ):
        path.write_text(base + section)
        assert load(path, environ={}).proxy.admin_users == admins
