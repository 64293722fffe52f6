"""A pg-metako file, translated into metako's own sections.

Input: the validated sections of a pg-metako file and the values of metako's own sections beside
them, not validated yet. Output: one set of own values, where each translated one came from (so
that a later error names the key that the operator wrote), remarks, and contradictions.

Two rules for what is said twice. A *fact* (a name, a host, a port, a password) may be repeated but
not contradicted: one of the two is a mistake, and guessing which could start the wrong server. A
*setting* (a timing, a preference) of metako's own sections wins, and a remark says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from metako.config.hosts import WILDCARDS, is_loopback, same_host
from metako.config.legacy_schema import PRIMARY_ROLES, Coordination, LegacySchema
from metako.config.problems import Path, Problem
from metako.config.profiles import GOSSIP_MS, HEALTH_MS, TIMING_MS
from metako.config.translation import Translation
from metako.config.units import format_duration_ms


def translate(legacy: LegacySchema, own: Mapping[str, object]) -> Translation:
    """Return the own sections with everything that the pg-metako sections say added."""
    result = Translation(own)
    _identity(result, legacy)
    _server(result, legacy)
    _members(result, legacy)
    _bootstrap_node(result, legacy)
    _coordination(result, legacy.coordination)
    health, balancer, security = legacy.health_check, legacy.load_balancer, legacy.security
    for key, bound_ms in HEALTH_MS.items():
        result.bound(
            ("postgresql", "health", key), getattr(health, key), ("health_check", key), bound_ms
        )
    result.setting(
        ("postgresql", "health", "failure_threshold"),
        health.failure_threshold,
        ("health_check", "failure_threshold"),
    )
    result.setting(("proxy", "balance"), balancer.algorithm, ("load_balancer", "algorithm"))
    for key in ("read_timeout", "write_timeout"):
        value_ms = getattr(balancer, key)
        written = None if value_ms is None else format_duration_ms(value_ms)
        result.setting(("proxy", key), written, ("load_balancer", key))
    result.setting(("tls", "enabled"), security.tls_enabled, ("security", "tls_enabled"))
    result.setting(("tls", "cert_file"), security.cert_file, ("security", "cert_file"))
    result.setting(("tls", "key_file"), security.key_file, ("security", "key_file"))
    return result


def _identity(result: Translation, legacy: LegacySchema) -> None:
    identity = legacy.identity
    own_gossip_port = result.get("gossip", "port")
    result.fact(("node", "name"), identity.node_name, ("identity", "node_name"))
    result.fact(("api", "host"), identity.api_host, ("identity", "api_host"))
    result.fact(("api", "port"), identity.api_port, ("identity", "api_port"))
    listed = _own_member(result, identity.node_name or "")
    host = identity.api_host
    if host is None or host in WILDCARDS or is_loopback(host) or "host" in listed:
        host = None
    if host is not None and result.get("gossip", "advertise_host") is None:
        result.fact(("gossip", "advertise_host"), host, ("identity", "api_host"))
    if identity.api_port is not None and own_gossip_port is None and "gossip_port" not in listed:
        result.fact(("gossip", "port"), identity.api_port, ("identity", "api_port"))
        result.notes.append(
            f"identity.api_port {identity.api_port}: gossip uses the same number, UDP and TCP, "
            "and the HTTP API answers wherever gossip listens; gossip.port can say otherwise"
        )


def _server(result: Translation, legacy: LegacySchema) -> None:
    identity, server = legacy.identity, legacy.local_db
    result.fact(("postgresql", "port"), identity.local_db_port, ("identity", "local_db_port"))
    result.fact(("postgresql", "port"), server.port, ("local_db", "port"))
    hosts = (
        (identity.local_db_host, ("identity", "local_db_host")),
        (server.host, ("local_db", "host")),
    )
    given = [host for host, _ in hosts if host is not None]
    if len(given) == 2 and not same_host(*given):
        text = "contradicts 'identity.local_db_host'"
        result.problems.append(Problem(("local_db", "host"), text, "remove one of the two"))
        return
    for host, origin in hosts:
        if host is not None and host not in WILDCARDS and not is_loopback(host):
            result.setting(("postgresql", "host"), host, origin)
    for key in ("database", "username", "password"):
        path = ("postgresql", "bootstrap", key)
        result.fact(path, getattr(server, key), ("local_db", key))
    if server.name is not None:
        result.notes.append("local_db.name: is a label only; the node is known by its node name")


def _own_member(result: Translation, name: str) -> dict[str, object]:
    """Return what `cluster.members` says of a node; empty if it says nothing."""
    members = result.get("cluster", "members")
    for entry in members if isinstance(members, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    return {}


def _members(result: Translation, legacy: LegacySchema) -> None:
    if not legacy.cluster_members:
        return
    said = result.get("gossip", "port")
    shared = ("gossip", "port") in result.origins  # it is only api_port, under another name
    cluster = result.values.setdefault("cluster", {})
    members = cluster.setdefault("members", []) if isinstance(cluster, dict) else None
    if not isinstance(members, list):
        return  # the wrong shape is reported when the own sections are validated
    for index, member in enumerate(legacy.cluster_members):
        origin: Path = ("cluster_members", index)
        known = _own_member(result, member.node_name)
        if known and not same_host(known.get("host", member.api_host), member.api_host):
            result.problems.append(
                Problem(
                    (*origin, "api_host"),
                    f"contradicts the host of {member.node_name!r} in 'cluster.members'",
                    "remove one of the two",
                )
            )
        if known:
            known.setdefault("host", member.api_host)
            continue
        port = member.api_port if said is None or shared else said
        path: Path = ("cluster", "members", len(members))
        members.append({"name": member.node_name, "host": member.api_host, "gossip_port": port})
        result.origins[path] = origin
        result.origins[(*path, "name")] = (*origin, "node_name")
        result.origins[(*path, "host")] = (*origin, "api_host")
        result.origins[(*path, "gossip_port")] = (*origin, "api_port")


def _bootstrap_node(result: Translation, legacy: LegacySchema) -> None:
    named: list[tuple[str, Path]] = []
    own_name = result.get("node", "name")
    if legacy.local_db.role in PRIMARY_ROLES and isinstance(own_name, str):
        named.append((own_name, ("local_db", "role")))
    named.extend(
        (member.node_name, ("cluster_members", index, "role"))
        for index, member in enumerate(legacy.cluster_members)
        if member.role in PRIMARY_ROLES and member.node_name != own_name
    )
    if named:
        result.fact(("cluster", "bootstrap_node"), *named[0])
    for _, origin in named[1:]:
        result.problems.append(
            Problem(origin, f"{named[0][0]!r} has the role of the primary already", "keep one")
        )


def _coordination(result: Translation, section: Coordination) -> None:
    profile = result.get("timing", "profile")
    name = profile if isinstance(profile, str) and profile in TIMING_MS else "default"
    timing, gossip = TIMING_MS[name], GOSSIP_MS[name]

    def said(flat: str, group: str, key: str) -> tuple[object, Path]:
        """Return a value of which two spellings exist, and where it stands."""
        old, new = getattr(section, flat), getattr(getattr(section, group), key)
        path: Path = ("coordination", group, key)
        if old is not None and new is not None and old != new:
            result.problems.append(
                Problem(path, f"contradicts 'coordination.{flat}'", "remove one of the two")
            )
        return (old, ("coordination", flat)) if new is None else (new, path)

    bounds = (
        ("heartbeat_interval", ("timing", "heartbeat"), timing["heartbeat"]),
        ("communication_timeout", ("gossip", "exchange_timeout"), gossip["exchange_timeout"]),
        ("communication_timeout", ("gossip", "probe_timeout"), gossip["probe_timeout"]),
        ("failover_timeout", ("timing", "candidacy_timeout"), timing["candidacy_timeout"]),
    )
    for key, path, default_ms in bounds:
        value, origin = said(key, "cluster_mode", key)
        result.bound(path, value if isinstance(value, int) else None, origin, default_ms)
    result.setting(
        ("cluster", "min_votes"),
        *said("min_consensus_nodes", "cluster_mode", "min_consensus_nodes"),
    )
    result.setting(
        ("proxy", "local_preference"),
        *said("local_node_preference", "cluster_mode", "local_node_preference"),
    )
    enabled, origin = said("enable_pair_mode", "pair_mode", "enable")
    result.setting(("cluster", "pair_mode"), "takeover" if enabled else None, origin)
    delay, origin = said("pair_failover_delay", "pair_mode", "failover_delay")
    written = format_duration_ms(delay) if isinstance(delay, int) else None
    result.setting(("cluster", "takeover_delay"), written, origin)
    result.setting(
        ("cluster", "takeover_failures"),
        *said("pair_failure_threshold", "pair_mode", "failure_threshold"),
    )
