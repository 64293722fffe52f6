"""From what stands in a file to what it means: defaults, relations between keys, addresses.

Input: a validated `FileSchema`, what the machine says (`Machine`) and the gossip keys. Output: a
`NodeConfig`, and every problem that involves more than one key. Invariant: a configuration without
problems is complete; nothing later looks at the file again. Reads no file and no environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from metako.config import node_config as out
from metako.config.members import Members, resolve_members
from metako.config.pair import check_pair
from metako.config.parameters import check_hba, check_parameters
from metako.config.problems import Problem
from metako.config.profiles import GOSSIP_MS, HEALTH_MS, TIMING_MS, check_gossip, check_timing
from metako.config.schema import FileSchema, TimingSection
from metako.config.watchdog import check_watchdog, watchdog_timeout_s
from metako.model.document import Durability, PairMode
from metako.model.ids import Address, NodeId

WORKERS_DEFAULT_MAX = 16  # of the proxy, each of which takes memory also if it has nothing to do
_QUOTED_OR_BLANKS = re.compile(r'("[^"]*(?:"|$))|\s+')


@dataclass(frozen=True, slots=True)
class Machine:
    """What the configuration needs to know of its surroundings."""

    config_path: FilePath  # absolute
    home: FilePath  # of the current user
    is_root: bool
    processors: int = 1  # that this process may use

    def path(self, text: str) -> FilePath:
        """Return a path as written in the file; relative ones start at the file's directory."""
        if text == "~" or text.startswith("~/"):
            return self.home / text[2:]
        return self.config_path.parent / text

    def file(self, text: str | None) -> FilePath | None:
        """Return the path of a file that need not be named."""
        return None if text is None else self.path(text)

    @property
    def base_dir(self) -> FilePath:
        """Return where nodes live that name no directory."""
        if self.is_root:
            return FilePath("/var/lib/metako")
        return self.home / ".local" / "state" / "metako"


@dataclass(frozen=True, slots=True)
class Keys:
    """The gossip keys, read by the loader."""

    ring: tuple[bytes, ...] = ()
    file: FilePath | None = None
    problem: str = ""


def normalize(
    schema: FileSchema, machine: Machine, keys: Keys, *, legacy_server: bool, legacy_ports: bool
) -> tuple[out.NodeConfig, list[Problem], list[str]]:
    """Return the configuration, what is wrong with it, and remarks.

    Args:
        schema: the file's values.
        machine: surroundings, for default directories and relative paths.
        keys: the gossip keys, or why there are none.
        legacy_server: the file names a server in the pg-metako way, which has no data directory.
        legacy_ports: gossip may share the API's port number.
    """
    members, problems = resolve_members(schema)
    data_dir, state_dir = _directories(schema, machine, legacy_server=legacy_server)
    asks_server = legacy_server and schema.postgresql.data_dir is None
    timing = _timing(schema.timing)
    gossip = _gossip(schema, members, keys)
    parameters, wrong = check_parameters(schema.postgresql.parameters, schema.durability.mode)
    problems += check_timing(timing)
    problems += check_gossip(gossip.probe_interval_ms, gossip.probe_timeout_ms)
    problems += wrong
    problems += check_hba(schema.postgresql.hba or ())
    problems += _check_ports(schema, members, legacy_ports=legacy_ports)
    problems += _check_durability(schema, members)
    problems += _check_rest(schema)
    wrong, notes = check_watchdog(schema.guard.watchdog, timing, witness=members.witness)
    problems += wrong
    if asks_server:
        port = members.postgres.port
        notes.append(
            f"postgresql.data_dir: is not set, so it is {data_dir}; a server that already runs on "
            f"port {port} is not taken over: stop it and name its data directory"
        )
    wrong, remarks = check_pair(schema, members)
    problems += wrong
    notes += remarks
    config = out.NodeConfig(
        path=machine.config_path,
        node=out.NodeSettings(
            name=NodeId(schema.node.name),
            zone=schema.node.zone,
            priority=schema.node.priority,
            witness=members.witness,
            state_dir=state_dir,
        ),
        cluster=_cluster(schema, members),
        gossip=gossip,
        timing=timing,
        durability=out.DurabilityConfig(
            schema.durability.mode, schema.durability.acks, schema.durability.max_lag_on_failover
        ),
        watchdog=_watchdog(schema, machine, timing),
        postgresql=replace(
            _postgresql(schema, machine, members),
            data_dir=data_dir,
            data_dir_from_server=asks_server,
            parameters=parameters,
        ),
        proxy=_proxy(schema, machine, members),
        api=out.ApiConfig(
            Address(schema.api.host, schema.api.port),
            members.reachable(schema.api.host, schema.api.port, schema.api.advertise_host),
        ),
        tls=_tls(schema, machine),
        logging=_logging(schema, machine),
        notes=(),
    )
    return config, problems, notes


