"""Requests to cancel a statement: which server they are for, and how they get there.

A client is given the cancel key of the first server that its session was on, and keeps it when the
session moves on to another. So a worker remembers what it has given to whom, as long as that
session lasts, and puts the key of the present server in the place of it.

A request for a session of another worker cannot be told from one with a wrong key: it is passed on
as it is to the primary, where the server decides, as for those whose login was passed on.

Bound: one entry for each session, of which there are at most `Board.sessions_max`.

Deliberately unknown here: what a session is.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from metako.pgwire.messages import BackendKey
from metako.pgwire.startup import CancelRequest, cancel_packet
from metako.proxy import sockets
from metako.proxy.routes import Route

if TYPE_CHECKING:
    from metako.proxy.board import Board

CANCEL_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class CancelTarget:
    """Where a session is now."""

    route: Route
    key: BackendKey  # the server's own


Locate = Callable[[], CancelTarget | None]  # None while the session has no server


@dataclass(eq=False, slots=True)
class Issued:
    """A key that a client has, until it is taken back."""

    key: BackendKey = field(repr=False)
    locate: Locate


class Cancels:
    """The keys that the clients of this worker have."""

    def __init__(self) -> None:
        # By process id. Two servers may use the same one, so a list; it hardly ever has a second.
        self._issued: dict[int, list[Issued]] = {}

    def issue(self, key: BackendKey, locate: Locate) -> Issued:
        """Remember that a client has `key`, whatever server its session is on."""
        issued = Issued(key, locate)
        self._issued.setdefault(key.process_id, []).append(issued)
        return issued

    def take_back(self, issued: Issued) -> None:
        """Forget a key. Once for each."""
        remaining = self._issued[issued.key.process_id]
        remaining.remove(issued)
        if not remaining:
            del self._issued[issued.key.process_id]

    def find(self, request: CancelRequest) -> Issued | None:
        """Return whose key a request has, None if we gave it to nobody."""
        for issued in self._issued.get(request.process_id, ()):
            if hmac.compare_digest(issued.key.secret_key, request.secret_key):
                return issued
        return None


async def forward_cancel(board: Board, request: CancelRequest) -> None:
    """Hand a request to the server that it is for, and return when that has acted.

    Bounded by `CANCEL_TIMEOUT_S`; whatever goes wrong, the client is not told, as servers do not.
    The route may be past its validity, as the sessions to it are kept too.
    """
    issued = board.cancels.find(request)
    route, packet = board.routes.last(), request.packet
    if issued is not None:
        target = issued.locate()
        if target is None:
            return  # nothing runs
        route = target.route
        packet = cancel_packet(target.key.process_id, target.key.secret_key)
    if route is None:
        return
    with trio.move_on_after(CANCEL_TIMEOUT_S), contextlib.suppress(*sockets.BROKEN):
        server = await sockets.connect(route.address)
        try:
            if board.routes.keeps(route):
                await sockets.send_all(server, packet)
                await sockets.receive_some(server, 1)  # the end: the server has acted
        finally:
            sockets.abort(server)
