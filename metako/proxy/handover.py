"""The elder's half of a worker's replacement: it hands its listeners and sessions to its heir.

    asked ──▶ willed ──▶ taken over ──▶ drained
      ▲          │ the heir failed
      └──────────┘

A worker hears at a Unix socket of its own whoever is to take its place: a process that the agent
has started for that. It is given the listening sockets, so that no client in their backlog is
refused, and then every session, as soon as that is at rest between two transactions: the client's
connection, the server's, and what is known of the session. Neither side of it notices anything.

What cannot be handed on is what encrypts. A client on TLS stays until it leaves or the time for
draining is over; a server's connection on TLS is closed, and the heir rebuilds the session at the
same server, if that loses nothing.

Invariant: at each moment one process reads a session's connections. The elder accepts clients
until the heir says that it does. If the heir fails before, nothing has happened.

Deliberately unknown here: who starts heirs, and why.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from metako import unixsocket
from metako.proxy import sockets
from metako.proxy.descriptors import Descriptors
from metako.proxy.estate import Ask, Estate, Ready, Server, Will, decode, encode
from metako.proxy.frames import WorkerEvent
from metako.proxy.jsonline import FrameError

if TYPE_CHECKING:
    from metako.proxy.board import Board
    from metako.proxy.entry import Departed
    from metako.proxy.serverlogin import LogIn
    from metako.proxy.who import Who
    from metako.proxy.worklock import WorkerLock

ASK_TIMEOUT_S = 2.0  # for an heir's first word
READY_TIMEOUT_S = 10.0  # for its second, on a busy machine
REST_POLL_S = 0.25
_FAILED = (*sockets.BROKEN, FrameError, trio.TooSlowError)


class Elder:
    """A worker in its relation to its heir. `run` is its task.

    Args:
        path: where heirs are heard.
        address: host and port that are listened on, as configured and as they are.
        lock: which says that this worker takes connections; given up to the heir.
    """

    def __init__(
        self,
        board: Board,
        path: Path,
        address: tuple[str, int],
        listeners: Sequence[socket.socket],
        lock: WorkerLock,
    ) -> None:
        self.taken_over = trio.Event()  # set once an heir takes connections
        self.gave_listeners = False
        self._board = board
        self._path = path
        self._address = address
        self._listeners = listeners
        self._lock = lock

    async def run(self) -> None:
        """Hear heirs until one has taken over, and stay in touch with it until cancelled."""
        try:
            with unixsocket.listening(self._path) as listener:
                heir = await self._wait_for_heir(listener)
        except OSError as error:
            detail = (("error", error.strerror or str(error)),)
            text = "this worker cannot be replaced without its clients noticing"
            self._board.report(WorkerEvent("ERROR", text, detail))
            return
        try:
            self.taken_over.set()
            self._board.depart(heir)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._have_others_depart)
                with contextlib.suppress(*_FAILED):
                    await heir.receive()  # it says nothing more: this is its end
                nursery.cancel_scope.cancel()
            self._board.heir_went()
        finally:
            heir.close()

    async def _have_others_depart(self) -> None:
        """Look for those who have come to rest since, and say nothing."""
        while True:
            await trio.sleep(REST_POLL_S)
            self._board.hold_sessions()

    async def _wait_for_heir(self, listener: socket.socket) -> Descriptors:
        while True:
            heir = Descriptors(await sockets.accept(listener))
            try:
                if await self._let_take_over(heir):
                    return heir
            except BaseException:
                heir.close()
                raise
            heir.close()

    async def _let_take_over(self, heir: Descriptors) -> bool:
        """Return whether the heir takes connections now. If not, it does not take any either."""
        board = self._board
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                ask = decode((await heir.receive())[0])
            if not isinstance(ask, Ask):
                return False
            alike = (ask.host, ask.port) == self._address
            self.gave_listeners = alike
            files = [one.fileno() for one in self._listeners] if alike else []
            will = Will(
                len(files),
                board.numbers_end(),
                board.cancels.numbers_end(),
                board.holding.paused(),
            )
            self._lock.lend()
            with trio.fail_after(READY_TIMEOUT_S):
                await heir.send(lambda: (encode(will), files))
                if isinstance(decode((await heir.receive())[0]), Ready):
                    return True
        except _FAILED:
            pass
        # If somebody else has the lock by now, that one takes connections, and so do we: the
        # launcher, which has started both, ends the older one.
        with contextlib.suppress(OSError):
            self._lock.take_back()
        board.report(WorkerEvent("WARNING", "a worker that was to replace this one has failed"))
        return False


async def bequeath(
    board: Board, client: socket.socket, who: Who, login: LogIn | None, left: Departed
) -> bool:
    """Hand a session to the heir, and let go of its server; False if there is no heir any more.

    The client's socket is the caller's to be closed, whatever is returned. If cancelled, it is not
    known whether the heir has it.
    """
    heir = board.heir
    try:
        if heir is None:
            return False
        age_s = trio.current_time() - who.since
        estate = Estate(
            who=replace(who, since=-age_s),
            movable=left.movable,
            long_keys=left.long_keys,
            login=login,
            issued=left.issued,
            snapshot=left.snapshot,
        )

        def message() -> tuple[bytes, list[int]]:
            # At the last moment: until then the board may close the server's connection.
            server = left.server
            if server is None:
                return encode(estate), [client.fileno()]
            leg = left.leg
            pooled = leg.pool_key is not None
            along = Server(leg.route, leg.cancel_key, pooled, leg.opened_ns)
            return encode(replace(estate, server=along)), [client.fileno(), server.fileno()]

        await heir.send(message)
        board.departed += 1
        return True
    except sockets.BROKEN:
        return False
    finally:
        # Of what went along this is one of two descriptors; a goodbye would be the heir's.
        left.leg.close(goodbye=left.server is None)
