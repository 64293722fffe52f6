"""Looks around before a node starts, so that whatever is in its way is told and nothing is touched.

Input: the configuration, PostgreSQL's user and programs. Output: nothing, or the one error that an
operator must see first. Invariant: nothing is written, and nothing is listened on for longer than
the look takes. What is looked at here is looked at again by whoever takes it; this only makes sure
that a mistake is told before the node has greeted anyone or made a database.

What an earlier agent of this node left running is no obstacle: its guard, PostgreSQL and proxy
workers are taken over, so their ports are theirs to have.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from metako.config import NodeConfig
from metako.guard.packets import LOCK_NAME as GUARD_LOCK_NAME
from metako.model.errors import (
    ConfigError,
    DataDirectoryError,
    MetakoError,
    PortInUseError,
    PrivilegeError,
    StateError,
)
from metako.model.ids import Address
from metako.postgres.files import ServerFiles
from metako.postgres.install import Installation
from metako.postgres.osuser import OsUser
from metako.postgres.process import server_processes
from metako.runtime.paths import record_path, run_dir
from metako.runtime.port_owner import describe_port_owner
from metako.runtime.settings import server_settings
from metako.runtime.store import LOCK_SUFFIX

SETTLE_S = 3.0
"""A server that lost its guard a moment ago, as after a kill of everything, may still be dying."""
SETTLE_STEP_S = 0.05
PROGRAMS = (
    "initdb",
    "pg_basebackup",
    "pg_controldata",
    "pg_rewind",
    "pg_waldump",
    "postgres",
)
"""What a node needs sooner or later; a failover is no time to learn that one is missing."""
_EVERYWHERE = ("*", "")


def check_not_running(config: NodeConfig) -> None:
    """Refuse to start a second agent of the same node.

    Raises:
        StateError: another agent holds the node's durable record.
        PrivilegeError: this user may not look.
    """
    path = record_path(config)
    holder = _lock_holder(path.with_name(path.name + LOCK_SUFFIX))
    if holder is not None:
        raise StateError(
            f"{config.node.state_dir}: in use by another agent (pid {holder or 'unknown'}); stop "
            "it first, or give this node a state directory of its own"
        )


def check_data_directory(config: NodeConfig, user: OsUser, installation: Installation) -> None:
    """Refuse a data directory that is not ours to touch.

    Waits up to `SETTLE_S` for a server that is on its way out.

    Raises:
        DataDirectoryError: foreign, half-written, another owner's, of another version, or in use.
    """
    data_dir = config.postgresql.data_dir
    try:
        ServerFiles(server_settings(config, user), user).check(installation.major)
    except OSError as error:
        raise DataDirectoryError(
            f"{data_dir}: cannot be looked at: {error.strerror}; it must belong to the user that "
            f"PostgreSQL runs as ({user.name})"
        ) from None
    if guard_runs(config):
        return
    deadline_s = time.monotonic() + SETTLE_S
    while pids := server_processes(data_dir):
        if time.monotonic() > deadline_s:
            raise DataDirectoryError(
                f"{data_dir}: in use by a PostgreSQL that metako did not start (pid {pids[0]}); "
                "stop it first"
            )
        time.sleep(SETTLE_STEP_S)


def check_programs(installation: Installation) -> None:
    """Refuse an installation that lacks a program which is needed later.

    Raises:
        BinaryMissingError: names it.
    """
    for name in PROGRAMS:
        installation.program(name)


def check_log_file(config: NodeConfig) -> None:
    """Refuse a log file that cannot be written. Once the node runs, the log never stops it.

    Raises:
        PrivilegeError: this user may not write it.
        ConfigError: it is a directory, or lies below something that is none.
    """
    path = config.logging.file
    if path is None:
        return
    try:
        nearest = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        raise PrivilegeError(f"logging.file {path}: {error.strerror}") from None
    if nearest.is_dir() == (nearest == path):
        what = "is a directory" if nearest == path else f"{nearest} is not a directory"
        raise ConfigError(f"{config.path}: logging.file: {path}: {what}")
    if not os.access(nearest, os.W_OK if nearest == path else os.W_OK | os.X_OK):
        raise PrivilegeError(
            f"logging.file {path}: this user may not write to {nearest}; set logging.file to a "
            "place where it may"
        )


def check_ports(config: NodeConfig, user: OsUser) -> None:
    """Refuse ports that somebody else has. The gossip port is bound before anything else anyway.

    Raises:
        PortInUseError: something else listens there.
        PrivilegeError: this user may not listen there.
        ConfigError: the address is not of this machine.
    """
    api, proxy, postgresql = config.api.listen, config.proxy.listen, config.postgresql
    if not config.gossip.shares_api_port:
        _check_port("the HTTP API's port", "api", api.host, api.port)
    if guard_runs(config):
        return
    if config.proxy.enabled:
        _check_port("the proxy's port", "proxy", proxy.host, proxy.port)
    if not config.node.witness:
        if postgresql.port < _unprivileged_port_min():
            raise PrivilegeError(
                f"PostgreSQL's port {postgresql.port}: not allowed for user {user.name!r}, whom "
                "PostgreSQL runs as; set postgresql.port above 1023"
            )
        for host in postgresql.listen.split(","):
            try:
                _check_port("PostgreSQL's port", "postgresql", host.strip(), postgresql.port)
            except PortInUseError as error:
                if not postgresql.data_dir_from_server:
                    raise
                raise PortInUseError(
                    f"{error}; a server that is to become the cluster's must be stopped and named "
                    "by postgresql.data_dir"
                ) from None


def guard_runs(config: NodeConfig) -> bool:
    """Return whether a guard of this node runs: what an earlier agent left is then in its care."""
    return _lock_holder(run_dir(config) / GUARD_LOCK_NAME) is not None


def _lock_holder(path: Path) -> str | None:
    """Return what the holder of a lock file wrote into it; None if nobody holds it.

    Raises:
        PrivilegeError: the file may not be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PrivilegeError(
            f"{path}: {error.strerror}; start this node as the user that it was started as before, "
            "or give it a state directory of its own"
        ) from None
    try:
        # Shared, so that two that look at the same time do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    finally:
        os.close(descriptor)
    return None


