"""The agent's part of a console: it asks all workers of its node, and makes one answer of theirs.

In: commands that a worker hands on, and the workers that are connected. Out: one part for each
command, in bounded time; a worker that did not answer by then is named in it.

RELOAD is the agent's own: it reads its configuration, and the workers are asked once they have been
sent what is new, so the answer says that it is in force.

Deliberately unknown here: sockets, and what a command does in a worker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from metako.proxy.console import Command, Failed, Verb
from metako.proxy.consoleframes import (
    ROOM_BYTES,
    ConsoleAsked,
    ConsoleTold,
    Part,
    PartTold,
    PartWanted,
    merged,
)
from metako.proxy.frames import FromAgent, Hello
from metako.proxy.limits import Tuning

ANSWER_TIMEOUT_S = 2.0  # for all workers together
COMMANDS_MAX = 8  # at a time; more are refused
ROW_EXTRA_BYTES = 8  # that a row grows by with the number of its worker


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a configuration that was read anew says."""

    tuning: Tuning | None  # the share of each worker; None: the file cannot be used
    notices: tuple[str, ...] = ()
    error: str = ""  # why it cannot


class Peer(Protocol):
    """A worker's connection."""

    def post(self, *frames: FromAgent) -> None:
        """Send frames one after the other, soon, unless the connection ends before."""


Reload = Callable[[], Awaitable[Reloaded]]


async def _cannot_reload() -> Reloaded:
    await trio.lowlevel.checkpoint()
    return Reloaded(None, error="this agent has no configuration file")


@dataclass(slots=True, eq=False)
class _Open:
    """A command that is being answered."""

    waits_for: set[Peer]
    parts: dict[Peer, Part] = field(default_factory=dict)
    done: trio.Event = field(default_factory=trio.Event)


class ConsoleDesk:
    """See the module's docstring."""

    def __init__(self, reload: Reload = _cannot_reload) -> None:
        self._reload = reload
        self._workers: dict[Peer, Hello] = {}
        self._open: dict[int, _Open] = {}
        self._last_id = 0
        self._slots = trio.Semaphore(COMMANDS_MAX)

    # -- for the connections ------------------------------------------------------------------

    def join(self, peer: Peer, hello: Hello) -> None:
        """A worker is connected."""
        self._workers[peer] = hello

    def leave(self, peer: Peer) -> None:
        """It is not any more; nobody waits for it."""
        self._workers.pop(peer, None)
        for command in self._open.values():
            self._waited_for(command, peer)

    def receive(self, peer: Peer, told: PartTold) -> None:
        """Take the part of a worker; one that comes too late is nobody's."""
        command = self._open.get(told.id)
        if command is not None and peer in command.waits_for:
            command.parts[peer] = told.part
            self._waited_for(command, peer)

    async def answer(self, peer: Peer, asked: ConsoleAsked) -> None:
        """Answer what a worker hands on. If cancelled, nobody hears of the answer."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            part = Part(Failed("too many consoles at the same time; try again"))
        else:
            try:
                part = await self._do(asked.command)
            finally:
                self._slots.release()
        peer.post(ConsoleTold(asked.id, part))

    # -- asking -------------------------------------------------------------------------------

    async def _do(self, command: Command) -> Part:
        tuning: Tuning | None = None
        notices: tuple[str, ...] = ()
        if command.verb is Verb.RELOAD:
            reloaded = await self._reload()
            tuning, notices = reloaded.tuning, reloaded.notices
            if tuning is None:
                return Part(Failed("the configuration was not read", hint=reloaded.error))
        part = await self._ask_all(command, tuning)
        return Part(part.outcome, (*notices, *part.notices), part.count)

    async def _ask_all(self, command: Command, tuning: Tuning | None) -> Part:
        workers = dict(self._workers)
        asked = {peer: hello for peer, hello in workers.items() if hello.console}
        self._last_id += 1
        number = self._last_id
        self._open[number] = waiting = _Open(set(asked))
        room = ROOM_BYTES // max(len(asked), 1)
        wanted = PartWanted(number, command, room - room // ROW_EXTRA_BYTES)
        for peer in asked:
            peer.post(*(() if tuning is None else (tuning,)), wanted)
        try:
            if asked:
                with trio.move_on_after(ANSWER_TIMEOUT_S):
                    await waiting.done.wait()
        finally:
            del self._open[number]
        parts = [(workers[peer].index, part) for peer, part in waiting.parts.items()]
        missing = sorted(
            hello.index for peer, hello in workers.items() if peer not in waiting.parts
        )
        return merged(command, sorted(parts, key=lambda one: one[0]), missing)

    def _waited_for(self, command: _Open, peer: Peer) -> None:
        command.waits_for.discard(peer)
        if not command.waits_for:
            command.done.set()
