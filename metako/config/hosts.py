"""What the text of a host tells: whether it is this machine, and whether two mean the same one.

Nothing is looked up: a name that resolves to an address of this machine is not known as one here.
"""

from __future__ import annotations

import ipaddress

WILDCARDS = frozenset(("0.0.0.0", "::", "*"))  # noqa: S104  # recognised here, not bound


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and cannot be reached from any other."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_host(one: object, other: object) -> bool:
    """Return whether two hosts are spellings of the same one, as far as the text tells."""
    return one == other or (
        isinstance(one, str) and isinstance(other, str) and is_loopback(one) and is_loopback(other)
    )
