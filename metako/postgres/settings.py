"""The generated configuration files, as text.

Input: the node's own configuration (`ServerSettings`) and what the current role asks for
(`ServerConfig`). Output: `metako.conf`, `pg_hba.conf`, `pg_ident.conf`, the password file, and a
digest that PostgreSQL shows as `metako.settings`. A *fresh* backend that shows the digest proves
that the postmaster has loaded these very files: it reads settings and pg_hba in one go, before it
forks again.

The generated files lie outside the data directory: a base backup or a rewind copies the data
directory of another node and must not bring that node's settings with it. The user's own
`postgresql.conf` is included first, so everything below it wins.

Pure: writing the files is the driver's work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from metako.model.errors import ConfigError
from metako.model.ids import Address, NodeId
from metako.model.postgres import SyncSetting
from metako.postgres.steps import ServerConfig, UpstreamAddress
from metako.postgres.syncnames import (
    application_name,
    catching_up_name,
    render_sync,
    replication_password,
)

REPLICATION_ROLE = "metako_replicator"
IDENT_MAP = "metako"
MAINTENANCE_DATABASE = "postgres"
CONNECT_TIMEOUT_S = 3
TCP_USER_TIMEOUT_MS = 5000
_HEADER = "# metako-config: "

_DEFAULTS: Mapping[str, str] = {
    # Wanted, but for the user to change.
    "max_wal_senders": "64",
    "max_replication_slots": "64",
    "max_slot_wal_keep_size": "4GB",
    "wal_keep_size": "512MB",
    "password_encryption": "scram-sha-256",
    "wal_sender_timeout": "10s",
    "wal_receiver_timeout": "10s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
}

_ENFORCED: Mapping[str, str] = {
    # Each of these, set otherwise, would break a promise.
    "hot_standby": "on",
    "wal_log_hints": "on",
    "restart_after_crash": "off",
    "recovery_target_timeline": "latest",
    # A recovery target lets a standby promote itself; restored WAL would move a measured position.
    "recovery_target": "",
    "recovery_target_lsn": "",
    "recovery_target_name": "",
    "recovery_target_time": "",
    "recovery_target_xid": "",
    "restore_command": "",
    # The log is read for what the server cannot say by SQL.
    "logging_collector": "off",
    "log_destination": "stderr",
    "lc_messages": "C",
}

_WAL_LEVELS = ("replica", "logical")
_PER_NODE = (
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "wal_level",
    "synchronous_standby_names",
    "primary_conninfo",
    "primary_slot_name",
    "cluster_name",
    "metako.settings",
)
_OWN_FILES = ("config_file", "hba_file", "ident_file", "data_directory", "include")
MANAGED = frozenset((*_ENFORCED, *_PER_NODE, *_OWN_FILES))
"""Settings that ALTER SYSTEM must not override; they are stripped from postgresql.auto.conf."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What the first database of a cluster is made with."""

    superuser_password: str = ""  # "": none, the superuser connects by peer only
    user: str = ""  # role for applications; "": none is made
    password: str = ""
    database: str = ""  # owned by `user`; "": none is made
    locale: str = "C"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One node's own configuration of its server."""

    node: NodeId
    data_dir: PurePath
    state_dir: PurePath
    socket_dir: PurePath  # short: the path of a Unix socket has at most 107 bytes
    listen: str  # value of listen_addresses
    port: int
    secret: bytes = field(repr=False)  # the same on every node of the cluster
    parameters: tuple[tuple[str, str], ...] = ()  # of the configuration or the document
    hba: tuple[str, ...] = ()  # the user's lines, in force whenever applications are admitted
    superuser: str = "postgres"
    system_users: tuple[str, ...] = ("root",)  # may connect as superuser by peer
    cluster_name: str = "metako"
    diverged_keep_bytes: int = 1_000_000_000  # of WAL and histories that were taken out of the way
    bootstrap: Bootstrap = field(default=Bootstrap(), repr=False)

    @property
    def files_dir(self) -> PurePath:
        """Where the generated files are."""
        return self.state_dir / "postgres"


@dataclass(frozen=True, slots=True)
class Rendered:
    """The generated files that change with the role."""

    conf: str
    hba: str
    digest: str


def quote(value: str) -> str:
    """Return the value as a string of postgresql.conf, whose parser knows backslashes as well."""
    if "\n" in value or "\0" in value:
        raise ConfigError(f"a setting of PostgreSQL must be one line: {value!r}")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def conninfo(pairs: Mapping[str, str]) -> str:
    """Return a libpq connection string."""
    quoted = {k: v.replace("\\", "\\\\").replace("'", "\\'") for k, v in pairs.items()}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items())


