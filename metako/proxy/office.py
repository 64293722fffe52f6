"""What a worker does for consoles, its own and those of the other workers of its node.

`Access` is for its own: it has the agent ask all workers, or answers for this one alone while there
is no agent, and says so. `WorkerOffice` does a command in this worker; it never waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from metako.proxy.board import Board, session_failure
from metako.proxy.console import Command, Done, Failed, Shown, Verb
from metako.proxy.consoleframes import ROOM_BYTES, Part, fitting, merged, no_such_client
from metako.proxy.limits import Tuning
from metako.proxy.views import Views

_KILLED = "terminating connection due to administrator command"
_ALONE = "the agent of this node is not there: this is what one worker alone says"
_OF_ALL_ALIKE = (Shown.HELP, Shown.VERSION)


class WorkerOffice:
    """See the module's docstring. Implements `consoleasks.Office`."""

    def __init__(
        self, board: Board, views: Views, index: int, on_tuning: Callable[[Tuning], None]
    ) -> None:
        self._board = board
        self._views = views
        self._index = index
        self._on_tuning = on_tuning

    def tune(self, tuning: Tuning) -> None:
        self._on_tuning(tuning)
        self._board.tune(tuning)

    def do(self, command: Command, room: int) -> Part:
        """Return what came of a command; its rows take no more than `room` bytes."""
        try:
            return self._do(command, room)
        except Exception as error:  # noqa: BLE001 - no bug of the console may end the clients
            self._board.report(session_failure(error))
            return Part(Failed("the command has failed unexpectedly", hint="See the agent's log."))

    def _do(self, command: Command, room: int) -> Part:
        match command.verb:
            case Verb.SHOW:
                assert command.shown is not None
                return fitting(Part(self._views.show(command.shown)), room)
            case Verb.KILL:
                return Part(Done(), count=self._kill(command))
            case Verb.RELOAD:
                return Part(Done())  # the tuning came before
            case Verb.PAUSE:
                self._board.holding.pause(command.database)
                self._board.hold_sessions()
                return Part(Done())
            case Verb.RESUME:
                return Part(Done(), count=int(self._board.holding.resume(command.database)))

    def _kill(self, command: Command) -> int:
        """End clients; return how many."""
        count = 0
        for session in self._board.clients():
            who = session.who
            if who is None:
                continue
            if command.client is not None:
                wanted = command.client == f"{self._index}.{who.number}"
            else:
                wanted = command.database == who.database
            if wanted:
                session.end(_KILLED)
                count += 1
        return count


class Access:
    """See the module's docstring."""

    def __init__(
        self,
        office: WorkerOffice,
        index: int,
        ask_all: Callable[[Command], Awaitable[Part | None]],
    ) -> None:
        self._office = office
        self._index = index
        self._ask_all = ask_all

    async def do(self, command: Command) -> Part:
        """Return what came of a command, in bounded time."""
        if command.shown in _OF_ALL_ALIKE:
            await trio.lowlevel.checkpoint()
            return self._office.do(command, ROOM_BYTES)
        part = await self._ask_all(command)
        if part is not None:
            return part
        if command.verb is Verb.RELOAD:
            return Part(Failed("the agent of this node is not there, and reads no configuration"))
        own = merged(command, [(self._index, self._office.do(command, ROOM_BYTES))], ())
        if command.client is not None and not own.count:
            return Part(no_such_client(command.client), (_ALONE,))
        return Part(own.outcome, (_ALONE, *own.notices), own.count)
