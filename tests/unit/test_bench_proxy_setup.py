"""The proxy benchmark: how everybody is configured, and how much room there has to be."""

import ssl
from pathlib import Path

import pytest

import bench_proxy
from benchmarks.proxy import configs, limits
from benchmarks.proxy.contestants import parse_version
from benchmarks.proxy.idle import clients_that_fit
from benchmarks.proxy.run import Plan
from benchmarks.proxy.server import Size, config_text, tls_for
from benchmarks.proxy.tls import make_papers
from metako.config.load import load
from metako.config.node_config import NodeConfig
from metako.demo.layout import node_config_text, plan_layout
from metako.model.sslmode import SslMode

# Configurations


def setting_of(**changes: object) -> configs.Setting:
    values: dict[str, object] = {
        "directory": Path("/tmp/peer"),
        "port": 7001,
        "second_port": 7002,
        "server_port": 5433,
        "database": "app",
        "user": "app",
        "password": "secret",
        "verifier": "SCRAM-SHA-256$4096:salt$stored:server",
        "trusted_user": "app_trust",
        "clients_max": 200,
        "connections_max": 408,
        "version": "1.18.0",
        "certificate": "a certificate",
        "key": "a key",
    }
    return configs.Setting(**{**values, **changes})  # type: ignore[arg-type]


def launches() -> dict[str, configs.Launch]:
    return {
        "session": configs.pgbouncer(setting_of(), transaction=False),
        "transaction": configs.pgbouncer(setting_of(), transaction=True),
        "tls": configs.pgbouncer(setting_of(), transaction=False, tls=True),
        "haproxy": configs.haproxy(setting_of()),
        "pgpool": configs.pgpool(setting_of()),
    }


@pytest.mark.parametrize("name", ["session", "tls", "transaction", "haproxy", "pgpool"])
def test_peer_listens_on_loopback_and_leads_to_the_server(name):
    launch = launches()[name]
    text = "".join(launch.files.values())
    assert "7001" in text
    assert "5433" in text
    assert "0.0.0.0" not in text
    assert any("/tmp/peer/" in argument for argument in launch.arguments)


@pytest.mark.parametrize("name", ["session", "tls", "transaction", "pgpool"])
def test_peers_that_log_clients_in_ask_both_roles_for_the_same_as_postgresql(name):
    (hba,) = (text for file, text in launches()[name].files.items() if "hba" in file)
    assert hba == (
        "host app app_trust 127.0.0.1/32 trust\nhost app app 127.0.0.1/32 scram-sha-256\n"
    )


def test_pool_by_session_has_a_server_for_every_client():
    ini = launches()["session"].files["pgbouncer.ini"]
    assert "pool_mode = session" in ini
    assert "default_pool_size = 208" in ini


def test_pool_by_transaction_is_of_default_size_and_prepares_if_it_can():
    old = launches()["transaction"].files["pgbouncer.ini"]
    assert "pool_mode = transaction" in old
    assert "default_pool_size = 20\n" in old
    assert "max_prepared_statements" not in old
    new = configs.pgbouncer(setting_of(version="1.24.1"), transaction=True)
    assert "max_prepared_statements = 200" in new.files["pgbouncer.ini"]
    assert not configs.prepares_by_transaction("1.20.9")
    assert configs.prepares_by_transaction("1.21.0")
    assert not configs.prepares_by_transaction("unknown")


def test_pool_with_tls_is_the_same_but_for_its_clients():
    plain, encrypted = launches()["session"], launches()["tls"]
    assert "client_tls" not in plain.files["pgbouncer.ini"]
    added = encrypted.files["pgbouncer.ini"].removeprefix(plain.files["pgbouncer.ini"])
    assert added == (
        "client_tls_sslmode = require\n"
        "client_tls_cert_file = /tmp/peer/client.crt\n"
        "client_tls_key_file = /tmp/peer/client.key\n"
    )
    assert encrypted.files["client.crt"] == "a certificate"
    assert encrypted.files["client.key"] == "a key"


def test_secrets_are_only_where_they_are_needed():
    assert "secret" not in "".join(launches()["session"].files.values())
    assert "a key" not in "".join(launches()["session"].files.values())
    assert launches()["pgpool"].files["pool_passwd"] == "app:TEXTsecret\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n", "1.18.0"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17", "2.6.12-1+deb12u4"),
        ("pgpool-II version 4.3.5 (tamahomeboshi)", "4.3.5"),
        ("no such option", "unknown"),
    ],
)
def test_version_is_found_in_what_a_program_prints(text, version):
    assert parse_version(text) == version


