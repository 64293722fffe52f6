"""Where the nodes of a local cluster live and what their configuration files say.

Input: a directory, a number of nodes and a few choices. Output: a `Layout`, the configuration
text of each node, and the layout's own record (`demo.json`), from which a later run in the same
directory takes ports, key and passwords. Invariant: no two nodes share a port or a directory, and
every port was free when it was picked. It does not know how to start or stop anything.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from metako.model.errors import PortInUseError, UsageError

HOST = "127.0.0.1"
NODES_MAX = 9
PORTS_PER_NODE = 4
PORT_MIN = 1024  # PostgreSQL is never root
PORT_PICK_FIRST = 20_000
PORT_PICK_LAST = 32_000
"""Ports are picked below the kernel's ephemeral range (from 32768), so that no outgoing connection
of the machine takes one between the check and the start."""
PICK_ATTEMPTS_MAX = 50
PATH_BYTES_MAX = 60
"""A Unix socket's path has at most 107 bytes, of which the node's own part needs about 45."""
PRIORITY = 100
"""Of a node that may lead."""
RECORD_NAME = "demo.json"
DATABASE = "app"
APP_USER = "app"


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """One node: its name, its directory, its ports and the address that all of them are at."""

    name: str
    directory: Path
    gossip_port: int
    postgres_port: int
    proxy_port: int
    api_port: int
    host: str = HOST
    bindir: str | None = None  # PostgreSQL's programs for this node alone
    witness: bool = False  # votes, and has no PostgreSQL
    learner: bool = False  # has data and no vote
    never_leads: bool = False  # its priority is 0

    @property
    def config_path(self) -> Path:
        return self.directory / "node.yaml"

    @property
    def log_path(self) -> Path:
        return self.directory / "metako.log"

    @property
    def stderr_path(self) -> Path:
        return self.directory / "stderr.log"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def agent_socket(self) -> Path:
        """Return where the node's agent takes orders; the agent has it from its configuration."""
        return self.state_dir / "run" / "agent.sock"

    @property
    def data_parent(self) -> Path:
        """Return the directory that PostgreSQL's user owns: clones are made beside the data."""
        return self.directory / "pg"

    @property
    def data_dir(self) -> Path:
        return self.data_parent / "data"

    @property
    def api_url(self) -> str:
        return f"http://{self.host}:{self.api_port}"

    def ports(self) -> tuple[int, ...]:
        return (self.gossip_port, self.postgres_port, self.proxy_port, self.api_port)


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that a local cluster's configuration files are made from."""

    directory: Path
    nodes: tuple[NodeLayout, ...]
    gossip_key: str
    app_password: str
    replication_password: str
    bindir: str | None = None  # None: metako looks for an installation itself
    os_user: str | None = None  # None: the current user
    timing: str = "default"
    timing_ms: tuple[tuple[str, int], ...] = ()  # single keys of `timing:` that differ
    durability: str = "quorum"
    acks: int = 1  # standbys that confirm a commit
    pair_mode: str | None = None  # of two voters without a witness; None: nothing is chosen
    takeover_delay_ms: int = 0  # with `takeover` only
    clients: str = f"{HOST}/32"  # the network that applications come from
    log_level: str = "INFO"

    def node(self, name: str) -> NodeLayout:
        for node in self.nodes:
            if node.name == name:
                return node
        raise UsageError(f"there is no node {name!r} in {self.directory}")

    @property
    def data_nodes(self) -> tuple[NodeLayout, ...]:
        return tuple(node for node in self.nodes if not node.witness)

    def dsn(self, node: NodeLayout) -> str:
        """Return the URL that leads an application through the node's proxy."""
        return (
            f"postgresql://{APP_USER}:{self.app_password}@{node.host}:{node.proxy_port}/{DATABASE}"
        )


def plan_layout(
    directory: Path,
    *,
    nodes: int = 3,
    base_port: int | None = None,
    bindir: str | None = None,
    os_user: str | None = None,
    timing: str = "default",
    log_level: str = "INFO",
) -> Layout:
    """Return a layout for a new cluster below `directory`, with fresh secrets and free ports.

    Raises:
        UsageError: the number of nodes or the directory cannot work.
        PortInUseError: a port of the range asked for is taken, or none was found.
    """
    if not 1 <= nodes <= NODES_MAX:
        raise UsageError(f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}")
    directory = directory.resolve()
    if len(bytes(directory)) > PATH_BYTES_MAX:
        raise UsageError(
            f"{directory} is longer than {PATH_BYTES_MAX} bytes: the Unix sockets below it "
            "could not be created; choose a shorter --dir"
        )
    count = nodes * PORTS_PER_NODE
    ports = _given_ports(base_port, count) if base_port is not None else _free_ports(count)
    return Layout(
        directory=directory,
        nodes=tuple(
            _node(f"n{i + 1}", directory, ports[i * PORTS_PER_NODE : (i + 1) * PORTS_PER_NODE])
            for i in range(nodes)
        ),
        gossip_key=base64.b64encode(secrets.token_bytes(32)).decode(),
        app_password=secrets.token_hex(8),
        replication_password=secrets.token_hex(16),
        bindir=bindir,
        os_user=os_user,
        timing=timing,
        log_level=log_level,
    )


