"""What the runtime needs of the world outside, as Protocols with more than one implementation.

The runtime carries out the engine's decisions through these; the real ones drive PostgreSQL and
the disk, a simulator's models of them stand behind the same methods. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import trio

from metako.model.durable import HardState
from metako.model.ids import NodeId
from metako.model.postgres import PostgresObserved, PostgresTarget
from metako.postgres.steps import StepFailed, StepFinished

PostgresReport = PostgresObserved | StepFinished | StepFailed


class PostgresPort(Protocol):
    """One PostgreSQL server, driven towards a target."""

    @property
    def observations(self) -> trio.MemoryReceiveChannel[PostgresReport]:
        """What was seen and how steps went. Observations that nobody read are replaced."""
        ...

    def set_target(self, target: PostgresTarget) -> None:
        """Replace the target; takes effect at once."""
        ...

    def set_members(self, nodes: Iterable[NodeId]) -> None:
        """Name the nodes with data: whose standbys are reported, and who has a slot here."""
        ...

    def poke(self) -> None:
        """Observe now instead of at the next interval."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the server until cancelled; the server is then left as it is."""
        ...


class RecordStore(Protocol):
    """The open durable record of one node. Opening it is each implementation's own."""

    @property
    def durable(self) -> HardState | None:
        """Return the newest durable record; None if nothing (readable) is there."""
        ...

    def write(self, state: HardState) -> None:
        """Make the record durable before this returns.

        Raises:
            StateError: the disk refused. The record may or may not be there; nothing that
                depends on it may be done, and every later write raises too.
            AssertionError: the record would go back, or is another node's; nothing was written.
        """
        ...

    def close(self) -> None:
        """Write nothing more. Does nothing the second time."""
        ...
