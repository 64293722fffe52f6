"""What an agent tells its workers in the welcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metako.config import NodeConfig, load
from metako.config.keys import generate_key, parse_key
from metako.proxy.loginframes import Welcome
from metako.runtime.rolesecrets import RoleSecrets
from metako.runtime.settings import cluster_secret, mock_secret

KEY = generate_key()
BASE = """node: {{name: {name}, witness: {witness}}}
cluster:
  name: main
  bootstrap_node: n1
  members: [{{name: n1, host: 127.0.0.1}}, {{name: n2, host: 127.0.0.2}}]
gossip: {{key: {key}}}
"""
HBA = '  hba: ["hostssl all all all scram-sha-256"]\n'

Read = Callable[..., NodeConfig]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(
        more: str = "", *, name: str = "n1", key: str = KEY, witness: str = "false"
    ) -> NodeConfig:
        path = tmp_path / "node.yaml"
        path.write_text(BASE.format(name=name, key=key, witness=witness) + more)
        return load(path, environ={})

    return read


def welcome(config: NodeConfig) -> Welcome:
    return RoleSecrets(config).welcome


def test_all_nodes_make_the_same_mocks_and_other_clusters_do_not(read: Read) -> None:
    ours = welcome(read()).mock_secret
    assert ours == welcome(read(name="n2")).mock_secret
    assert ours != welcome(read(key=generate_key())).mock_secret


def test_the_key_is_never_told(read: Read) -> None:
    config = read()
    assert mock_secret(config) not in (parse_key(KEY), cluster_secret(config))
    assert KEY not in repr(welcome(config))
    assert repr(mock_secret(config)) not in repr(welcome(config))


def test_clients_are_judged_by_the_lines_that_the_server_has(read: Read) -> None:
    hba = welcome(read("postgresql:\n" + HBA)).hba
    assert hba is not None
    assert hba[0].startswith('local all "postgres" peer')
    assert "host all metako_replicator all reject" in hba
    assert hba[-3:] == (
        "hostssl all all all scram-sha-256",
        "local all all reject",
        "host all all all reject",
    )


def test_a_witness_judges_nobody(read: Read) -> None:
    assert welcome(read(name="n2", witness="true")).hba is None


@pytest.mark.parametrize(
    ("parameters", "iterations", "md5"),
    [
        ("", 4096, False),
        ("  parameters: {scram_iterations: 9000}\n", 9000, False),
        ("  parameters: {scram_iterations: none}\n", 4096, False),
        ("  parameters: {password_encryption: md5}\n", 4096, True),
        ("  parameters: {password_encryption: scram-sha-256}\n", 4096, False),
    ],
)
def test_mocks_look_like_new_passwords_do(
    read: Read, parameters: str, iterations: int, md5: bool
) -> None:
    told = welcome(read("postgresql:\n" + parameters if parameters else ""))
    assert (told.iterations, told.md5) == (iterations, md5)
