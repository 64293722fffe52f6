"""One server at a time: acknowledging, writable, guarded; each timeline number minted once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metako.model.ids import NodeId, TimelineId
from metako.model.postgres import ProcessState
from sim.monitor import clocks_off
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.postgres.commits import Commit
    from sim.postgres.server import SimServer
    from sim.world import World

DYING_NS = 60_000_000
"""A server that is being killed may be seen writable for as long as PostgreSQL needs to die."""


class Single(Watcher):
    """See the module's docstring."""

    name = "single"

    def __init__(self, world: World) -> None:
        self._world = world
        self._newest = (TimelineId(0), "", NodeId(""))  # line of the newest acknowledgement
        self._minted: dict[TimelineId, NodeId] = {}
        self._branches: dict[str, NodeId] = {}  # branch → whose promotion made it
        self._writable: set[NodeId] = set()

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        """An acknowledgement is never of an older line than one before it.

        One exception is none: a commit that enough standbys had flushed before they promised is
        part of the next line, and its server may learn of it late, after a pause. It is lost to
        nobody.
        """
        record = commit.record
        tli, branch, node = self._newest
        if branch == record.branch and node == server.node:
            return
        if record.tli < tli and self._kept(node, commit):
            self._world.note(server.node, "late_acknowledgement", _shown(commit))
            return
        if record.tli < tli or (record.tli == tli and branch != record.branch):
            raise ViolationError(
                "one_acknowledger",
                f"{server.node} acknowledged {_shown(commit)} on timeline {record.tli}, after "
                f"{node} had acknowledged on timeline {tli}",
                (server.node, node),
            )
        self._newest = (record.tli, record.branch, server.node)

    def _kept(self, node: NodeId, commit: Commit) -> bool:
        data = self._world.nodes[node].server.data
        return data is not None and data.holds(commit.record)

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        """Every timeline number is promoted to once, by whomever, under an armed guard."""
        if not server.guard.armed_term and not server.being_killed:
            raise ViolationError(
                "guarded_promotion",
                f"{server.node} was promoted to timeline {tli} although no guard would end it",
                (server.node,),
            )
        if tli in self._minted:
            raise ViolationError(
                "one_timeline",
                f"{server.node} promoted to timeline {tli}, which {self._minted[tli]} had made",
                (server.node, self._minted[tli]),
            )
        self._minted[tli] = server.node
        self._branches[server.branch] = server.node

    def server_changed(self, server: SimServer) -> None:
        """At most one server is writable, and none that was not promoted."""
        if not server.writable:
            self._writable.discard(server.node)
            return
        if server.node not in self._writable:
            if self._branches.get(server.branch) != server.node:
                raise ViolationError(
                    "standby_first",
                    f"{server.node} is writable without a promotion of its own",
                    (server.node,),
                )
            self._writable.add(server.node)
        if len(self._writable) > 1:
            self._two(server.node)

    def sampled(self, nodes: object) -> None:
        if len(self._writable) > 1:
            self._two(min(self._writable))

    def _two(self, newest: NodeId) -> None:
        world = self._world
        counted = [name for name in sorted(self._writable) if self._counts(name)]
        if len(counted) > 1 and not clocks_off(self._world):
            raise ViolationError(
                "one_writable",
                f"{' and '.join(counted)} are both writable ({newest} is the last one to change)",
                counted,
            )
        if len(counted) < len(self._writable):
            world.note(newest, "two_writable_excused", " and ".join(sorted(self._writable)))

    def _counts(self, name: NodeId) -> bool:
        node = self._world.nodes[name]
        guard = node.guard
        working = guard is not None and guard.answers
        dying = node.server.process is ProcessState.DYING
        excused = self._world.heap.now_ns < node.excused_until_ns
        return working and not excused and not dying and not node.suspended


def _shown(commit: Commit) -> str:
    return ", ".join(value for _, value in commit.values)
