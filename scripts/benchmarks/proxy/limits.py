"""What the system has to allow for many clients on one machine."""

from __future__ import annotations

import resource
from pathlib import Path

DESCRIPTORS_SPARE = 1000
DESCRIPTORS_MIN = 8192
PORTS_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def descriptors_needed(clients: int) -> int:
    """Return the open files of a proxy with so many clients, each with a session behind it."""
    return max(DESCRIPTORS_MIN, 2 * clients + DESCRIPTORS_SPARE)


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the soft limit as far as is wanted and the hard one allows; return what it is.

    Everything that is started afterwards has the same limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def ports(path: Path = PORTS_FILE) -> int:
    """Return how many connections there can be from one address to one port of another."""
    low, high = (int(word) for word in path.read_text(encoding="ascii").split())
    return high - low + 1


def shortage(idle: int) -> str:
    """Return what is not allowed that so many idle clients need; "" if everything is.

    The limit of open files is raised by this.
    """
    wanted = descriptors_needed(idle)
    if raise_descriptor_limit(wanted) < 2 * idle + DESCRIPTORS_SPARE:
        return f"needs a hard limit of {wanted} open files (ulimit -Hn)"
    # Those that were closed just now are not free yet.
    if idle + DESCRIPTORS_SPARE > (there := ports()):
        return f"needs more than the {there} ports of {PORTS_FILE}"
    return ""