def _cluster(schema: FileSchema, members: Members) -> out.ClusterConfig:
    section = schema.cluster
    return out.ClusterConfig(
        name=section.name,
        bootstrap_node=members.bootstrap_node,
        members=members.members,
        min_votes=section.min_votes,
        pair_mode=None if section.pair_mode is None else PairMode(section.pair_mode),
        takeover_delay_ms=section.takeover_delay,
        takeover_failures=section.takeover_failures,
        max_clock_skew_ms=section.max_clock_skew,
    )


def _postgresql(schema: FileSchema, machine: Machine, members: Members) -> out.PostgresqlConfig:
    """Return the server's part; directory and parameters are filled in by the caller."""
    section = schema.postgresql
    health = section.health
    return out.PostgresqlConfig(
        data_dir=FilePath(),
        data_dir_from_server=False,
        bindir=_bindir(section.bindir, machine),
        os_user=section.os_user,
        advertise=members.postgres,
        listen=section.listen or members.default_listen,
        port=members.postgres.port,
        superuser=section.superuser,
        parameters=(),
        hba=_hba(schema, members),
        bootstrap=out.BootstrapConfig(
            section.bootstrap.database, section.bootstrap.username, section.bootstrap.password
        ),
        replication_password=section.replication_password,
        diverged_keep_bytes=section.diverged_keep_size,
        orphan_timeout_ms=section.orphan_timeout,
        health=out.HealthConfig(
            health.interval or HEALTH_MS["interval"],
            health.timeout or HEALTH_MS["timeout"],
            health.failure_threshold,
        ),
    )


def _directories(
    schema: FileSchema, machine: Machine, *, legacy_server: bool
) -> tuple[FilePath, FilePath]:
    home = machine.base_dir / schema.node.name
    named = schema.node.state_dir
    state_dir = None if named is None else machine.path(named)
    if schema.postgresql.data_dir is not None:
        data_dir = machine.path(schema.postgresql.data_dir)
    elif legacy_server:
        data_dir = home  # in a pg-metako file the node's directory *is* the data directory
    else:
        # The data has a parent of its own, which belongs to PostgreSQL's user: clones are made
        # beside the data.
        data_dir = (state_dir or home) / "pg" / "data"
    if state_dir is not None:
        return data_dir, state_dir
    inside = home == data_dir or data_dir in home.parents
    return data_dir, home.with_name(f"{home.name}.state") if inside else home


def _hba(schema: FileSchema, members: Members) -> tuple[str, ...]:
    """Return who may log in; unless the file says it, everyone with a password who can get here."""
    if schema.postgresql.hba is not None:
        return tuple(_one_hba_line(line) for line in schema.postgresql.hba)
    places = ("all",) if members.off_loopback else ("127.0.0.1/32", "::1/128")
    return tuple(f"host all all {place} scram-sha-256" for place in places)


def _one_hba_line(text: str) -> str:
    """Return a line with one blank where there are more, as they come with YAML and the clipboard.

    What is quoted is left alone, for it is a name: a line that rejects "a  b" must not become one
    for somebody else.
    """
    return _QUOTED_OR_BLANKS.sub(lambda found: found[1] or " ", text).strip()


def _watchdog(schema: FileSchema, machine: Machine, timing: out.TimingConfig) -> out.WatchdogConfig:
    section = schema.guard.watchdog
    mode, device = out.WatchdogMode(section.mode), machine.path(section.device)
    return out.WatchdogConfig(mode, device, watchdog_timeout_s(timing))


def _bindir(text: str | None, machine: Machine) -> str | None:
    if text is None or text.split(":", 1)[0] == "embedded":
        return text
    return str(machine.path(text))


def _timing(section: TimingSection) -> out.TimingConfig:
    values = {
        f"{key}_ms": default if getattr(section, key) is None else getattr(section, key)
        for key, default in TIMING_MS[section.profile].items()
    }
    return out.TimingConfig(profile=section.profile, **values)


def _gossip(schema: FileSchema, members: Members, keys: Keys) -> out.GossipConfig:
    section = schema.gossip
    values = {
        f"{key}_ms": default if getattr(section, key) is None else getattr(section, key)
        for key, default in GOSSIP_MS[schema.timing.profile].items()
    }
    return out.GossipConfig(
        listen=members.gossip_listen,
        advertise=members.gossip,
        keys=keys.ring,
        key_file=keys.file,
        key_problem=keys.problem,
        needs_key=members.off_loopback,
        shares_api_port=members.gossip_listen.port == schema.api.port,
        **values,
    )


