"""What a node's GET /status says, reduced to what the demo and the tests look at.

Input: the JSON object of `metako.api.view`. Output: frozen values. A missing field becomes an
empty value and never an error: the demo must show something of a node that is half dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import trio

from metako.api.client import fetch_status
from metako.demo.layout import NodeLayout
from metako.model.errors import UnreachableError

STATUS_TIMEOUT_S = 0.7


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as one node sees it."""

    node: str
    state: str  # gossip's verdict: alive, suspect, …
    role: str  # primary | standby | none | unknown
    server_state: str  # running, streaming, …
    timeline: int
    lsn: str
    lag_ms: int  # -1 when unknown
    record: str = ""  # ok, or lost: by which durable record it counts; "" for no member


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node's own view of the cluster."""

    node: str
    term: int
    role: str  # in the election: leader, follower, …
    leader: str
    primary: str
    hold_ms: int
    lease_ms: int
    phase: str  # of the document; "" while there is none
    document: str  # its version as term.version
    timeline: int  # newest one on record whose promotion was confirmed; 0 before the first
    sync: tuple[str, ...]  # the nodes whose acknowledgement counts
    sync_k: int
    server_role: str  # of this node's own server, as it was last observed
    blocked: str
    members: tuple[MemberView, ...]
    voters: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()  # those of the voters without data

    def member(self, name: str) -> MemberView | None:
        return next((m for m in self.members if m.node == name), None)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else ()


def _int(value: object, default: int = 0) -> int:
    return int(value) if isinstance(value, int | float) else default


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _names(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in _items(value))


def read_view(raw: object) -> NodeView:
    """Return the view in a decoded /status answer."""
    top = _mapping(raw)
    document = _mapping(top.get("document"))
    sync = _mapping(document.get("sync"))
    return NodeView(
        node=_text(top.get("node")),
        term=_int(top.get("term")),
        role=_text(top.get("role")),
        leader=_text(top.get("leader")),
        primary=_text(top.get("primary")),
        hold_ms=_int(top.get("hold_remaining_ms")),
        lease_ms=_int(top.get("lease_remaining_ms")),
        phase=_text(document.get("phase")),
        document=_text(document.get("ref")),
        timeline=_int(document.get("timeline")),
        sync=_names(sync.get("nodes")),
        sync_k=_int(sync.get("k")),
        server_role=_text(_mapping(top.get("postgres")).get("role")),
        blocked=_text(top.get("blocked")),
        members=tuple(_member(_mapping(item)) for item in _items(top.get("members"))),
        voters=_names(document.get("voters")),
        learners=_names(document.get("learners")),
        witnesses=_names(document.get("witnesses")),
    )


def _member(raw: Mapping[str, object]) -> MemberView:
    return MemberView(
        node=_text(raw.get("node")),
        state=_text(raw.get("state")),
        role=_text(raw.get("role")),
        server_state=_text(raw.get("server_state")),
        timeline=_int(raw.get("timeline")),
        lsn=_text(raw.get("lsn")),
        lag_ms=_int(raw.get("lag_ms"), -1),
        record=_text(raw.get("record")),
    )


async def fetch_view(node: NodeLayout, *, timeout_s: float = STATUS_TIMEOUT_S) -> NodeView | None:
    """Return the node's view of the cluster; None if it does not answer in time.

    If cancelled, the request is abandoned to its own timeout.
    """

    def ask() -> NodeView | None:
        try:
            return read_view(fetch_status(node.api_url, timeout_s))
        except UnreachableError:
            return None

    return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)


async def fetch_views(
    nodes: Iterable[NodeLayout], *, timeout_s: float = STATUS_TIMEOUT_S
) -> dict[str, NodeView]:
    """Return the views of those nodes that answer, asked side by side, in the order of `nodes`."""
    nodes = tuple(nodes)
    result: dict[str, NodeView] = {}

    async def one(node: NodeLayout) -> None:
        view = await fetch_view(node, timeout_s=timeout_s)
        if view is not None:
            result[node.name] = view

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(one, node)
    return {node.name: result[node.name] for node in nodes if node.name in result}


def active_primary(views: Mapping[str, NodeView]) -> NodeView | None:
    """Return the view of the node that is the active primary by its own account.

    That is: it leads under a running lease, its document says active, and its server is out of
    recovery. With two such nodes (which must never be) the one of the higher term is returned.
    """
    leading = [view for view in views.values() if is_active_primary(view)]
    return max(leading, key=lambda view: view.term, default=None)


def is_active_primary(view: NodeView) -> bool:
    return (
        view.primary == view.node
        and view.lease_ms > 0
        and view.phase == "active"
        and view.server_role == "primary"
    )


def streaming_standbys(view: NodeView) -> list[str]:
    """Return the standbys that stream, as the node's gossip says."""
    return [
        m.node
        for m in view.members
        if m.role == "standby" and m.server_state == "streaming" and m.state == "alive"
    ]
