"""A worker's part of consoles: what its own ask of the agent, and what the agent wants of it.

Invariant: a question is answered by one connection or lost with it; nothing is asked twice, since
a command may do something.

Deliberately unknown here: sockets, and what a command does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from metako.proxy.console import Command, Failed
from metako.proxy.consoleframes import ConsoleAsked, ConsoleTold, Part, PartTold, PartWanted
from metako.proxy.limits import Tuning
from metako.proxy.openquestions import OpenQuestions

AGENT_TIMEOUT_S = 4.0  # the agent itself gives workers two seconds, and reads a file at most
QUESTIONS_MAX = 16  # of this worker's consoles at a time
PARTS_MAX = 64  # that wait to be sent; the agent has no more commands under way than a few


class Office(Protocol):
    """Does in this worker what a command says. Never waits, never raises."""

    def tune(self, tuning: Tuning) -> None:
        """Go by other limits from now on."""

    def do(self, command: Command, room: int) -> Part:
        """Return what came of a command; its rows take no more than `room` bytes."""


class ConsoleAsks:
    """See the module's docstring. `wake` is called when there is something to send."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.office: Office | None = None  # None: nothing is done for consoles
        self._wake = wake
        self._answers = False  # an agent is connected that knows consoles
        self._unsent: deque[ConsoleAsked | PartTold] = deque()
        self._open = OpenQuestions[Part]()

    async def ask(self, command: Command) -> Part | None:
        """Return what all workers of the node say; None if there is no agent that asks them.

        If cancelled, or lost with its connection, the command may have been done all the same.
        """
        if not self._answers:
            return None
        if len(self._open) >= QUESTIONS_MAX:
            return Part(Failed("too many consoles at the same time; try again"))

        def send(number: int) -> None:
            self._unsent.append(ConsoleAsked(number, command))
            self._wake()

        part: Part | None = None
        with trio.move_on_after(AGENT_TIMEOUT_S):
            part = await self._open.ask(send)
        lost = Part(Failed("the agent of this node did not answer", hint="It may have been done."))
        return part or lost

    # -- for the connection -------------------------------------------------------------------

    def receive(self, frame: Tuning | PartWanted | ConsoleTold) -> None:
        """Take what the agent says."""
        match frame:
            case Tuning():
                self._answers = True
                if self.office is not None:
                    self.office.tune(frame)
            case PartWanted():
                if self.office is not None and len(self._unsent) < PARTS_MAX:
                    self._unsent.append(
                        PartTold(frame.id, self.office.do(frame.command, frame.room))
                    )
                    self._wake()
            case ConsoleTold():
                self._open.answer(frame.id, frame.part)

    def disconnected(self) -> None:
        """The connection is over, and with it all that was asked over it."""
        self._answers = False
        self._unsent.clear()
        self._open.lose()

    def next_unsent(self) -> ConsoleAsked | PartTold | None:
        """Return what is to be sent next."""
        return self._unsent.popleft() if self._unsent else None
