"""How many open files a worker needs, and how it comes to be allowed them."""

from __future__ import annotations

import contextlib
import resource

from metako.proxy.board import HANDSHAKES_MAX


def descriptors_needed(sessions_max: int) -> int:
    """Return how many descriptors a worker may have open at once."""
    return 2 * sessions_max + HANDSHAKES_MAX + 64


def raise_descriptor_limit(wanted: int) -> None:
    """Raise the soft limit as far as the hard one allows; short of that, accepting pauses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
