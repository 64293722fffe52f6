"""The verdicts behind `/primary`, `/replica`, `/health` and their kin: may this node take traffic?

In: one `NodeStatus`, and for replicas a limit on their lag. Out: a `Verdict`, which a load
balancer reads as 200 or 503 and a person as one sentence.

Invariant: when in doubt the answer is no. `/primary` in particular says yes only where the lease,
the document and the server itself agree, so that at most one node of a cluster says yes while
leases do (DESIGN §4.4).

Deliberately unaware of HTTP. The paths and the `lag` parameter have the meaning that load
balancers set up for Patroni expect. Source: Patroni docs/rest_api.rst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from metako.api.view import is_streaming, lag_bytes, local_role
from metako.model.document import Phase
from metako.model.member import ServerRole
from metako.model.status import NodeStatus

_SIZES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_TIMES_MS = {"ms": 1, "s": 1000, "min": 60_000}
_LAG = re.compile(r"(\d{1,15})\s*([a-z]{0,3})", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the node may be used for what was asked, and why not."""

    ok: bool
    reason: str  # one sentence; "" when ok


@dataclass(frozen=True, slots=True)
class LagLimit:
    """The most lag that a caller puts up with; exactly one of the two is set."""

    max_bytes: int | None = None
    max_ms: int | None = None


YES = Verdict(True, "")


def parse_lag(text: str) -> LagLimit:
    """Return the limit that `lag=` names: bytes, `16kB`, `1MB`, or a time as `500ms` or `2s`.

    Raises:
        ValueError: the text is none of these; its message can be shown.
    """
    match = _LAG.fullmatch(text.strip())
    if match is not None:
        number, unit = int(match[1]), match[2].lower()
        if unit in _SIZES:
            return LagLimit(max_bytes=number * _SIZES[unit])
        if unit in _TIMES_MS:
            return LagLimit(max_ms=number * _TIMES_MS[unit])
    raise ValueError("lag is a size such as 1048576, 64kB or 1MB, or a time such as 500ms or 2s")


def primary_verdict(status: NodeStatus) -> Verdict:
    """Return whether this node's server is the primary *and* this node may still say so."""
    if status.lease_remaining_ms <= 0:
        return Verdict(False, "this node holds no valid lease")
    if local_role(status.postgres) is not ServerRole.PRIMARY:
        return Verdict(False, f"the server is {_describe(status)}")
    document = status.document
    if document is None or document.primary != status.node or document.phase is not Phase.ACTIVE:
        return Verdict(False, "the promotion is not complete")
    if status.primary != status.node or not status.postgres.admitting:
        return Verdict(False, "applications are not admitted yet")
    return YES


def replica_verdict(status: NodeStatus, limit: LagLimit | None = None) -> Verdict:
    """Return whether this node's server is a streaming standby within `limit`.

    An unknown lag exceeds every limit.
    """
    if not is_streaming(status.postgres):
        return Verdict(False, f"the server is {_describe(status)}")
    if limit is None:
        return YES
    if limit.max_ms is not None:
        lag_ms = status.postgres.lag_ms
        if lag_ms < 0:
            return Verdict(False, "the replay lag is not known")
        if lag_ms > limit.max_ms:
            return Verdict(False, f"the standby is {lag_ms} ms behind")
    if limit.max_bytes is not None:
        own = next((m for m in status.members if m.node == status.node), None)
        behind = lag_bytes(own, status) if own else None
        if behind is None:
            return Verdict(False, "the replay lag is not known")
        if behind > limit.max_bytes:
            return Verdict(False, f"the standby is {behind} bytes behind")
    return YES


def health_verdict(status: NodeStatus) -> Verdict:
    """Return whether the local server runs as a primary or as a streaming standby."""
    if local_role(status.postgres) is ServerRole.PRIMARY or is_streaming(status.postgres):
        return YES
    return Verdict(False, f"the server is {_describe(status)}")


def readiness_verdict(status: NodeStatus) -> Verdict:
    """Return whether the node does its part: leads, streams, or, as a witness, knows a leader."""
    document = status.document
    if document is not None and status.node in document.witnesses:
        return YES if status.leader else Verdict(False, "the witness knows no leader")
    if primary_verdict(status).ok:
        return YES
    if local_role(status.postgres) is ServerRole.PRIMARY:
        return primary_verdict(status)
    return replica_verdict(status)


def _describe(status: NodeStatus) -> str:
    match local_role(status.postgres):
        case ServerRole.PRIMARY:
            return "a primary"
        case ServerRole.STANDBY:
            return (
                "a streaming standby"
                if is_streaming(status.postgres)
                else ("a standby that does not stream")
            )
        case ServerRole.NONE:
            return f"not running ({status.postgres.process.value})"
        case ServerRole.UNKNOWN:
            return "in an unknown state"