def _unprivileged_port_min() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def _check_port(what: str, section: str, host: str, port: int) -> None:
    shown = Address("*" if host in _EVERYWHERE else host, port)
    foreign: OSError | None = None
    bound = 0
    for sock, target in _sockets(what, section, host, port):
        with sock:
            try:
                sock.bind(target)
                bound += 1
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    foreign = error
                else:
                    raise _explain(error, what, section, shown) from None
    if not bound and foreign is not None:
        raise _explain(foreign, what, section, shown) from None


def _sockets(
    what: str, section: str, host: str, port: int
) -> Iterator[tuple[socket.socket, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(
            None if host in _EVERYWHERE else host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{what}: the host {host!r} has no address ({error}); set {section}.host"
        ) from None
    for family, kind, protocol, _, target in found:
        with contextlib.suppress(OSError):  # a machine without IPv6 has no such sockets
            sock = socket.socket(family, kind, protocol)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Skips only the wait for old connections; a listener is still in the way.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            yield sock, target


def _explain(error: OSError, what: str, section: str, shown: Address) -> MetakoError:
    match error.errno:
        case errno.EADDRINUSE:
            owner = describe_port_owner("tcp", shown.port)
            return PortInUseError(
                f"{what} {shown} is in use by {owner}; stop it or set {section}.port"
            )
        case errno.EACCES | errno.EPERM:
            return PrivilegeError(
                f"{what} {shown}: not allowed for this user; set {section}.port above 1023"
            )
        case errno.EADDRNOTAVAIL:
            key = "listen" if section == "postgresql" else "host"
            return ConfigError(
                f"{what} {shown}: this machine has no such address; set {section}.{key}"
            )
        case _:
            return ConfigError(f"{what} {shown}: {error.strerror}")
