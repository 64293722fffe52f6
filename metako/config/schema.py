"""metako's own sections of a configuration file, as they are written.

Input: the values of the file. Output: frozen pydantic models that say exactly what stood there;
None means that the key was left out. Every key is known or refused, every value has bounds, and
nothing is converted between types: `"5432"` is a text and no port. What depends on more than one
key is decided in `metako.config.normalize`. Knows no file, environment, clock or user.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from metako.config.units import format_duration_ms, parse_duration_ms, parse_size_bytes
from metako.model.document import Durability
from metako.model.sslmode import SslMode

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
MEMBERS_MAX = 64
HBA_LINES_MAX = 200
PARAMETERS_MAX = 400
ADMINS_MAX = 100
DAY_MS = 86_400_000


def _name(value: str) -> str:
    if NAME.fullmatch(value) is None:
        raise ValueError(
            f"{value[:70]!r} is not a name; use 1 to 63 letters, digits, '-', '_' or '.', "
            "beginning with a letter or digit"
        )
    return value


def _host(value: str) -> str:
    if not value or len(value) > 253 or re.search(r"[\s/\[\]@,\0]|://", value):
        raise ValueError(
            f"{value[:60]!r} is not a host; write a name or an address, without port or brackets"
        )
    return value


def _one_line(value: str) -> str:
    if re.search(r"[\0\r\n]", value):
        raise ValueError("must be a single line")
    return value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return _one_line(value)


def duration(minimum: str, maximum: str) -> Callable[[object], int]:
    """Return a validator that turns a duration within the bounds into milliseconds."""
    low_ms, high_ms = parse_duration_ms(minimum), parse_duration_ms(maximum)

    def validate(value: object) -> int:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f"{value} has no unit; write {value}s or {value}ms")
        if not isinstance(value, str):
            raise ValueError("is not a duration; write it like 250ms, 10s or 1m30s")
        result = parse_duration_ms(value)
        if not low_ms <= result <= high_ms:
            bound = f"less than {minimum}" if result < low_ms else f"more than {maximum}"
            raise ValueError(f"{format_duration_ms(result)} is {bound}")
        return result

    return validate


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write {value}B, {value}kB or {value}MiB")
    if not isinstance(value, str):
        raise ValueError("is not a size; write it like 16MB or 1MiB")
    return parse_size_bytes(value)


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"  # YAML reads on and off as truth values
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("is not a single value")
    return _one_line(value)


def _switch(value: object) -> object:
    return "off" if value is False else value  # YAML reads off as a truth value


Name = Annotated[str, AfterValidator(_name)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Text = Annotated[str, AfterValidator(_not_empty)]
SizeBytes = Annotated[int, BeforeValidator(_size)]
Setting = Annotated[str, BeforeValidator(_setting)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
# Durations: the bounds are those beyond which no installation makes sense.
ShortMs = Annotated[int, BeforeValidator(duration("1ms", "10m"))]
LongMs = Annotated[int, BeforeValidator(duration("10ms", "24h"))]
DelayMs = Annotated[int, BeforeValidator(duration("0", "24h"))]


class Section(BaseModel):
    """Base of all sections: immutable, no unknown key, no conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class NodeSection(Section):
    name: Name
    zone: Annotated[str, AfterValidator(_one_line)] = ""
    priority: Annotated[int, Field(ge=0, le=1000)] = 100
    witness: bool | None = None
    state_dir: Text | None = None


class MemberSection(Section):
    name: Name
    host: Host
    gossip_port: Port | None = None
    postgres_port: Port | None = None
    witness: bool | None = None
    learner: bool = False


class ClusterSection(Section):
    name: Name = "main"
    bootstrap_node: Name | None = None
    members: Annotated[tuple[MemberSection, ...], Field(max_length=MEMBERS_MAX)] = ()
    min_votes: Annotated[int, Field(ge=0, le=MEMBERS_MAX)] = 0
    pair_mode: Literal["manual", "takeover"] | None = None
    takeover_delay: DelayMs = 10_000
    takeover_failures: Annotated[int, Field(ge=1, le=100)] = 3
    max_clock_skew: LongMs = 30_000


class GossipSection(Section):
    host: Host | None = None
    advertise_host: Host | None = None
    port: Port | None = None
    key: Text | None = None
    key_file: Text | None = None
    probe_interval: ShortMs | None = None
    probe_timeout: ShortMs | None = None
    gossip_interval: ShortMs | None = None
    exchange_timeout: ShortMs | None = None


