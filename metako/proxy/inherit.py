"""The heir's half of a worker's replacement; see `handover` for the whole of it.

In: what the elder hands over. Out: listening sockets, and sessions that go on as they were.

Deliberately unknown here: who the elder is, and why it is replaced.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from metako import unixsocket
from metako.proxy import sockets
from metako.proxy.board import Board, session_failure
from metako.proxy.descriptors import Descriptors
from metako.proxy.entry import Entry
from metako.proxy.estate import Ask, Estate, Ready, Will, decode, encode
from metako.proxy.frames import WorkerEvent
from metako.proxy.jsonline import FrameError
from metako.proxy.legs import Leg
from metako.proxy.relay import Relay
from metako.proxy.session import Session

WILL_TIMEOUT_S = 2.0
TABLE_TIMEOUT_S = 1.0  # for the first routing table, without which no server is known
_FAILED = (*sockets.BROKEN, FrameError, trio.TooSlowError)


@dataclass(slots=True, eq=False)
class Inheritance:
    """What the elder has promised; whoever has it closes it."""

    elder: Descriptors
    will: Will
    listeners: list[socket.socket]  # none: the heir has to listen by itself

    def close(self) -> None:
        self.elder.close()


async def ask_elder(path: Path, host: str, port: int) -> Inheritance | None:
    """Return what the worker at `path` leaves us, None if there is nobody or it cannot.

    If cancelled, or without an inheritance, nothing is left open.
    """
    try:
        elder = Descriptors(unixsocket.connect(path))
    except OSError:
        return None
    try:
        with trio.fail_after(WILL_TIMEOUT_S):
            await elder.send(lambda: (encode(Ask(host, port)), ()))
            message, files = await elder.receive()
        listeners = _sockets(files)
        will = decode(message)
        if isinstance(will, Will) and will.listeners == len(listeners):
            return Inheritance(elder, will, listeners)
        sockets.close_all(listeners)
    except _FAILED:
        pass
    except BaseException:
        elder.close()
        raise
    elder.close()
    return None


async def inherit(inheritance: Inheritance, board: Board, sessions: trio.Nursery) -> None:
    """Tell the elder that we take connections, and begin to take its sessions.

    Told once a routing table has told us where they go, or after `TABLE_TIMEOUT_S`.
    """
    with trio.move_on_after(TABLE_TIMEOUT_S):
        await board.informed.wait()
    with contextlib.suppress(*sockets.BROKEN):
        await inheritance.elder.send(lambda: (encode(Ready()), ()))
    sessions.start_soon(_take_sessions, inheritance, board, sessions)


async def _take_sessions(inheritance: Inheritance, board: Board, sessions: trio.Nursery) -> None:
    """Start all sessions that the elder hands over, until it has none any more."""
    count = 0
    try:
        while True:
            message, files = await inheritance.elder.receive()
            count += _take_session(board, message, _sockets(files), sessions)
    except _FAILED:
        pass  # mostly the elder's end
    finally:
        inheritance.close()
    board.report(WorkerEvent("INFO", "the proxy worker before has ended", (("sessions", count),)))


def _take_session(
    board: Board, message: bytes, files: list[socket.socket], sessions: trio.Nursery
) -> bool:
    """Start the session of an estate; False, and nothing is left open, if it is none."""
    try:
        estate = decode(message)
        if isinstance(estate, Estate) and len(files) == 1 + (estate.server is not None):
            session, excuse = _heir_of(board, estate, *files)
            sessions.start_soon(session.go_on, excuse)
            return True
    except FrameError:
        pass
    except Exception as error:  # noqa: BLE001 - one session's bug must not end all the others
        board.report(session_failure(error))
    sockets.close_all(files)
    board.report(WorkerEvent("ERROR", "a session of the worker before was not understood"))
    return False


def _heir_of(
    board: Board, estate: Estate, client: socket.socket, server: socket.socket | None = None
) -> tuple[Session, bytes]:
    """Return the session, and what its client is told if it cannot go on."""
    who = replace(estate.who, since=trio.current_time() + estate.who.since)
    login, source = estate.login, board.credentials
    entry = Entry(None, who.database)
    if login is not None:
        entry = Entry.of(
            login,
            who.user,
            who.database,
            movable=estate.movable,
            long_keys=estate.long_keys,
            forget=_nothing if source is None else source.forget,
        )
    relay = Relay(board, client, entry, estate.snapshot)
    leg = None if server is None else _leg(board, estate, entry, server)
    issued = None
    if estate.issued is not None:
        issued = board.cancels.adopt(*estate.issued, relay.locate)
    excuse = relay.take_over(leg, issued)
    return Session.inherited(board, client, who, login, relay), excuse


def _nothing(_user: str) -> None:
    """Forget nothing: every login is the server's business."""


def _leg(board: Board, estate: Estate, entry: Entry, server: socket.socket) -> Leg | None:
    """Return the connection to the server; None, and it is closed, if that was deposed since."""
    found = estate.server
    assert found is not None
    if board.routes.last() != found.route:
        sockets.abort(server)
        return None
    key = entry.pool_key if found.pooled else None
    leg = Leg(board, server, found.route, None, found.cancel_key, key, found.opened_ns)
    board.hold(leg)
    if key is not None:
        board.legs.pool.adopt(key)
    return leg


def _sockets(files: list[int]) -> list[socket.socket]:
    found: list[socket.socket] = []
    for number, file in enumerate(files):
        try:
            sock = socket.socket(fileno=file)
        except OSError:
            for left in files[number:]:
                with contextlib.suppress(OSError):
                    os.close(left)
            sockets.close_all(found)
            raise FrameError("not a socket") from None
        sock.setblocking(False)
        found.append(sock)
    return found