def upstream_conninfo(
    settings: ServerSettings, upstream: Address, *, name: str, database: str = ""
) -> str:
    """Return how this node connects to its upstream, under the application name `name`."""
    pairs = {
        "host": upstream.host,
        "port": str(upstream.port),
        "user": REPLICATION_ROLE,
        "passfile": str(settings.files_dir / "passfile"),
        "application_name": name,
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "keepalives_idle": "2",
        "keepalives_interval": "1",
        "keepalives_count": "3",
        "tcp_user_timeout": str(TCP_USER_TIMEOUT_MS),
    }
    if database:
        pairs["dbname"] = database
    return conninfo(pairs)


def check_parameters(settings: ServerSettings) -> None:
    """Refuse parameters of the user that break a promise.

    Raises:
        ConfigError: names the parameter.
    """
    for name, value in settings.parameters:
        key = name.lower()
        if key in ("fsync", "full_page_writes") and value.lower() in ("off", "false", "no", "0"):
            raise ConfigError(f"{name}={value} loses acknowledged commits: remove it")
        if key == "wal_level" and value not in _WAL_LEVELS:
            raise ConfigError(f"wal_level={value} allows no standby: use replica or logical")
        if key in MANAGED and key != "wal_level":
            raise ConfigError(f"the parameter {name} is managed: remove it from the configuration")


def render(
    settings: ServerSettings, config: ServerConfig, floors: tuple[tuple[str, int], ...] = ()
) -> Rendered:
    """Return the files for `config`.

    Args:
        settings: of this node.
        config: of its role.
        floors: settings that the data directory's WAL was written under, from pg_control. Every
            start is one as a standby, which refuses lower values; they are raised to these.

    Raises:
        ConfigError: a parameter is refused. Nothing was written.
    """
    check_parameters(settings)
    hba = _render_hba(settings, config)
    user_conf = settings.data_dir / "postgresql.conf"
    lines = [
        "# Generated by metako; changes are overwritten. Use postgresql.parameters instead.",
        _HEADER + _encode(config),
        f"include_if_exists = {quote(str(user_conf))}",
    ]
    given = {name.lower(): value for name, value in settings.parameters}
    values: dict[str, str] = {**_DEFAULTS, **given, **_ENFORCED}
    for name, floor in floors:
        own = values.get(name, "0")
        values[name] = str(max(floor, int(own))) if own.isdecimal() else own
    values["wal_level"] = given.get("wal_level", "replica")
    values["listen_addresses"] = settings.listen
    values["port"] = str(settings.port)
    values["unix_socket_directories"] = str(settings.socket_dir)
    values["cluster_name"] = f"{settings.cluster_name}_{settings.node}"[:60]
    values["synchronous_standby_names"] = render_sync(settings.secret, config.sync)
    values["primary_conninfo"], values["primary_slot_name"] = _upstream_values(settings, config)
    lines += [f"{name} = {quote(value)}" for name, value in values.items()]
    body = "\n".join(lines) + "\n"
    digest = hashlib.sha256(f"{body}\0{hba}".encode()).hexdigest()[:32]
    return Rendered(f"{body}metako.settings = '{digest}'\n", hba, digest)


def _upstream_values(settings: ServerSettings, config: ServerConfig) -> tuple[str, str]:
    """Return `primary_conninfo` and `primary_slot_name`."""
    upstream = config.upstream
    if upstream is None:
        return "", ""
    if not upstream.counts:
        # Whoever has promised to leave a primary must not acknowledge anything to it, should it be
        # the one that answers at that address.
        name = catching_up_name(settings.secret, settings.node)
        return upstream_conninfo(settings, upstream.address, name=name), ""
    name = application_name(settings.secret, settings.node)
    return upstream_conninfo(settings, upstream.address, name=name), name


def _render_hba(settings: ServerSettings, config: ServerConfig) -> str:
    lines = hba_lines(settings.superuser, settings.hba, admit=config.admit)
    remark = "# Generated by metako; changes are overwritten. Use postgresql.hba instead."
    return "\n".join((remark, *lines)) + "\n"


def hba_lines(superuser: str, hba: Sequence[str], *, admit: bool) -> tuple[str, ...]:
    """Return the lines of pg_hba.conf: the agents' own, then the user's if clients are admitted."""
    superuser = '"' + superuser.replace('"', '""') + '"'
    return (
        f"local all {superuser} peer map={IDENT_MAP}",
        f"host replication {REPLICATION_ROLE} all scram-sha-256",
        f"host {MAINTENANCE_DATABASE} {REPLICATION_ROLE} all scram-sha-256",
        f"host all {REPLICATION_ROLE} all reject",
        *(hba if admit else ()),
        "local all all reject",
        "host all all all reject",
    )


