"""What must be true before a node is started, beyond a file that is correct in itself.

Input: a `NodeConfig`. Output: nothing, or one ConfigError with a line for each thing. Looks at
files, creates none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from metako.config.node_config import NodeConfig
from metako.model.errors import ConfigError


def check_runnable(config: NodeConfig) -> None:
    """Refuse a configuration that a node cannot be run with.

    Raises:
        ConfigError: a gossip key is needed or unusable, no node may create the first database, or
            a file that is named does not exist.
    """
    problems = [*_key_problems(config), *_cluster_problems(config), *_file_problems(config)]
    if problems:
        raise ConfigError("\n".join(f"{config.path}: {problem}" for problem in problems))


def _key_problems(config: NodeConfig) -> Iterator[str]:
    gossip = config.gossip
    if gossip.key_problem:
        yield f"gossip key: {gossip.key_problem}"
    elif gossip.needs_key and not gossip.keys:
        yield (
            "gossip.key: is missing, and the cluster is not on loopback only; run 'metako keygen' "
            "once and give its key to every node, in gossip.key_file or METAKO_GOSSIP_KEY"
        )
    if gossip.key_file is not None and not gossip.key_problem:
        try:
            mode = gossip.key_file.stat().st_mode
        except OSError:
            return
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield f"gossip.key_file: {gossip.key_file} is open to everyone; chmod 600 it"


def _cluster_problems(config: NodeConfig) -> Iterator[str]:
    if config.cluster.bootstrap_node is None:
        yield (
            "cluster.bootstrap_node: is missing; name the node that creates the database at the "
            "very first start, the same in every node's file"
        )


def _file_problems(config: NodeConfig) -> Iterator[str]:
    if config.tls.enabled:
        for key, path in (
            ("cert_file", config.tls.cert_file),
            ("key_file", config.tls.key_file),
            ("client_ca_file", config.tls.client_ca_file),
        ):
            if path is not None and (problem := _unreadable(path)):
                yield f"TLS is enabled, but its {key} {path} {problem}"
    ca_file = config.proxy.server_ca_file
    if ca_file is not None and (problem := _unreadable(ca_file)):
        yield f"proxy.server_ca_file: {ca_file} {problem}"
    for key, path in (
        ("node.state_dir", config.node.state_dir),
        ("postgresql.data_dir", config.postgresql.data_dir),
    ):
        if path.exists() and not path.is_dir():
            yield f"{key}: {path} is not a directory"


def _unreadable(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    if not path.is_file():
        return "is not a file"
    return "" if os.access(path, os.R_OK) else "may not be read by this user"