def _node(name: str, directory: Path, ports: Sequence[int]) -> NodeLayout:
    gossip, postgres, proxy, api = ports
    return NodeLayout(name, directory / name, gossip, postgres, proxy, api)


def is_port_free(port: int) -> bool:
    """Return whether both TCP and UDP can be bound on loopback and on all addresses."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for host in (HOST, ""):
            with socket.socket(socket.AF_INET, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    # Connections that linger in TIME_WAIT do not stop a server.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError:
                    return False
    return True


def _given_ports(base_port: int, count: int) -> Sequence[int]:
    if base_port < PORT_MIN:
        raise UsageError(f"--base-port {base_port}: ports below {PORT_MIN} are root's only")
    if base_port > 65_536 - count:
        raise UsageError(f"--base-port {base_port}: {count} ports from there do not exist")
    for port in range(base_port, base_port + count):
        if not is_port_free(port):
            raise PortInUseError(
                f"port {port} is taken (the demo needs {base_port} to {base_port + count - 1}); "
                "choose another --base-port or leave it out"
            )
    return range(base_port, base_port + count)


def _free_ports(count: int) -> Sequence[int]:
    for _ in range(PICK_ATTEMPTS_MAX):
        base = PORT_PICK_FIRST + secrets.randbelow(PORT_PICK_LAST - PORT_PICK_FIRST - count)
        if all(is_port_free(port) for port in range(base, base + count)):
            return range(base, base + count)
    raise PortInUseError(
        f"no {count} free ports in a row between {PORT_PICK_FIRST} and {PORT_PICK_LAST}; "
        "choose a --base-port"
    )


def node_config_text(layout: Layout, node: NodeLayout) -> str:
    """Return the YAML that `metako run -c` reads for `node`.

    Values are written as JSON, which is YAML, so that no path or password can break the file.
    """
    q = json.dumps
    members = "\n".join(
        f"    - {{name: {m.name}, host: {m.host}, gossip_port: {m.gossip_port},"
        f"{'' if m.witness else f' postgres_port: {m.postgres_port},'}"
        f" witness: {q(m.witness)}, learner: {q(m.learner)}}}"
        for m in layout.nodes
    )
    timing = "".join(f"\n  {key}: {value}ms" for key, value in layout.timing_ms)
    pair = ""
    if layout.pair_mode is not None:
        pair = f"\n  pair_mode: {layout.pair_mode}"
    if layout.pair_mode == "takeover":
        pair += f"\n  takeover_delay: {layout.takeover_delay_ms}ms"
    return f"""\
# Node {node.name} of a local metako cluster, written by `metako demo`.
node:
  name: {node.name}
  priority: {0 if node.never_leads else PRIORITY}
  state_dir: {q(str(node.state_dir))}
cluster:
  name: demo
  bootstrap_node: {layout.nodes[0].name}{pair}
  members:
{members}
gossip:
  host: {node.host}
  port: {node.gossip_port}
  key: {q(layout.gossip_key)}
timing:
  profile: {layout.timing}{timing}
durability:
  mode: {layout.durability}
  acks: {layout.acks}
postgresql:
  data_dir: {q(str(node.data_dir))}
  bindir: {q(node.bindir or layout.bindir)}
  os_user: {q(layout.os_user)}
  host: {node.host}
  listen: {node.host}
  port: {node.postgres_port}
  parameters:
    shared_buffers: 16MB  # three servers share one machine
  hba:
    - "host all all {layout.clients} scram-sha-256"
  bootstrap:
    database: {DATABASE}
    username: {APP_USER}
    password: {q(layout.app_password)}
  replication_password: {q(layout.replication_password)}
proxy:
  host: {node.host}
  port: {node.proxy_port}
  workers: 1  # all nodes share one machine
api:
  host: {node.host}
  port: {node.api_port}
logging:
  level: {layout.log_level}
  format: json
  file: {q(str(node.log_path))}
"""


def record_text(layout: Layout) -> str:
    """Return the layout's own record, from which `read_record` rebuilds it."""
    return json.dumps(asdict(layout), default=str, indent=1) + "\n"


def read_record(directory: Path) -> Layout | None:
    """Return the layout that an earlier run left in `directory`; None if there is none.

    Raises:
        UsageError: the record is there and cannot be understood.
    """
    path = directory.resolve() / RECORD_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["directory"] = Path(raw["directory"])
        raw["nodes"] = tuple(
            NodeLayout(**{**node, "directory": Path(node["directory"])}) for node in raw["nodes"]
        )
        raw["timing_ms"] = tuple((key, value) for key, value in raw.get("timing_ms", ()))
        layout = Layout(**raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not the record of a local cluster: {error}") from None
    if layout.directory != directory.resolve():
        raise UsageError(f"{path} belongs to {layout.directory}: the directory was moved")
    return layout
