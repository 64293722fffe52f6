"""A server that can write has an armed guard, and takes no writes that no majority holds for.

In: who holds for whom, by the voters themselves, and every document by which somebody may be
elected. What a leader says of its own lease, or has told its guard, may be the mistake.

Where the voters have been the same for as long as a lease can run, a majority holds for whoever
takes writes. After a change it may be one of the voters before: then no majority of those of any
live document may be free to elect somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from metako.model.document import ClusterDocument
from metako.model.ids import NodeId
from sim.heap import NS_PER_MS, NS_PER_S
from sim.monitor import Monitor, clocks_off
from sim.standing import counts, decides
from sim.versions import Versions
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.postgres.commits import Commit
    from sim.postgres.server import SimServer
    from sim.world import World

EVERY_SAMPLES = 2
"""How often guards are looked at, and voters asked; these at acknowledgements as well."""
SOUND_NS = 2 * NS_PER_S
"""An agent that has been sound for so long has told its guard of each renewal at once."""
EARLY_NS = 800 * NS_PER_MS
"""A guard fires this much before the end of the lease at most: the server takes its time to die."""
BARE_NS = 200 * NS_PER_MS
"""So long the guard may be unarmed around the moments at which it is armed and disarmed."""


class Fenced(Watcher):
    """See the module's docstring."""

    name = "fenced"

    def __init__(self, world: World, monitor: Monitor, versions: Versions) -> None:
        self._world = world
        self._monitor = monitor
        self._versions = versions
        # Of the live documents, with who of a pair decides; None: not seen yet.
        self._voters: tuple[frozenset[NodeId], NodeId | None] | None = None
        self._voters_since_ns = 0  # when they were last seen to change, or to differ
        self._samples = 0
        # When each lease was to end: when they were last looked at, and the time before that.
        self._leases: tuple[Mapping[NodeId, int], Mapping[NodeId, int]] = ({}, {})
        self._bare: dict[NodeId, int] = {}  # writable and unguarded since when
        self._held: dict[NodeId, int] = {}  # until when a majority holds for a node, at the least

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        self._samples += 1
        if self._samples % EVERY_SAMPLES:
            return
        self._leases = {node.name: node.lease_end_ns for node in nodes}, self._leases[0]
        now = self._world.heap.now_ns
        writable = [node for node in nodes if not node.witness and node.server.writable]
        bare = [node.name for node in writable if self._is_bare(node)]
        self._bare = {name: self._bare.get(name, now) for name in bare}
        for name, since in self._bare.items():
            if now - since >= BARE_NS:
                raise ViolationError(
                    "unguarded", f"{name} is writable, and its guard is not armed", (name,)
                )
        for node in writable:
            self._within_lease(node)

    def noted(self, node: NodeId, mark: str, text: str) -> None:
        """Compare the deadline that a guard goes by with the lease that it is for."""
        if mark != "fenced_by_guard" or not self._monitor.agent_ok(node, SOUND_NS):
            return
        world = self._world
        # A renewal of this very moment may not have reached the guard yet.
        _, before = self._leases
        left = before.get(node, 0) - world.heap.now_ns
        if left > EARLY_NS and not clocks_off(world):
            raise ViolationError(
                "fenced_in_vain",
                f"the guard of {node} ends its server, and its lease lasts for another "
                f"{left / NS_PER_S:.2f} s",
                (node,),
            )

    @staticmethod
    def _is_bare(node: SimNode) -> bool:
        guard = node.guard
        if guard is None or not guard.answers or node.server.being_killed:
            return False
        return not guard.armed_term

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        if self._world.heap.now_ns >= self._held.get(server.node, 0):
            self._within_lease(self._world.nodes[server.node])

    def _within_lease(self, node: SimNode) -> None:
        world, guard = self._world, node.guard
        now = world.heap.now_ns
        if guard is None or not guard.answers or node.suspended or now < node.excused_until_ns:
            return
        live = self._versions.live()
        if not live or clocks_off(world):
            return
        settled = self._voters_are_settled(live, now)
        held: list[int] = []
        for document in live:
            decisive = decides(document)
            if decisive is not None and not settled:
                continue  # whether it may be elected alone yet depends on what it has heard
            voters = document.voters if decisive is None else (decisive,)
            ends = {name: self._end_of_hold(name, node.name, document) for name in voters}
            free = [name for name, end in ends.items() if end <= now]
            # With an even number of voters there are two answers to what a majority holds.
            majority = len(ends) // 2 + 1
            enough = len(ends) - majority if settled else majority - 1
            held.append(sorted(ends.values())[enough])
            if len(free) > enough:
                self._fail(node.name, document, free, settled=settled)
        if held:
            self._held[node.name] = min(held)

    def _fail(
        self, name: NodeId, document: ClusterDocument, free: Sequence[NodeId], *, settled: bool
    ) -> None:
        if settled:
            raise ViolationError(
                "beyond_lease",
                f"{name} takes writes although {', '.join(free)} hold for it no more",
                (name, *free),
            )
        raise ViolationError(
            "lease_of_former_voters",
            f"{name} takes writes although {', '.join(free)}, which do not hold for it, can elect "
            f"another one by document {document.ref}",
            (name, *free),
        )

    def _voters_are_settled(self, live: Sequence[ClusterDocument], now: int) -> bool:
        """Return whether all live documents have had the same voters for longer than a lease.

        Of a pair whose rule is that one of them decides, it has to have been the same one.
        """
        known = {_electors(document) for document in live}
        newest = _electors(max(live, key=lambda document: document.ref))
        longest_ns = 2 * max(document.hold_ms for document in live) * NS_PER_MS
        if self._voters is None:
            self._voters, self._voters_since_ns = newest, now - longest_ns
        if len(known) > 1 or newest != self._voters:
            self._voters, self._voters_since_ns = newest, now
        return now - self._voters_since_ns >= longest_ns

    def _end_of_hold(self, name: NodeId, leader: NodeId, document: ClusterDocument) -> int:
        """Return until when a voter votes for nobody else than `leader`; far off: it votes at all.

        A node that stands still votes for nobody, nor does one that is down, and one that lost its
        record must not. One whose record was rolled back by a fault has forgotten its holds: that
        is the fault's, and no leader's.
        """
        world = self._world
        node, now = world.nodes[name], world.heap.now_ns
        engine, agent = node.engine, node.agent
        if engine is None or agent is None or agent.paused or node.suspended:
            return now + NS_PER_MS
        if name == leader or not counts(node, document):
            return now + NS_PER_MS
        hold = engine.hold
        if hold.leader not in (leader, None):
            return 0
        return node.clock.true_at_mono(hold.until_ns, now) if hold.until_ns else 0


def _electors(document: ClusterDocument) -> tuple[frozenset[NodeId], NodeId | None]:
    return frozenset(document.voters), decides(document)
