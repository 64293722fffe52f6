"""Who listens on a port: for the one line that an operator reads when a port is taken.

Reads /proc only, so it knows what this user may see; of other users' processes it knows nothing and
says so. Never raises: it is called while an error is being reported.
"""

from __future__ import annotations

import os
from pathlib import Path

PROCESSES_MAX = 20_000
"""Processes looked at before giving up."""

_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_TCP_LISTEN = "0A"


def describe_port_owner(protocol: str, port: int) -> str:
    """Return "name (pid N)" of the process that has the port, or "another process".

    Args:
        protocol: "tcp" (a listener) or "udp".
        port: the local port, on any address.
    """
    inodes = _socket_inodes(protocol, port)
    if inodes:
        for pid in _pids():
            if _holds(pid, inodes):
                return f"{_name(pid)} (pid {pid})"
    return "another process"


def _socket_inodes(protocol: str, port: int) -> frozenset[str]:
    suffix = f":{port:04X}"
    found: set[str] = set()
    for table in _TABLES[protocol]:
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            listens = protocol == "udp" or columns[3] == _TCP_LISTEN
            if listens and columns[1].endswith(suffix):
                found.add(f"socket:[{columns[9]}]")
    return frozenset(found)


def _pids() -> list[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdigit())[:PROCESSES_MAX]


def _holds(pid: int, inodes: frozenset[str]) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            return any(_target(entry.path) in inodes for entry in descriptors)
    except OSError:
        return False  # gone, or another user's


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # closed meanwhile


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() or "a process"
    except OSError:
        return "a process"
