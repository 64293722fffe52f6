"""The members' replication slots, looked after as `metako.postgres.background` does.

In: the names of the members, word that the server has come up in another role. Out: slots made and
dropped, by production's own policy. A server that does not answer is tried again.
"""

from __future__ import annotations

from collections.abc import Iterable

from metako.model.ids import NodeId
from metako.postgres.slots import SlotPolicy, SlotSeen
from metako.postgres.syncnames import application_name
from sim.heap import NS_PER_MS, NS_PER_S
from sim.postgres.slots import WalStatus, wal_status
from sim.postgres.steps import Executor
from sim.postgres.task import SqlError, Steps

INTERVAL_NS = 5 * NS_PER_S
PAUSE_NS = 200 * NS_PER_MS


def slot_of(node: NodeId) -> str:
    """Return the name of a member's slots."""
    return application_name(b"simulated", node)


class SlotKeeper:
    """See the module's docstring. Its owner runs `work` as a task and wakes it when it is due."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._policy = SlotPolicy()
        self._wanted: frozenset[str] | None = None  # None: the members are not known
        self._answers: bool | None = None  # as a standby or not; None: it takes no SQL
        self.due = False

    def want(self, nodes: Iterable[NodeId]) -> bool:
        """Replace the members; return whether they are others than before."""
        own = self._executor.server.node
        wanted = frozenset(slot_of(node) for node in nodes if node != own)
        self.due = self.due or wanted != self._wanted
        self._wanted = wanted
        return self.due

    def observed(self, answers: bool | None) -> bool:
        """Take note of whether the server is a standby; return whether there may be work."""
        self.due = self.due or (answers is not None and answers != self._answers)
        self._answers = answers
        return self.due

    def work(self) -> Steps:
        """Work until cancelled."""
        while True:
            if not self.due:
                yield INTERVAL_NS
            self.due = False
            if self._answers is None or self._wanted is None:
                continue
            try:
                yield from self._executor.session()
                self._keep(self._wanted)
            except SqlError:
                yield PAUSE_NS
                self.due = True

    def _keep(self, wanted: frozenset[str]) -> None:
        server = self._executor.server
        data, in_recovery = server.data, server.in_recovery
        if data is None or in_recovery is None:
            return
        seen = [
            SlotSeen(
                slot.name,
                active=slot.sender is not None,
                reserved=slot.restart_lsn > 0,
                lost=slot.sender is None and wal_status(server, slot) is WalStatus.LOST,
            )
            for slot in data.slots.values()
        ]
        changes = self._policy.changes(
            seen, wanted, in_recovery=in_recovery, now_s=server.heap.now_ns / NS_PER_S
        )
        for name in changes.drop:
            server.drop_slot(name)
        for name in changes.create:
            server.create_slot(name, reserve=False)
