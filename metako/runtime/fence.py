"""Keeping the guard's deadline: the newest one wins, and none waits behind an older one.

The engine renews the right to be writable several times a second. Telling the guard is a round
trip over a socket and must not hold up the engine, so it happens here. A lost guard ends the task:
the kernel has then told PostgreSQL to quit, and the node starts over.
"""

from __future__ import annotations

import trio

from metako.election.wants import GuardDeadline
from metako.model.events import Severity
from metako.observability.logs import log
from metako.postgres.guardlink import GuardRefusedError
from metako.postgres.process import Guard


class FenceKeeper:
    """Tells one guard the newest deadline."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._wanted: GuardDeadline | None = None  # newest; None once it was told
        self._changed = trio.Event()

    def set_deadline(self, deadline: GuardDeadline) -> None:
        self._wanted = deadline
        self._changed.set()

    async def run(self) -> None:
        """Tell the guard until cancelled; the deadline it was told last stays in force.

        Raises:
            GuardLostError: the guard is gone. PostgreSQL was told to quit by the kernel.
        """
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                continue
            try:
                if wanted.deadline_boot_ns is None:
                    await self._guard.disarm(wanted.term)
                else:
                    await self._guard.arm(wanted.term, wanted.deadline_boot_ns)
            except GuardRefusedError as error:
                # It has fenced this term or armed a higher one: either way nothing is writable
                # that should not be, and the engine will see the server gone.
                log(Severity.WARNING, f"the guard refused: {error}", term=wanted.term)