def render_ident(settings: ServerSettings) -> str:
    """Return pg_ident.conf: who on this host may connect as the superuser."""
    lines = ["# Generated by metako; changes are overwritten."]
    for user in dict.fromkeys(settings.system_users):
        lines.append(f'{IDENT_MAP} "{user}" "{settings.superuser}"')
    return "\n".join(lines) + "\n"


def render_passfile(settings: ServerSettings) -> str:
    """Return the password file of the replication role."""
    return f"*:*:*:{REPLICATION_ROLE}:{replication_password(settings.secret)}\n"


def _encode(config: ServerConfig) -> str:
    upstream = config.upstream
    return json.dumps(
        {
            "upstream": [upstream.node, upstream.address.host, upstream.address.port]
            if upstream is not None
            else None,
            "sync": list(config.sync.nodes),
            "k": config.sync.k,
            "admit": config.admit,
            # Only where it is so: what was rendered before there was this has the same digest.
            **({"counts": False} if upstream is not None and not upstream.counts else {}),
        },
        ensure_ascii=True,
    )


def config_of(conf: str) -> tuple[ServerConfig, str] | None:
    """Return what a generated metako.conf was rendered from, and its digest.

    An agent that finds a running server learns from this file what is in force there.

    Returns:
        None if the text was not generated by `render` or is damaged.
    """
    digest = ""
    config = None
    for line in conf.splitlines():
        if line.startswith(_HEADER):
            config = _decode(line.removeprefix(_HEADER))
        elif line.startswith("metako.settings = '"):
            digest = line.split("'")[1]
    return (config, digest) if config is not None and digest else None


def _decode(text: str) -> ServerConfig | None:
    try:
        raw = json.loads(text)
        named = raw["upstream"]
        upstream = (
            UpstreamAddress(
                NodeId(str(named[0])),
                Address(str(named[1]), int(named[2])),
                counts=bool(raw.get("counts", True)),
            )
            if named
            else None
        )
        nodes = tuple(NodeId(str(node)) for node in raw["sync"])
        return ServerConfig(upstream, SyncSetting(nodes, int(raw["k"])), bool(raw["admit"]))
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def strip_managed(auto_conf: str) -> str:
    """Return postgresql.auto.conf without the settings that are managed."""
    kept = []
    for line in auto_conf.splitlines():
        name = line.split("=")[0].strip().lower()
        if line.lstrip().startswith("#") or name not in MANAGED:
            kept.append(line)
    return "\n".join(kept) + "\n" if kept else ""


def sql_literal(text: str) -> str:
    """Return an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def sql_identifier(name: str) -> str:
    """Return a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def replication_role_sql(settings: ServerSettings, *, exists: bool) -> tuple[str, ...]:
    """Return the statements that make the replication role what it must be.

    The role may do what pg_rewind does: read the files of the data directory.
    """
    role = REPLICATION_ROLE
    password = sql_literal(replication_password(settings.secret))
    verb = "ALTER" if exists else "CREATE"
    functions = (
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    )
    return (
        "SET password_encryption = 'scram-sha-256'",
        f"{verb} ROLE {role} REPLICATION LOGIN PASSWORD {password}",
        f"COMMENT ON ROLE {role} IS {sql_literal(role_mark(settings))}",
        *(f"GRANT EXECUTE ON FUNCTION pg_catalog.{f} TO {role}" for f in functions),
    )


def role_mark(settings: ServerSettings) -> str:
    """Return the comment that tells whether the role has the password of today's secret."""
    digest = hashlib.sha256(b"mark" + replication_password(settings.secret).encode()).hexdigest()
    return f"metako {digest[:16]}"


def bootstrap_sql(settings: ServerSettings) -> tuple[str, ...]:
    """Return the statements that a new database cluster begins with, one line each."""
    bootstrap = settings.bootstrap
    statements = list(replication_role_sql(settings, exists=False))
    if bootstrap.superuser_password:
        name = sql_identifier(settings.superuser)
        secret = sql_literal(bootstrap.superuser_password)
        statements.append(f"ALTER ROLE {name} PASSWORD {secret}")
    if bootstrap.user and bootstrap.user != settings.superuser:
        login = f"CREATE ROLE {sql_identifier(bootstrap.user)} LOGIN"
        if bootstrap.password:
            login += f" PASSWORD {sql_literal(bootstrap.password)}"
        statements.append(login)
    if bootstrap.database and bootstrap.database != MAINTENANCE_DATABASE:
        owner = sql_identifier(bootstrap.user or settings.superuser)
        statements.append(f"CREATE DATABASE {sql_identifier(bootstrap.database)} OWNER {owner}")
    if any("\n" in statement for statement in statements):
        raise ConfigError("names and passwords of postgresql.bootstrap must be one line")
    return tuple(statements)
