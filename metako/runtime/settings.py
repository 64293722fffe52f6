"""From the configuration to the settings of each part. Pure but for the default names of users."""

from __future__ import annotations

import hashlib
import hmac

import metako
from metako.cluster.engine import NodeSettings
from metako.config import NodeConfig
from metako.config.node_config import WatchdogMode
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.guard.watchdog import Wish
from metako.membership import MembershipConfig
from metako.model.document import PairMode
from metako.model.errors import ConfigError
from metako.model.member import MemberMeta
from metako.postgres.osuser import OsUser
from metako.postgres.settings import Bootstrap, ServerSettings
from metako.runtime.paths import socket_dir


def cluster_secret(config: NodeConfig) -> bytes:
    """Return the secret from which replication passwords and standby names are derived.

    It is the same on every node. Without a gossip key, which is possible on loopback only, it is
    no secret: whoever can reach the servers there is on this machine.
    """
    return _derived(config, b"metako/postgres")


def mock_secret(config: NodeConfig) -> bytes:
    """Return what mock verifiers are made of, the same on every node; see `cluster_secret`."""
    return _derived(config, b"metako/scram mock")


def cancel_secret(config: NodeConfig) -> bytes:
    """Return what cancel keys are made of, the same on every node; see `cluster_secret`."""
    return _derived(config, b"metako/cancel")


def _derived(config: NodeConfig, purpose: bytes) -> bytes:
    replication = config.postgresql.replication_password
    if replication:
        base = replication.encode()
    elif config.gossip.keys:
        base = config.gossip.keys[0]
    else:
        base = b"loopback"
    context = purpose + b"\0" + config.cluster.name.encode()
    return hmac.new(base, context, hashlib.sha256).digest()


def node_settings(config: NodeConfig) -> NodeSettings:
    """Return what the engine is built from."""
    timing = config.timing
    cluster = config.cluster
    if cluster.bootstrap_node is None:
        raise ConfigError(f"{config.path}: cluster.bootstrap_node is missing")
    election = ElectionSettings(
        heartbeat_ms=timing.heartbeat_ms,
        hold_ms=timing.hold_ms,
        fence_margin_ms=timing.fence_margin_ms,
        stagger_ms=timing.stagger_ms,
        jitter_ms=timing.jitter_ms,
        retry_ms=timing.retry_ms,
        candidacy_timeout_ms=timing.candidacy_timeout_ms,
        standby_grace_ms=timing.standby_grace_ms,
        standby_settle_ms=timing.standby_settle_ms,
        sync_change_timeout_ms=timing.sync_change_timeout_ms,
        hang_timeout_ms=timing.hang_timeout_ms,
        stop_timeout_ms=timing.stop_timeout_ms,
    )
    return NodeSettings(
        election=election,
        cluster=ClusterSettings(
            name=cluster.name,
            bootstrap_node=cluster.bootstrap_node,
            voters=cluster.voters(),
            witnesses=cluster.witnesses(),
            learners=cluster.learners(),
            durability=config.durability.mode,
            acks=config.durability.acks,
            min_votes=cluster.min_votes,
            priority=config.node.priority,
            zone=config.node.zone,
            max_lag_bytes=config.durability.max_lag_on_failover_bytes,
            watchdog_required=config.watchdog.mode is WatchdogMode.REQUIRED,
            pair_mode=cluster.pair_mode or PairMode.MANUAL,
            takeover_wait_ms=_takeover_wait_ms(config),
        ),
        membership=MembershipConfig(
            probe_interval_ms=config.gossip.probe_interval_ms,
            probe_timeout_ms=config.gossip.probe_timeout_ms,
            nack_timeout_ms=config.gossip.probe_timeout_ms * 4 // 5,
            stall_ms=max(500, config.gossip.probe_timeout_ms),
            gossip_interval_ms=config.gossip.gossip_interval_ms,
        ),
        address=config.gossip.advertise,
        peers=tuple((m.name, m.gossip) for m in cluster.members if m.name != config.node.name),
        meta=MemberMeta(
            postgres_address=None if config.node.witness else config.postgresql.advertise,
            api_address=config.api.advertise,
            proxy_address=config.proxy.advertise if config.proxy.enabled else None,
            priority=config.node.priority,
            zone=config.node.zone,
            witness=config.node.witness,
            agent_version=metako.__version__,
        ),
    )


def _takeover_wait_ms(config: NodeConfig) -> int:
    """Return how long the standby of a pair waits beyond its hold before it takes over.

    A failed contact is a heartbeat that did not come; the hold spans some of those.
    """
    silence = config.cluster.takeover_failures * config.timing.heartbeat_ms
    return max(config.cluster.takeover_delay_ms, silence - config.timing.hold_ms)


def watchdog_wish(config: NodeConfig) -> Wish | None:
    """Return what the guard is asked for; None: no watchdog."""
    watchdog = config.watchdog
    if watchdog.mode is WatchdogMode.OFF:
        return None
    required = watchdog.mode is WatchdogMode.REQUIRED
    return Wish(str(watchdog.device), watchdog.timeout_s, required=required)


def server_settings(config: NodeConfig, user: OsUser) -> ServerSettings:
    """Return what the PostgreSQL driver is built from."""
    postgresql = config.postgresql
    bootstrap = postgresql.bootstrap
    is_superuser = bootstrap.username == postgresql.superuser
    password = bootstrap.password or ""
    return ServerSettings(
        node=config.node.name,
        data_dir=postgresql.data_dir,
        state_dir=config.node.state_dir,
        socket_dir=socket_dir(config),
        listen=postgresql.listen,
        port=postgresql.port,
        secret=cluster_secret(config),
        parameters=postgresql.parameters,
        hba=postgresql.hba,
        superuser=postgresql.superuser,
        system_users=tuple(dict.fromkeys(("root", user.name))),
        cluster_name=config.cluster.name,
        diverged_keep_bytes=postgresql.diverged_keep_bytes,
        bootstrap=Bootstrap(
            superuser_password=password if is_superuser else "",
            user="" if is_superuser else (bootstrap.username or ""),
            password="" if is_superuser else password,
            database=bootstrap.database or "",
        ),
    )
