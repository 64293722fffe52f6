"""How the run of an agent is to end: with everything it runs, or leaving that to the next agent.

In: signals. Out: an event that the node waits for, and which of the two it is. A stop that comes
while the agent is about to be replaced wins: nothing is left running then.

Deliberately unaware of what is stopped, and in which order.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import trio

from metako.model.events import Severity
from metako.observability.logs import log

REPLACE_TIMEOUT_S = 3.0
"""For closing what the next agent opens again; by then the lease of a primary is over anyway."""


class Ending:
    """Of one process."""

    def __init__(self) -> None:
        self.wanted = trio.Event()
        self.replaced = False  # PostgreSQL, guard and proxy are left to the next agent

    def stop(self) -> None:
        """Have everything stopped."""
        self.replaced = False
        self.wanted.set()

    def replace(self) -> None:
        """Have this agent make way for another one; does nothing if it is to stop already."""
        if not self.wanted.is_set():
            self.replaced = True
            self.wanted.set()

    async def watch_signals(self) -> None:
        """Take signals until cancelled."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(*numbers) as signals:
                async for number in signals:
                    self._take(signal.Signals(number), nursery)

    def _take(self, number: signal.Signals, nursery: trio.Nursery) -> None:
        match number:
            case signal.SIGHUP:
                log(Severity.WARNING, "SIGHUP: settings are read at the start only; restart")
            case signal.SIGUSR2:
                log(Severity.INFO, "SIGUSR2: making way for a new agent, PostgreSQL goes on")
                self.replace()
                nursery.start_soon(self._end_if_it_hangs)
            case _:
                log(Severity.INFO, f"{number.name}: stopping")
                self.stop()

    async def _end_if_it_hangs(self) -> None:
        """End this process as a crash would, which the next agent is used to."""
        await trio.sleep(REPLACE_TIMEOUT_S)
        if self.replaced:  # else a stop came after all, which has a limit of its own
            log(Severity.ERROR, f"not done after {REPLACE_TIMEOUT_S:g} s: this agent ends at once")
            os.kill(os.getpid(), signal.SIGKILL)


def become_new_agent() -> NoReturn:
    """Begin this process anew, as it was started, with the program that is installed now.

    The process keeps its number, by which whoever watches over it knows it. Nothing that it had
    open is left: all descriptors are closed by it.

    Raises:
        OSError: the program is gone. Nothing has changed.
    """
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the very same
