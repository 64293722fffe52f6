"""What a file asks for that this version of metako does not do, said once at start.

Input: the values of metako's own sections, translated ones included. Output: one remark for each
such key that is set. A key that is read and silently ignored is worse than one that is refused;
these keys are accepted because pg-metako files have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import BaseModel

from metako.config.problems import Path, dotted
from metako.config.schema import FileSchema
from metako.model.document import Durability

_PROXY = "this version of the proxy leads every session to the primary"

_HEALTH = "this version looks at PostgreSQL at intervals of its own"

NOT_IN_FORCE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("proxy", "balance"), _PROXY),
    (("proxy", "local_preference"), _PROXY),
    (("postgresql", "health", "interval"), _HEALTH),
    (("postgresql", "health", "timeout"), _HEALTH),
    (("postgresql", "health", "failure_threshold"), _HEALTH),
)


def not_in_force(schema: FileSchema, origin_of: Callable[[Path], Path]) -> Iterator[str]:
    """Yield a remark for each key that is set and has no effect yet."""
    for path, remark in NOT_IN_FORCE:
        section: BaseModel = schema
        for name in path[:-1]:
            section = getattr(section, name)
        if path[-1] not in section.model_fields_set:
            continue
        yield f"{dotted(origin_of(path))}: has no effect yet: {remark}"
    if schema.tls.enabled:
        where = dotted(origin_of(("tls", "enabled")))
        for_whom = "the clients of the proxy only" if schema.proxy.enabled else "nobody"
        yield f"{where}: is for {for_whom}: this version's API speaks PLAIN HTTP"
    if schema.durability.mode is Durability.ASYNC:
        yield (
            f"{dotted(origin_of(('durability', 'mode')))}: async: commits wait for no standby, so "
            "a failover may lose the newest ones: at most max_lag_on_failover of what was last "
            "heard of the primary, and what it wrote since then"
        )
