"""A PostgreSQL port without PostgreSQL, for a witness: it votes and keeps the document."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from metako.model.ids import NodeId
from metako.model.postgres import DataState, PostgresObserved, PostgresTarget, ProcessState
from metako.ports import PostgresReport


class NoPostgres:
    """Reports once that there is no server; every target is met. See `ports.PostgresPort`."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[PostgresReport](1)

    @property
    def observations(self) -> trio.MemoryReceiveChannel[PostgresReport]:
        return self._receive

    def set_target(self, target: PostgresTarget) -> None:
        """Accept any target: there is nothing to do for it."""

    def set_members(self, nodes: Iterable[NodeId]) -> None:
        """Accept any members: nobody replicates from here."""

    def poke(self) -> None:
        """There is nothing to look at."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._send.send(PostgresObserved(data=DataState.NONE, process=ProcessState.STOPPED))
        task_status.started()
        await trio.sleep_forever()
