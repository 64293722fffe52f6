"""What the configuration says of the proxy, as its workers take it; and reading it anew.

In: a configuration. Out: `ProxyConfig` for the launcher, and for a console's RELOAD what running
workers can be given, or why the file cannot be used. What else has changed in the file takes a
restart, and a notice names the sections.
"""

from __future__ import annotations

from dataclasses import fields, replace

import trio

from metako.config import NodeConfig
from metako.config.advertise import with_advertised_host
from metako.config.hosts import WILDCARDS
from metako.config.load import load
from metako.config.node_config import PoolConfig
from metako.config.node_config import ProxyConfig as ProxySection
from metako.model.errors import ConfigError
from metako.model.instant import NS_PER_MS
from metako.proxy.consoledesk import Reloaded
from metako.proxy.launcher import ProxyConfig
from metako.proxy.limits import Limits, Timeouts
from metako.runtime.paths import proxy_socket
from metako.runtime.tlsfiles import tls_options

MS_PER_S = 1000
# Of the section `proxy`, what running workers can be given anew.
RELOADED = (
    *("queue_timeout_ms", "max_connections", "read_timeout_ms", "write_timeout_ms"),
    *("idle_timeout_ms", "idle_in_transaction_timeout_ms", "login_timeout_ms", "admin_users"),
    "drain_timeout_ms",
    "pool",
)
_NOT_COMPARED = ("path", "notes")  # of a configuration; all else are sections


def proxy_config(config: NodeConfig, guard_pid: int) -> ProxyConfig:
    """Return what the workers of this node need to know."""
    proxy = config.proxy
    return ProxyConfig(
        control=proxy_socket(config),
        host=proxy.listen.host,
        port=proxy.listen.port,
        node=config.node.name,
        guard_pid=guard_pid,
        workers=proxy.workers,
        queue_timeout_s=proxy.queue_timeout_ms / MS_PER_S,
        connections_max=proxy.max_connections,
        limits=_limits(proxy.pool),
        timeouts=_timeouts(proxy),
        admins=proxy.admin_users,
        tls=tls_options(config),
    )


async def reload(running: NodeConfig) -> Reloaded:
    """Read the file of a node that runs. Never raises; nothing is changed here."""
    try:
        found = await trio.to_thread.run_sync(load, running.path)
    except ConfigError as error:
        return Reloaded(None, error=str(error))
    # As many workers as there are, whatever the file says by now.
    proxy = replace(found.proxy, workers=running.proxy.workers)
    tuning = proxy_config(replace(found, proxy=proxy), guard_pid=0).share
    changed = changed_sections(running, found)
    notices = (f"changes of {', '.join(changed)} take a restart",) if changed else ()
    return Reloaded(tuning, notices)


def changed_sections(running: NodeConfig, found: NodeConfig) -> list[str]:
    """Return the sections in which something differs that a node that runs cannot be given."""
    if found.gossip.advertise.host in WILDCARDS:
        # What stands for it was found out when the node started.
        found = with_advertised_host(found, running.gossip.advertise.host)
    given = {name: getattr(running.proxy, name) for name in RELOADED}
    found = replace(found, proxy=replace(found.proxy, **given))
    return [
        one.name
        for one in fields(NodeConfig)
        if one.name not in _NOT_COMPARED and getattr(found, one.name) != getattr(running, one.name)
    ]


def _timeouts(proxy: ProxySection) -> Timeouts:
    return Timeouts(
        read_s=(proxy.read_timeout_ms or 0) / MS_PER_S,
        write_s=(proxy.write_timeout_ms or 0) / MS_PER_S,
        idle_s=(proxy.idle_timeout_ms or 0) / MS_PER_S,
        idle_in_transaction_s=(proxy.idle_in_transaction_timeout_ms or 0) / MS_PER_S,
        login_s=proxy.login_timeout_ms / MS_PER_S,
        drain_s=proxy.drain_timeout_ms / MS_PER_S,
    )


def _limits(pool: PoolConfig) -> Limits:
    return Limits(
        server=pool.per_server,
        user=pool.per_user,
        database=pool.per_database,
        key=pool.size,
        idle_ns=pool.idle_timeout_ms * NS_PER_MS,
        life_ns=pool.lifetime_ms * NS_PER_MS,
        lenient=int(not pool.discard_always),
    )
