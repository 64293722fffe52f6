"""No acknowledged write is lost, none is there twice, and nothing that failed is there.

An acknowledgement counts when the session's level was at least `on` and the wait was not cancelled.
A line of WAL that takes over must contain every acknowledged record at the moment of its promotion
and, at the latest, when it acknowledges for the first time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.document import Durability
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, TimelineId
from metako.model.lsn import format_lsn
from metako.model.orders import Order, OrderKind
from sim.postgres.commits import Commit, SyncLevel
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.postgres.data import Data
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

COUNTED = (SyncLevel.ON, SyncLevel.REMOTE_APPLY)


class Durable(Watcher):
    """See the module's docstring."""

    name = "durable"

    def __init__(self, world: World) -> None:
        self._world = world
        self.commits: list[Commit] = []  # acknowledged, in order
        self.gaps_ns: list[int] = []  # times without an acknowledgement, longer than a second
        self._branch = ""  # of the newest acknowledgement
        self._tli = TimelineId(0)
        self._last_ns = 0
        self.forfeited = 0  # commits that were given up, where that is allowed
        self._may_lose = world.config.durability is Durability.ASYNC
        self._lossy: set[NodeId] = set()  # who leads without a data quorum, and has yet to promote
        self._lossy_tli = TimelineId(0)  # newest one that begins so; 0: none

    def ordered(self, node: Processes, order: Order) -> None:
        # Somebody has said that losing commits is better than waiting.
        self._may_lose = self._may_lose or order.kind is OrderKind.FAILOVER

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        if self._may_lose and any(e.name is EventName.COMMITS_MAY_BE_LOST for e in events):
            self._lossy.add(node.name)

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        if commit.level not in COUNTED:
            return
        if commit.record.tli < self._lossy_tli:
            self.forfeited += 1  # by a primary that had been given up with all that it had
            return
        late = (
            commit.record.tli < self._tli
        )  # then it is on the newer line already, or `single` says
        if commit.record.branch != self._branch and not late:
            self._check(server, "acknowledges on")
            self._branch, self._tli = commit.record.branch, commit.record.tli
        now = self._world.heap.now_ns
        if self._last_ns and now - self._last_ns > 1_000_000_000:
            self.gaps_ns.append(now - self._last_ns)
        self._last_ns = now
        self.commits.append(commit)

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        if server.node in self._lossy:
            self._forfeit(server)
            self._lossy_tli = tli
        self._lossy.clear()
        if tli > self._tli:
            self._check(server, "was promoted to")

    def _forfeit(self, server: SimServer) -> None:
        """Give up what a line of WAL lacks that takes over without a data quorum."""
        assert server.data is not None
        present = {id(record) for record in server.data.wal}
        kept = [commit for commit in self.commits if id(commit.record) in present]
        self.forfeited += len(self.commits) - len(kept)
        if len(kept) < len(self.commits):
            self._world.note(server.node, "commits_lost", f"{len(self.commits) - len(kept)}")
        self.commits = kept

    def _check(self, server: SimServer, does: str) -> None:
        data = server.data
        assert data is not None
        self.check_contains(data, server.node, f"{server.node} {does} a line without")

    def check_contains(self, data: Data, node: NodeId, what: str) -> None:
        """Raise unless the WAL has every acknowledged record, once.

        Raises:
            ViolationError: the first one that is missing.
        """
        present = {id(record) for record in data.wal}
        lost = [commit for commit in self.commits if id(commit.record) not in present]
        if lost:
            first = lost[0]
            values = ", ".join(value for _, value in first.values)
            raise ViolationError(
                "lost_write",
                f"{what} {len(lost)} acknowledged commits; the first is {values}, at "
                f"{format_lsn(first.record.end)} on timeline {first.record.tli}",
                (node,),
                [value for _, value in first.values],
            )

    def check_end(self, data: Data, node: NodeId) -> None:
        """Check the final WAL: nothing lost, nothing twice, nothing that failed.

        Raises:
            ViolationError: see the module's docstring.
        """
        self.check_contains(data, node, f"{node} has in the end lost")
        stored = [value for record in data.wal for _, value in record.values]
        present = set(stored)
        if len(stored) != len(present):
            raise ViolationError("lost_write", f"{node} has a value twice", (node,))
        for client in self._world.clients:
            wrong = sorted(client.failed_values & present)
            if wrong:
                raise ViolationError(
                    "failed_present",
                    f"{wrong[0]} was reported to {client.name} as failed and is on {node}",
                    (node,),
                )
