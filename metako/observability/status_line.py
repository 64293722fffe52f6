"""The periodic one-line report: the primary, every node, the term, the lease, S, and health.

Input: a `NodeStatus` and, if there are some, the proxy's query counts. Output: one line of text.
Pure; when it is written and where is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from metako.model.lsn import Lsn
from metako.model.member import Member, MemberState, ServerRole
from metako.model.status import NodeStatus
from metako.model.watchdog import WatchdogState


def status_line(status: NodeStatus, queries: Mapping[str, int] | None = None) -> str:
    """Return the report: `primary=n1 nodes=[…] term=4 lease=1.6s S={n2,n3} k=1 health=ok`.

    Args:
        status: one node's view.
        queries: counts of the proxy, such as `total` or `failed`; shown in the order given.
    """
    document = status.document
    parts = [f"primary={status.primary or 'none'}"]
    newest = _primary_lsn(status)
    parts.append(f"nodes=[{' '.join(_node(member, newest) for member in status.members)}]")
    parts.append(f"term={status.term}")
    if status.lease_remaining_ms > 0:
        parts.append(f"lease={status.lease_remaining_ms / 1000:.1f}s")
    elif status.hold_remaining_ms > 0:
        parts.append(f"hold={status.hold_remaining_ms / 1000:.1f}s")
    if document is not None:
        listed = ",".join(sorted(document.sync.nodes()))
        parts.append(f"S={{{listed}}} k={document.sync.k}")
        if document.joining:
            parts.append(f"joining={','.join(document.joining)}")
        if document.leaving:
            parts.append(f"leaving={','.join(document.leaving)}")
        if document.paused:
            parts.append("paused")
    if status.postgres.watchdog.state is WatchdogState.FAILED:
        parts.append("watchdog=failed")
    if queries:
        parts.append(f"queries=[{' '.join(f'{name}={n}' for name, n in queries.items())}]")
    parts.append(f"health={health(status)}")
    return " ".join(parts)


def health(status: NodeStatus) -> str:
    """Return `ok`, `degraded (why)` or `down (why)` for the whole cluster, as this node sees it."""
    if status.primary is None:
        return f"down ({status.blocked or 'no primary'})"
    if status.blocked:
        return f"degraded ({status.blocked})"
    document = status.document
    missing = [
        str(member.node)
        for member in status.members
        if member.state not in (MemberState.ALIVE, MemberState.LEFT)
        # Who was removed is missed by nobody, though gossip may know its name for long.
        and (document is None or member.node in document.members())
    ]
    return f"degraded ({', '.join(missing)} not alive)" if missing else "ok"


def _primary_lsn(status: NodeStatus) -> Lsn | None:
    """Return how far the primary's WAL is, by gossip; None if nothing is known."""
    for member in status.members:
        if member.node == status.primary and member.meta is not None:
            return member.meta.lsn
    return None


def _node(member: Member, newest: Lsn | None) -> str:
    if member.state is not MemberState.ALIVE:
        return f"{member.node}:{member.state.value}"
    meta = member.meta
    if meta is None:
        return f"{member.node}:unknown"
    if meta.witness:
        return f"{member.node}:witness"
    text = f"{member.node}:{meta.role.value}/{meta.state.value}"
    if meta.role is ServerRole.STANDBY and newest is not None and meta.lsn:
        # Gossip tells the two positions at different moments; a negative lag is no lag.
        text += f",lag={max(0, newest - meta.lsn)}B"
        if meta.lag_ms >= 0:
            text += f"/{meta.lag_ms}ms"
    return text
