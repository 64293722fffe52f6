"""What a client is told between its login and its first query.

Deliberately unknown here: servers and sessions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from metako.pgwire import startup as pg
from metako.pgwire.messages import (
    BackendKey,
    TransactionStatus,
    backend_key_data,
    parameter_status,
    ready_for_query,
)

GREETINGS_MAX = 64  # kept, of a few hundred bytes each


def greeting(
    settings: Mapping[str, str], key: BackendKey, notices: Iterable[Mapping[str, str]]
) -> bytes:
    """Build it: what servers report of settings, the cancel key, notices, and that we are ready."""
    told = b"".join(pg.error_of_fields(dict(fields), kind=b"N") for fields in notices)
    ready = ready_for_query(TransactionStatus.IDLE)
    return _settings(tuple(settings.items())) + backend_key_data(key) + told + ready


@functools.lru_cache(maxsize=GREETINGS_MAX)
def _settings(settings: tuple[tuple[str, str], ...]) -> bytes:
    # Those of most sessions are alike.
    return b"".join(parameter_status(*pair) for pair in settings)
