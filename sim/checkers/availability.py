"""Availability: no failover without need, a primary within the bound, commits that return.

What "need" and "can" mean is ground truth: `sim.monitor` knows since when which node was sound and
which way was clean. The stopwatch of a recovery runs only while a legal candidate with both quorums
exists; it does not ask why nobody stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.document import ClusterDocument, Durability, Phase
from metako.model.events import Event, EventName
from metako.model.ids import NodeId
from metako.model.instant import milliseconds
from metako.model.postgres import DataState, ProcessState
from sim.core import vouching
from sim.heap import NS_PER_S
from sim.monitor import Monitor
from sim.standing import has_majority, voters_among, votes
from sim.watch import ViolationError, Watcher
from sim.world import SAMPLE_NS

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.postgres.commits import Commit
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

SAMPLE_S = SAMPLE_NS / NS_PER_S
RECOVERY_S = 12.0
"""Beyond a hold: rewinds, clones and restarts of servers are allowed for."""
STUCK_S = 15.0
FLAPPING_MAX = 6
"""Elections won after the last fault has ended; more is a cluster that does not settle."""
CALM_NS = NS_PER_S * 3 // 2


class Availability(Watcher):
    """See the module's docstring. Owns the monitor; the world's watch must be told of both."""

    name = "availability"

    def __init__(self, world: World) -> None:
        self._world = world
        self.monitor = Monitor(world)
        world.watch.add(self.monitor)
        self.recovery_s = milliseconds(world.election.hold_ms) / NS_PER_S + RECOVERY_S
        self.failovers = 0
        self.first: NodeId | None = None  # the first active primary
        self._window_ns = milliseconds(world.election.hold_ms) + CALM_NS
        self._active: tuple[NodeId, int] | None = None  # newest active primary, and since when
        self._term = 0  # in which it became active
        self._last: Commit | None = None
        self._last_ns = 0
        self._without_s = 0.0  # without a primary, although there could be one
        self._stuck_s = 0.0  # with a primary whose commits do not return, although they could
        self._settling: int | None = None  # elections won since the faults ended

    # ------------------------------------------------------------ no failover without need

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is EventName.ELECTION_WON:
                self._elected(node, _term(event))
            elif event.name is EventName.PRIMARY_ACTIVE:
                before = self._active
                self._term = _term(event)
                self.first = self.first or node.name
                if before is not None and before[0] != node.name:
                    self.failovers += 1
                if before is None or before[0] != node.name:
                    self._active = (node.name, self._world.heap.now_ns)

    def _elected(self, winner: Processes, term: int) -> None:
        if self._settling is not None:
            self._settling += 1
            if self._settling > FLAPPING_MAX:
                raise ViolationError(
                    "flapping", f"{self._settling} elections since the faults ended", (winner.name,)
                )
        if self._active is None or self._active[0] == winner.name:
            return
        if term < self._term:
            return  # one that slept over its election counts votes of then, and deposes nobody
        old, since = self._active
        world, window = self._world, self._window_ns
        settled = world.heap.now_ns - since >= window
        sound = self.monitor.agent_ok(old, window) and self.monitor.server_ok(old, window)
        if not settled or not sound or world.nodes[old].stopped:
            return
        hard, newest = world.nodes[old].hard, world.document()
        known = hard.document if hard is not None else None
        if newest is None or known is None:
            return
        friends = self.monitor.friends(old, known.voters, window)
        # A change of the voters that is not committed yet needs a majority of both.
        majorities = all(has_majority(world, document, friends) for document in (known, newest))
        if majorities and world.nodes[old].server.writable:
            raise ViolationError(
                "false_failover",
                f"{winner.name} won an election while {old} was a sound primary that reached "
                f"{', '.join(friends)}",
                (winner.name, old),
            )

    # ------------------------------------------------------------ stopwatches

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        self._last, self._last_ns = commit, self._world.heap.now_ns
        self._stuck_s = 0.0

    def phase(self, name: str) -> None:
        if name == "liveness":
            self._settling = 0

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        document = self._world.document()
        if document is None or document.phase is Phase.INITIALIZING or self._active is None:
            return
        primary = self._world.primary()
        if primary is None:
            self._stuck_s = 0.0
            by = self._electable(document)
            self._without_s = self._without_s + SAMPLE_S if by is not None else 0.0
            if by is not None and self._without_s > self.recovery_s:
                raise ViolationError(
                    "no_recovery",
                    f"no primary for {self._without_s:.1f} s, although a majority and the data "
                    f"quorum of document {by.ref} are sound and reach each other",
                    self._world.names,
                )
            return
        self._without_s = 0.0
        if self._world.heap.now_ns - self._last_ns < SAMPLE_NS:
            return  # the newest commit is no older than the last look
        flows = self._flows(primary, document)
        self._stuck_s = self._stuck_s + SAMPLE_S if flows else 0.0
        if self._stuck_s > STUCK_S:
            raise ViolationError(
                "writes_stuck",
                f"no commit was acknowledged for {self._stuck_s:.1f} s, although {primary} and "
                "all its standbys are sound",
                (primary,),
            )

    def _electable(self, newest: ClusterDocument) -> ClusterDocument | None:
        """Return the document by which some sound node could be elected now, by the truth."""
        world = self._world
        leaders = [n for n in world.nodes.values() if n.leads(world.heap.now_ns)]
        if any(n.server.ill or n.server.process is ProcessState.STOPPING for n in leaders):
            # An elected server that hangs has its own, longer limit; so has one that is being
            # stopped, because PostgreSQL waits until its standbys have everything or time out.
            return None
        patience_ns = milliseconds(world.config.election.hang_timeout_ms) + NS_PER_S
        if any(n.server.frozen and not self.monitor.agent_ok(n.name, patience_ns) for n in leaders):
            return None  # an agent that has just come waits anew for a server that says nothing
        group = self.monitor.clique(voters_among(world, newest, world.names, who=votes), 0)
        document = world.document(group)
        if document is None or not has_majority(world, newest, group, who=votes):
            return None
        if not has_majority(world, document, group, who=votes):
            return None
        if not self._has_quorum(document, group):
            return None
        if document.paused and not self._may_stand(document, group):
            return None
        if all(name in world.config.never_lead for name in group):
            return None
        return document if self._could_serve(document, group) else None

    def _may_stand(self, document: ClusterDocument, group: Sequence[NodeId]) -> bool:
        """Return whether in a paused cluster the one that may stand by itself could win."""
        name = document.primary
        if name not in group:
            return False
        data = self._world.nodes[name].server.data
        newest = self._last is None or (data is not None and data.holds(self._last.record))
        return newest and self._usable(self._world.nodes[name])

    def _could_serve(self, document: ClusterDocument, group: Sequence[NodeId]) -> bool:
        """Return whether a primary among a group could begin: strictly, only with k standbys."""
        if document.durability is not Durability.STRICT:
            return True
        nodes = [self._world.nodes[name] for name in group]
        usable = sum(not node.witness and self._usable(node) for node in nodes)
        return usable > document.sync.k

    def _has_quorum(self, document: ClusterDocument, group: Sequence[NodeId]) -> bool:
        """Return whether a group has a data quorum, and with it every acknowledged commit."""
        world = self._world
        holding = [
            name
            for name in group
            if not world.nodes[name].witness and self._usable(world.nodes[name])
        ]
        if self._last is not None:
            record = self._last.record
            holding = [
                name
                for name in holding
                if (data := world.nodes[name].server.data) is not None and data.holds(record)
            ]
        if document.primary in holding:
            return True
        listed = [
            name for name in vouching(world, document, group) if self._usable(world.nodes[name])
        ]
        quorum = len(listed) >= document.sync.read_quorum and bool(document.sync.members)
        return quorum and any(name in holding for name in listed)

    def _usable(self, node: SimNode) -> bool:
        server = node.server
        return (
            server.data_state is DataState.PRESENT
            and not server.frozen
            and not server.hung
            and not server.ill
        )

    def _flows(self, primary: NodeId, document: ClusterDocument) -> bool:
        world = self._world
        writers = any(c.active and c.config.home is None for c in world.clients)
        members = [world.nodes[name] for name in document.members()]
        return writers and self.monitor.all_ok_around(primary, members)


def _term(event: Event) -> int:
    term = dict(event.fields)["term"]
    assert isinstance(term, int)
    return term