def _proxy(schema: FileSchema, machine: Machine, members: Members) -> out.ProxyConfig:
    section = schema.proxy
    return out.ProxyConfig(
        enabled=section.enabled,
        listen=Address(section.host, section.port),
        advertise=members.reachable(section.host, section.port, None) if section.enabled else None,
        workers=section.workers or min(machine.processors, WORKERS_DEFAULT_MAX),
        queue_timeout_ms=section.queue_timeout,
        max_connections=section.max_connections,
        balance=out.Balance(section.balance),
        local_preference=section.local_preference,
        read_timeout_ms=section.read_timeout,
        write_timeout_ms=section.write_timeout,
        idle_timeout_ms=section.idle_timeout,
        idle_in_transaction_timeout_ms=section.idle_in_transaction_timeout,
        login_timeout_ms=section.login_timeout,
        drain_timeout_ms=section.drain_timeout,
        admin_users=(schema.postgresql.superuser,)
        if section.admin_users is None
        else section.admin_users,
        pool=out.PoolConfig(
            per_server=section.pool.per_server,
            per_user=section.pool.per_user,
            per_database=section.pool.per_database,
            size=section.pool.size,
            discard_always=section.pool.discard == "always",
            idle_timeout_ms=section.pool.idle_timeout,
            lifetime_ms=section.pool.lifetime,
        ),
        server_tls=section.server_tls,
        server_ca_file=machine.file(section.server_ca_file),
    )


def _tls(schema: FileSchema, machine: Machine) -> out.TlsConfig:
    section = schema.tls
    return out.TlsConfig(
        section.enabled,
        machine.file(section.cert_file),
        machine.file(section.key_file),
        section.required,
        machine.file(section.client_ca_file),
    )


def _logging(schema: FileSchema, machine: Machine) -> out.LoggingConfig:
    section = schema.logging
    return out.LoggingConfig(
        level=section.level,
        format=section.format,
        file=machine.file(section.file),
        rotation_bytes=section.rotation,
        retention=section.retention,
        status_interval_ms=section.status_interval,
    )


def _check_ports(schema: FileSchema, members: Members, *, legacy_ports: bool) -> list[Problem]:
    """Return a problem for each port that two parts of this node would listen on."""
    problems = []
    taken: dict[int, str] = {}
    ports = [("gossip.port", ("gossip", "port"), members.gossip_listen.port)]
    if not members.witness:
        ports.append(("postgresql.port", ("postgresql", "port"), members.postgres.port))
    if schema.proxy.enabled:
        ports.append(("proxy.port", ("proxy", "port"), schema.proxy.port))
    ports.append(("api.port", ("api", "port"), schema.api.port))
    for label, path, port in ports:
        owner = taken.setdefault(port, label)
        if owner == label or (legacy_ports and owner == "gossip.port" and label == "api.port"):
            continue
        problems.append(Problem(path, f"{port} is also the port of {owner}", "choose another"))
    return problems


def _check_durability(schema: FileSchema, members: Members) -> list[Problem]:
    section = schema.durability
    if section.mode is Durability.ASYNC:
        return []
    standbys = len(members.data_nodes) - 1
    if section.mode is Durability.STRICT and standbys < section.acks:
        text = f"strict with {section.acks} acks blocks every commit: there are {standbys} standbys"
        return [Problem(("durability", "mode"), text, "use quorum, or add members")]
    if section.acks > max(standbys, 1):
        text = f"{section.acks} is more than the {standbys} standbys in cluster.members"
        return [Problem(("durability", "acks"), text)]
    return []


def _check_rest(schema: FileSchema) -> list[Problem]:
    problems = []
    bootstrap = schema.postgresql.bootstrap
    if bootstrap.password is not None and bootstrap.username is None:
        path = ("postgresql", "bootstrap", "password")
        problems.append(Problem(path, "there is no username that it belongs to"))
    problems += _check_tls(schema)
    bindir = schema.postgresql.bindir or ""
    kind, _, major = bindir.partition(":")
    if kind == "embedded" and bindir != "embedded" and not major.isdigit():
        text = f"{bindir!r} names no version"
        problems.append(Problem(("postgresql", "bindir"), text, "write it like embedded:18"))
    return problems


def _check_tls(schema: FileSchema) -> list[Problem]:
    problems = []
    if schema.tls.enabled:
        problems += [
            Problem(("tls", "enabled"), f"needs tls.{key}")
            for key in ("cert_file", "key_file")
            if getattr(schema.tls, key) is None
        ]
    elif schema.tls.required:
        text = "nobody could connect, because tls.enabled is not true"
        problems.append(Problem(("tls", "required"), text))
    mode, named = schema.proxy.server_tls, schema.proxy.server_ca_file is not None
    if mode.verifies and not named:
        problems.append(Problem(("proxy", "server_tls"), f"{mode} needs proxy.server_ca_file"))
    elif named and not mode.verifies:
        text = f"nothing is verified with server_tls: {mode}"
        fix = "use verify-ca or verify-full"
        problems.append(Problem(("proxy", "server_ca_file"), text, fix))
    return problems
