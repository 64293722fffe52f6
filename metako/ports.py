"""What the runtime needs of the world outside, as Protocols with more than one implementation.

The runtime carries out the engine's decisions through these; the real ones drive PostgreSQL, a
simulator's model of it stands behind the same methods. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import trio

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
        """Name the nodes whose standbys are to be reported by a primary."""
        ...

    def poke(self) -> None:
        """Observe now instead of at the next interval."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the server until cancelled; the server is then left as it is."""
        ...
