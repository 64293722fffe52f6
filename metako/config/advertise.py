"""This node's own address, when its file does not tell it.

A pg-metako file says `api_host: 0.0.0.0` of its own node and leaves it to the others to know where
that is. The kernel knows: it is the address from which it would send to the other members.
"""

from __future__ import annotations

import socket
from dataclasses import replace

from metako.config.hosts import WILDCARDS, is_loopback
from metako.config.node_config import NodeConfig
from metako.model.errors import ConfigError
from metako.model.ids import Address

_DOCUMENTATION_ADDRESS = Address("192.0.2.1", 9)
"""TEST-NET-1 (RFC 5737): never reached; asks for the address of the default route."""


def resolve_advertised(config: NodeConfig) -> NodeConfig:
    """Return the configuration with every wildcard that is advertised replaced.

    Sends nothing. Resolves names of members, so it may block as long as the resolver does.

    Raises:
        ConfigError: no route leads to any other member.
    """
    if config.gossip.advertise.host not in WILDCARDS:
        return config
    others = [m.gossip for m in config.cluster.members if m.name != config.node.name]
    remote = [address for address in others if not is_loopback(address.host)]
    host = next((found for to in remote if (found := _facing(to)) is not None), None)
    if host is None and not remote:
        host = _facing(_DOCUMENTATION_ADDRESS) or "127.0.0.1"
    if host is None:
        raise ConfigError(
            f"{config.path}: gossip.advertise_host: this host has no route to any member; "
            "write the address at which the other nodes reach it"
        )
    return with_advertised_host(config, host)


def _facing(to: Address) -> str | None:
    """Return the local address from which `to` is reached; None if it is not."""
    try:
        infos = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    for family, kind, protocol, _, address in infos:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(address)
                host = probe.getsockname()[0]
            except OSError:
                continue
        if isinstance(host, str) and host not in WILDCARDS:
            return host
    return None


def with_advertised_host(config: NodeConfig, host: str) -> NodeConfig:
    """Return the configuration with `host` in place of every wildcard that is advertised."""

    def fill(address: Address) -> Address:
        return Address(host, address.port) if address.host in WILDCARDS else address

    gossip = fill(config.gossip.advertise)
    postgres = fill(config.postgresql.advertise)
    members = tuple(
        replace(
            member,
            gossip=fill(member.gossip),
            postgres=None if member.postgres is None else fill(member.postgres),
        )
        for member in config.cluster.members
    )
    api, proxy = config.api.advertise, config.proxy.advertise
    return replace(
        config,
        cluster=replace(config.cluster, members=members),
        gossip=replace(config.gossip, advertise=gossip),
        postgresql=replace(config.postgresql, advertise=postgres),
        api=replace(config.api, advertise=None if api is None else fill(api)),
        proxy=replace(config.proxy, advertise=None if proxy is None else fill(proxy)),
    )
