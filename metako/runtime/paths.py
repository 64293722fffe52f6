"""Where a node keeps its record and its sockets, from its configuration. Touches no file.

Apart from `settings`, because a command that only looks for the agent's socket must not load the
engine for it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from metako.config import NodeConfig
from metako.unixsocket import PATH_BYTES_MAX


def record_path(config: NodeConfig) -> Path:
    """Return where the node's durable record is."""
    return config.node.state_dir / "record"


def run_dir(config: NodeConfig) -> Path:
    """Return where the sockets of agent, guard and proxy workers are."""
    return config.node.state_dir / "run"


def agent_socket(config: NodeConfig) -> Path:
    """Return where the agent takes orders from whoever may connect there."""
    return run_dir(config) / "agent.sock"


def proxy_socket(config: NodeConfig) -> Path:
    """Return where proxy workers get their routes from the agent."""
    return run_dir(config) / "proxy.sock"


def socket_dir(config: NodeConfig) -> Path:
    """Return where PostgreSQL's Unix socket is: beside ours, unless that path is too long."""
    preferred = config.node.state_dir / "socket"
    longest = preferred / f".s.PGSQL.{config.postgresql.port}.lock"
    if len(str(longest).encode()) <= PATH_BYTES_MAX:
        return preferred
    digest = hashlib.sha256(str(config.node.state_dir).encode()).hexdigest()[:16]
    return Path("/tmp") / f"metako-{digest}"  # noqa: S108 - made and checked before it is used
