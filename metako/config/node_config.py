"""The configuration of one node, complete and checked: what everything else in metako reads.

Output of `metako.config.load`. Every default is filled in, every duration is a number with its
unit in the name, every address is an `Address`. Values are frozen; a reload makes a new one.
Secrets are kept out of `repr`, so that a logged configuration gives none away.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from metako.model.document import Durability, PairMode
from metako.model.ids import Address, NodeId
from metako.model.sslmode import SslMode


class WatchdogMode(enum.StrEnum):
    """Whether the machine is reset when the guard fails."""

    OFF = "off"
    AUTOMATIC = "automatic"  # if it can be had; the node says so where it cannot
    REQUIRED = "required"  # the node does not lead without it


class Balance(enum.StrEnum):
    """How reads are spread over the standbys."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTED = "least_connected"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """This node."""

    name: NodeId
    zone: str
    priority: int  # higher is preferred among equals; 0 never stands
    witness: bool  # votes, holds no data
    state_dir: Path  # absolute; holds the durable record, sockets and generated settings


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """A configured node of the cluster, this one included."""

    name: NodeId
    gossip: Address
    postgres: Address | None  # None for a witness; gossip corrects it once the node is heard
    witness: bool = False
    learner: bool = False  # a replica without a vote


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """The cluster as this node's file describes it."""

    name: str
    bootstrap_node: NodeId | None  # None is refused by `check_runnable`
    members: tuple[MemberConfig, ...]  # in the file's order; this node first if it is not listed
    min_votes: int  # least votes for a failover; 0: a majority
    pair_mode: PairMode | None  # None: the operator has not chosen; means MANUAL
    takeover_delay_ms: int  # `takeover` only: extra wait before the survivor acts
    takeover_failures: int  # `takeover` only: failed contacts in a row before that
    max_clock_skew_ms: int

    def voters(self) -> tuple[NodeId, ...]:
        return tuple(member.name for member in self.members if not member.learner)

    def witnesses(self) -> tuple[NodeId, ...]:
        return tuple(member.name for member in self.members if member.witness)

    def learners(self) -> tuple[NodeId, ...]:
        return tuple(member.name for member in self.members if member.learner)

    def member(self, name: str) -> MemberConfig | None:
        return next((member for member in self.members if member.name == name), None)


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """Gossip between the agents; the same number for datagrams (UDP) and streams (TCP)."""

    listen: Address
    advertise: Address  # a wildcard host until `resolve_advertised` has filled it in
    keys: tuple[bytes, ...] = field(repr=False)  # 32 bytes each; the first one encrypts
    key_file: Path | None  # where they were read from; None: elsewhere
    key_problem: str  # why there is no key although one was asked for; "" when all is well
    needs_key: bool  # something in the cluster is off loopback
    shares_api_port: bool  # streams and HTTP arrive at one TCP port (pg-metako files)
    probe_interval_ms: int
    probe_timeout_ms: int
    gossip_interval_ms: int
    exchange_timeout_ms: int  # one stream exchange between two nodes


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """The timing of agreement; the fields are those of the election's settings."""

    profile: str
    heartbeat_ms: int
    hold_ms: int
    fence_margin_ms: int
    stagger_ms: int
    jitter_ms: int
    retry_ms: int
    candidacy_timeout_ms: int
    standby_grace_ms: int
    standby_settle_ms: int
    sync_change_timeout_ms: int
    hang_timeout_ms: int
    stop_timeout_ms: int


@dataclass(frozen=True, slots=True)
class DurabilityConfig:
    """What a commit waits for; the cluster document takes it from the bootstrap node."""

    mode: Durability
    acks: int  # k wanted once enough standbys stream
    max_lag_on_failover_bytes: int  # `async` only


@dataclass(frozen=True, slots=True)
class WatchdogConfig:
    """The watchdog of this node's machine."""

    mode: WatchdogMode
    device: Path  # absolute
    timeout_s: int  # the longest that the timing allows; 0: it allows none


@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """What is created in a new cluster; None: nothing of that kind."""

    database: str | None
    username: str | None  # may be the superuser: then the password is set for it
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """How often PostgreSQL is asked how it is."""

    interval_ms: int
    timeout_ms: int
    failure_threshold: int  # failures in a row


@dataclass(frozen=True, slots=True)
class PostgresqlConfig:
    """The PostgreSQL server of this node."""

    data_dir: Path  # absolute
    data_dir_from_server: bool  # a pg-metako file without it: it meant the server on `port`
    bindir: str | None  # None: the newest installation found; `embedded[:MAJOR]` or a path
    os_user: str | None  # None: `postgres` if we are root, else the current user
    advertise: Address  # where other nodes and proxies reach the server; host as in gossip
    listen: str  # PostgreSQL's listen_addresses
    port: int
    superuser: str
    parameters: tuple[tuple[str, str], ...]  # sorted, lower-case names, none that metako manages
    hba: tuple[str, ...]
    bootstrap: BootstrapConfig
    replication_password: str | None = field(repr=False)  # None: derived from the gossip key
    diverged_keep_bytes: int  # what the copies of diverged WAL may take
    orphan_timeout_ms: int
    health: HealthConfig


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Connections of the proxy to servers; limits of the node, where 0 is none."""

    per_server: int
    per_user: int
    per_database: int
    size: int  # of those that are alike: one user, database and set of startup parameters
    discard_always: bool  # between two clients, whether or not anything is seen to be left behind
    idle_timeout_ms: int
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The port that applications use."""

    enabled: bool
    listen: Address
    advertise: Address | None  # None: not reachable from other hosts
    workers: int
    queue_timeout_ms: int
    max_connections: int  # of the node; each worker takes its share
    balance: Balance
    local_preference: float  # 0..1
    read_timeout_ms: int | None  # None: no limit
    write_timeout_ms: int | None
    idle_timeout_ms: int | None  # of a client between two transactions
    idle_in_transaction_timeout_ms: int | None
    login_timeout_ms: int
    drain_timeout_ms: int  # for clients that cannot be handed to a worker's successor
    admin_users: tuple[str, ...]  # who may use the console
    pool: PoolConfig
    server_tls: SslMode
    server_ca_file: Path | None  # of those who vouch for the servers' certificates


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The node's HTTP API."""

    listen: Address
    advertise: Address | None  # None: not reachable from other hosts


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """What clients of the proxy are offered."""

    enabled: bool
    cert_file: Path | None
    key_file: Path | None
    required: bool  # of clients
    client_ca_file: Path | None  # None: clients are not asked for certificates


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """Where log lines go."""

    level: str  # DEBUG | INFO | WARNING | ERROR
    format: str  # auto | json | text; of the stream, a file always gets JSON
    file: Path | None
    rotation_bytes: int
    retention: int  # rotated files that are kept
    status_interval_ms: int  # 0: no periodic status line


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that one node's file says. `notes` are remarks for the operator, one line each."""

    path: Path  # the file, absolute
    node: NodeSettings
    cluster: ClusterConfig
    gossip: GossipConfig
    timing: TimingConfig
    durability: DurabilityConfig
    watchdog: WatchdogConfig
    postgresql: PostgresqlConfig
    proxy: ProxyConfig
    api: ApiConfig
    tls: TlsConfig
    logging: LoggingConfig
    notes: tuple[str, ...]
