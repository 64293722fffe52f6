"""The sections of a pg-metako configuration file, as they are written.

Input: the values of those sections. Output: frozen models; None means that a key was left out. What
each key becomes is decided in `metako.config.legacy`. `master` and `slave` are read here, because
that is what such files say, and written nowhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from metako.config.schema import (
    MEMBERS_MAX,
    Host,
    LongMs,
    Name,
    Port,
    Ratio,
    Section,
    ShortMs,
    Text,
)

Role = Literal["master", "slave", "primary", "standby", "replica"]
PRIMARY_ROLES = frozenset(("master", "primary"))
Threshold = Annotated[int, Field(ge=1, le=100)]
Votes = Annotated[int, Field(ge=0, le=MEMBERS_MAX)]


class Identity(Section):
    node_name: Name | None = None
    local_db_host: Host | None = None
    local_db_port: Port | None = None
    api_host: Host | None = None
    api_port: Port | None = None


class LocalDb(Section):
    name: Text | None = None
    host: Host | None = None
    port: Port | None = None
    role: Role | None = None
    username: Text | None = None
    password: Text | None = None
    database: Text | None = None


class ClusterMember(Section):
    node_name: Name
    api_host: Host
    api_port: Port = 8080
    role: Role | None = None


class ClusterMode(Section):
    heartbeat_interval: LongMs | None = None
    communication_timeout: LongMs | None = None
    failover_timeout: LongMs | None = None
    min_consensus_nodes: Votes | None = None
    local_node_preference: Ratio | None = None


class PairModeSection(Section):
    enable: bool | None = None
    failover_delay: LongMs | None = None
    failure_threshold: Threshold | None = None


class Coordination(ClusterMode):
    cluster_mode: ClusterMode = ClusterMode()
    pair_mode: PairModeSection = PairModeSection()
    enable_pair_mode: bool | None = None
    pair_failover_delay: LongMs | None = None
    pair_failure_threshold: Threshold | None = None


class HealthCheck(Section):
    interval: LongMs | None = None
    timeout: ShortMs | None = None
    failure_threshold: Threshold | None = None


class LoadBalancer(Section):
    algorithm: Literal["round_robin", "least_connected"] | None = None
    read_timeout: LongMs | None = None
    write_timeout: LongMs | None = None


class Security(Section):
    tls_enabled: bool | None = None
    cert_file: Text | None = None
    key_file: Text | None = None


class LegacySchema(Section):
    """All sections of a pg-metako file."""

    identity: Identity = Identity()
    local_db: LocalDb = LocalDb()
    cluster_members: Annotated[tuple[ClusterMember, ...], Field(max_length=MEMBERS_MAX)] = ()
    coordination: Coordination = Coordination()
    health_check: HealthCheck = HealthCheck()
    load_balancer: LoadBalancer = LoadBalancer()
    security: Security = Security()
