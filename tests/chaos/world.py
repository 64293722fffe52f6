"""The real world, behind the surface that the simulator's faults and scenarios use.

In: the nodes, the network as it is described by faults, views of the nodes as they come. Out: who
is the primary, what the newest document says, and a heap whose calls are made when the machine's
clock says so. The description of the network is the simulator's own (`sim.network`); what makes it
true is the packet filter (`chaos.wire`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import trio

from chaos.lab import CLIENT
from chaos.node import RealNode
from metako.demo.view import NodeView
from metako.model.document import ClusterDocument, Durability, Phase, SyncMember, SyncSet
from metako.model.ids import DataId, NodeId, Term
from sim.faults.surface import FaultyClient
from sim.heap import Heap
from sim.network import Network

TICK_S = 0.005
KEEP_S = 0.1


class ClientHost:
    """The host of the clients that live on no node: faults of the network can be about it."""

    name = CLIENT

    def set_load(self, factor: float) -> None:
        raise NotImplementedError("see chaos.limits")

    def reconnect(self) -> None:
        raise NotImplementedError("see chaos.limits")

    def cancel_waiting(self) -> bool:
        raise NotImplementedError("see chaos.limits")


class RealWorld:
    """See the module's docstring. One round of faults; the nodes outlive it."""

    clients: Sequence[FaultyClient] = (ClientHost(),)

    def __init__(self, nodes: Sequence[RealNode], network: Network) -> None:
        self.heap = Heap()
        self.network = network
        self.names: Sequence[NodeId] = tuple(NodeId(node.name) for node in nodes)
        self.witnesses: Sequence[NodeId] = tuple(NodeId(n.name) for n in nodes if n.witness)
        self.nodes: Mapping[NodeId, RealNode] = dict(zip(self.names, nodes, strict=True))
        self._zero_ns = 0  # CLOCK_MONOTONIC at which the heap's time was 0; set by `begin`

    def begin(self, now_ns: int) -> None:
        """Let the heap's time run from `now_ns`."""
        self.heap.now_ns = now_ns
        self._zero_ns = time.monotonic_ns() - now_ns

    def primary(self) -> NodeId | None:
        """Return the active primary by its own account; the one of the higher term of two."""
        serving = [(self._term(node), name) for name, node in self.nodes.items() if node.serves]
        return max(serving)[1] if serving else None

    def document(self) -> ClusterDocument | None:
        """Return what is known of the newest document: primary, sync set and members."""
        views = [view for node in self.nodes.values() if (view := node.newest_view()) is not None]
        views = [view for view in views if view.document and view.primary]
        if not views:
            return None
        newest = max(views, key=_version)
        members = tuple(SyncMember(NodeId(name), DataId("")) for name in newest.sync)
        return ClusterDocument(
            cluster_id="",
            cluster_name="",
            system_id=0,
            term=Term(newest.term),
            version=0,
            primary=NodeId(newest.primary),
            primary_data_id=DataId(""),
            phase=Phase.ACTIVE,
            voters=tuple(map(NodeId, newest.voters)),
            learners=tuple(map(NodeId, newest.learners)),
            witnesses=tuple(map(NodeId, newest.witnesses)),
            sync=SyncSet(members, newest.sync_k if members else 0),
            durability=Durability.QUORUM,
            timelines=(),
            hold_ms=0,
        )

    @staticmethod
    def _term(node: RealNode) -> int:
        view = node.newest_view()
        return view.term if view is not None else 0

    async def run(self) -> None:
        """Make the heap's calls in time, until cancelled. `begin` comes before."""
        keep_at = 0.0
        while True:
            self.heap.run_until(time.monotonic_ns() - self._zero_ns)
            if time.monotonic() >= keep_at:
                keep_at = time.monotonic() + KEEP_S
                for node in self.nodes.values():
                    node.server.keep()
            await trio.sleep(TICK_S)


def _version(view: NodeView) -> tuple[int, int]:
    term, _, version = view.document.partition(".")
    return int(term or 0), int(version or 0)
