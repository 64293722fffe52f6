"""Keeping the guard's deadline: the newest one wins, and none waits behind an older one.

The engine renews the right to be writable several times a second. Telling the guard is a round
trip over a socket and must not hold up the engine, so it happens here.

A guard that is lost ends the run of the node, which then starts over: the kernel has told
PostgreSQL to quit. The engine first gets a moment to see it gone and to give up the lease, so that
nobody waits for it.
"""

from __future__ import annotations

import trio

from metako.election.wants import GuardDeadline
from metako.model.events import Severity
from metako.observability.logs import log
from metako.postgres.guardlink import GuardLostError, GuardRefusedError, GuardUnresponsiveError
from metako.postgres.process import Guard

LOST_GRACE_S = 0.5
"""From the loss of the guard to the end of the run. PostgreSQL needs much less to quit."""


class FenceKeeper:
    """Tells one guard the newest deadline."""

    def __init__(self, guard: Guard, margin_ns: int) -> None:
        """Tell `guard`, whose deadlines are `margin_ns` before the end of the lease itself."""
        self._guard = guard
        self._margin_ns = margin_ns
        self._wanted: GuardDeadline | None = None  # newest; None once it was told
        self._changed = trio.Event()
        self._armed = False  # the guard has confirmed a deadline and no withdrawal since
        self._renewed = trio.Event()  # set and replaced with every deadline that it confirms

    def set_deadline(self, deadline: GuardDeadline) -> None:
        self._wanted = deadline
        self._changed.set()

    async def wait_renewed(self, timeout_s: float) -> None:
        """Wait until the guard confirms one more deadline; return at once if it has none.

        Returns after `timeout_s` in any case: a leader that no majority answers renews nothing.
        """
        with trio.move_on_after(timeout_s):
            if self._armed:
                await self._renewed.wait()

    async def run(self) -> None:
        """Tell the guard until cancelled; the deadline it was told last stays in force.

        Raises:
            GuardLostError: the guard is gone. PostgreSQL was told to quit by the kernel.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await self._keep()

    async def _watch(self) -> None:
        await self._guard.wait_lost()
        await trio.sleep(LOST_GRACE_S)
        raise GuardLostError("the guard is gone")

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                continue
            try:
                if wanted.deadline_boot_ns is None:
                    await self._guard.disarm(wanted.term)
                    self._armed = False
                else:
                    deadline_ns = wanted.deadline_boot_ns
                    await self._guard.arm(wanted.term, deadline_ns, deadline_ns + self._margin_ns)
                    self._armed = True
                    self._renewed.set()
                    self._renewed = trio.Event()
            except GuardRefusedError as error:
                # It has fenced this term or armed a higher one: either way nothing is writable
                # that should not be, and the engine will see the server gone.
                log(Severity.WARNING, f"the guard refused: {error}", term=wanted.term)
            except GuardUnresponsiveError as error:
                # A guard that is stopped fences nothing. PostgreSQL must not outlive it.
                log(Severity.ERROR, f"{error}: ending it, and PostgreSQL with it")
                self._guard.end_guard()
            except GuardLostError:
                await trio.sleep_forever()  # `_watch` ends this