class TimingSection(Section):
    profile: Literal["default", "fast", "wan"] = "default"
    heartbeat: ShortMs | None = None
    hold: ShortMs | None = None
    fence_margin: ShortMs | None = None
    stagger: ShortMs | None = None
    jitter: ShortMs | None = None
    retry: ShortMs | None = None
    candidacy_timeout: ShortMs | None = None
    standby_grace: ShortMs | None = None
    standby_settle: ShortMs | None = None
    sync_change_timeout: ShortMs | None = None
    hang_timeout: ShortMs | None = None
    stop_timeout: ShortMs | None = None


class DurabilitySection(Section):
    mode: Durability = Durability.QUORUM
    acks: Annotated[int, Field(ge=1, le=MEMBERS_MAX)] = 1
    max_lag_on_failover: SizeBytes = 1 << 20


class WatchdogSection(Section):
    mode: Annotated[Literal["off", "automatic", "required"], BeforeValidator(_switch)] = "off"
    device: Text = "/dev/watchdog"


class GuardSection(Section):
    watchdog: WatchdogSection = WatchdogSection()


class BootstrapSection(Section):
    database: Text | None = None
    username: Text | None = None
    password: Text | None = None


class HealthSection(Section):
    interval: ShortMs | None = None
    timeout: ShortMs | None = None
    failure_threshold: Annotated[int, Field(ge=1, le=100)] = 3


class PostgresqlSection(Section):
    data_dir: Text | None = None
    bindir: Text | None = None
    os_user: Text | None = None
    host: Host | None = None
    listen: Text | None = None
    port: Port | None = None
    superuser: Text = "postgres"
    # Names and dangerous values are checked by `metako.config.parameters`.
    parameters: Annotated[dict[str, Setting], Field(max_length=PARAMETERS_MAX)] = Field(
        default_factory=dict
    )
    hba: Annotated[tuple[Text, ...], Field(max_length=HBA_LINES_MAX)] | None = None
    bootstrap: BootstrapSection = BootstrapSection()
    replication_password: Text | None = None
    diverged_keep_size: SizeBytes = 1_000_000_000
    orphan_timeout: Annotated[int, BeforeValidator(duration("1s", "24h"))] = 60_000
    health: HealthSection = HealthSection()


class PoolSection(Section):
    per_server: Annotated[int, Field(ge=0, le=100_000)] = 0
    per_user: Annotated[int, Field(ge=0, le=100_000)] = 0
    per_database: Annotated[int, Field(ge=0, le=100_000)] = 0
    size: Annotated[int, Field(ge=0, le=100_000)] = 0
    discard: Literal["always", "needed"] = "always"
    idle_timeout: Annotated[int, BeforeValidator(duration("1s", "24h"))] = 600_000
    lifetime: Annotated[int, BeforeValidator(duration("1s", "168h"))] = 3_600_000


class ProxySection(Section):
    enabled: bool = True
    host: Host = "0.0.0.0"  # noqa: S104  # applications connect here from other hosts
    port: Port = 6432
    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    queue_timeout: LongMs = 30_000
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1000
    balance: Literal["round_robin", "least_connected"] = "round_robin"
    local_preference: Ratio = 0.0
    read_timeout: LongMs | None = None
    write_timeout: LongMs | None = None
    idle_timeout: LongMs | None = None
    idle_in_transaction_timeout: LongMs | None = None
    login_timeout: Annotated[int, BeforeValidator(duration("1s", "10m"))] = 60_000
    drain_timeout: Annotated[int, BeforeValidator(duration("1s", "24h"))] = 600_000
    admin_users: Annotated[tuple[Text, ...], Field(max_length=ADMINS_MAX)] | None = None
    pool: PoolSection = PoolSection()
    server_tls: SslMode = SslMode.PREFER
    server_ca_file: Text | None = None


class ApiSection(Section):
    host: Host = "127.0.0.1"
    port: Port = 8008
    advertise_host: Host | None = None


class TlsSection(Section):
    enabled: bool = False
    cert_file: Text | None = None
    key_file: Text | None = None
    required: bool = False
    client_ca_file: Text | None = None


class LoggingSection(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"
    file: Text | None = None
    rotation: SizeBytes = 50_000_000
    retention: Annotated[int, Field(ge=0, le=1000)] = 5
    status_interval: Annotated[int, BeforeValidator(duration("0s", "24h"))] = 10_000


class FileSchema(Section):
    """A whole file without the sections of a pg-metako file, which are translated before."""

    node: NodeSection
    cluster: ClusterSection = ClusterSection()
    gossip: GossipSection = GossipSection()
    timing: TimingSection = TimingSection()
    durability: DurabilitySection = DurabilitySection()
    guard: GuardSection = GuardSection()
    postgresql: PostgresqlSection = PostgresqlSection()
    proxy: ProxySection = ProxySection()
    api: ApiSection = ApiSection()
    tls: TlsSection = TlsSection()
    logging: LoggingSection = LoggingSection()