def node_config(directory: Path, **changes: object) -> NodeConfig:
    """Return what metako makes of the configuration of a node of the benchmark."""
    layout = plan_layout(directory, nodes=1)
    size = Size(900, 300, 608, 300, workers=2)
    path = directory / "node.yaml"
    text = config_text(node_config_text(layout, layout.nodes[0]), size, **changes)  # type: ignore[arg-type]
    path.write_text(text)
    path.chmod(0o600)
    return load(path, environ={})


def test_node_has_room_for_all_clients_and_lets_both_roles_in(short_directory):
    config = node_config(short_directory)
    assert config.proxy.workers == 2
    assert config.proxy.max_connections == 608
    assert int(dict(config.postgresql.parameters)["max_connections"]) > 900
    assert config.postgresql.hba[0].endswith("trust")
    assert not config.tls.enabled


def test_proxy_offers_tls_to_clients_and_goes_to_the_server_in_clear_either_way(short_directory):
    files = make_papers().write(short_directory / "proxy")
    config = node_config(short_directory, papers=files)
    assert (config.tls.enabled, config.tls.cert_file, config.tls.key_file) == (True, *files)
    assert not config.tls.required  # its clients without TLS are measured as well
    assert config.proxy.server_tls is SslMode.PREFER
    # A server that has TLS for `direct-tls` would be asked for it.
    config = node_config(short_directory, papers=files, server_tls=True)
    assert config.proxy.server_tls is SslMode.DISABLE


def test_certificate_is_of_its_key_and_the_key_is_private(tmp_path):
    certificate, key = make_papers().write(tmp_path / "proxy")
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    assert key.stat().st_mode & 0o777 == 0o600


# How much there has to be


def plan_of(*argv: str) -> Plan:
    return bench_proxy.plan_of(bench_proxy.arguments_of(list(argv)))


def test_every_idle_client_may_bring_a_session_but_not_a_process_of_a_proxy():
    plan = plan_of("--only", "direct", "--only", "metako", "--clients", "500", "--idle", "1000")
    size, idle = plan.size(), plan.idle_size()
    assert (size.clients_max, size.processes_max) == (500, 500)
    assert size.connections_max >= 2 * 500
    assert size.sessions_max > 2 * 500
    assert (idle.clients_max, idle.processes_max) == (1000, 200)
    # Not twice as many: a proxy has to be allowed two files for each.
    assert 1000 < idle.sessions_max == idle.connections_max < 1100


def test_idle_clients_are_those_of_a_proxy_that_is_there():
    wanted = ["--only=direct", "--only=metako", "--only=metako-tls", "--only=pgbouncer"]
    assert plan_of(*wanted).idlers(without=()) == []
    found = plan_of(*wanted, "--idle", "10").idlers(without={"pgbouncer": "not installed"})
    assert found == ["metako", "metako-tls"]


def test_tls_is_there_only_for_contestants_that_speak_it():
    assert tls_for(("direct", "metako", "pgbouncer")) is None
    proxies, direct = tls_for(("metako", "metako-tls")), tls_for(("direct-tls",))
    assert proxies is not None
    assert not proxies.server
    assert direct is not None
    assert direct.server


def test_idle_clients_take_half_of_the_memory_at_most():
    assert clients_that_fit(2 << 20, 20 << 30) == 5120
    assert clients_that_fit(0, 1000) == 500
    assert clients_that_fit(10.0, 0) == 0


def test_what_the_system_does_not_allow_is_told(monkeypatch):
    assert limits.shortage(100) == ""
    monkeypatch.setattr(limits, "raise_descriptor_limit", lambda _: 10_000)
    assert "needs a hard limit of 11000 open files" in limits.shortage(5000)
    monkeypatch.setattr(limits, "raise_descriptor_limit", lambda wanted: wanted)
    monkeypatch.setattr(limits, "ports", lambda: 5000)
    assert "more than the 5000 ports" in limits.shortage(5000)


def test_ports_are_counted_with_both_ends(tmp_path):
    path = tmp_path / "range"
    path.write_text("32768\t60999\n")
    assert limits.ports(path) == 28_232
