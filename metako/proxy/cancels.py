"""Requests to cancel a statement: which session they are for, and how they get there.

    a client ──▶ any worker of any node ──▶ the node and worker in the key ──▶ the session's server

The key that a client has been given names the place of its session (`pgwire.cancel`), so it is
good wherever the request arrives, as long as the session lasts, on whatever server it is by then.
A server's own key is never given away: whoever gets the same connection to a server next would be
at the mercy of the one before. Only a client whose login was passed on to a server has that
server's key. We cannot tell such a request from one with a wrong key, so it is passed on as it is
to the primary, where the server decides.

A node is named by seven bits of a digest of its name. Where two nodes share them, a request is
passed on to both, and one of the two does not know the session.

In: requests, and the cluster's secret. Out: requests on new connections, at most `HOPS_MAX` far.

Bound: one entry for each session, of which there are at most `Board.sessions_max`.

Deliberately unknown here: what a session is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from metako import unixsocket
from metako.model.ids import Address, NodeId
from metako.pgwire.cancel import (
    NODE_MAX,
    SECRET_BYTES_MIN,
    SESSION_MAX,
    TAG_BYTES,
    CancelKeys,
    CancelPlace,
    OwnCancel,
    is_key_of,
)
from metako.pgwire.messages import BackendKey
from metako.pgwire.startup import CancelRequest, cancel_packet
from metako.proxy import sockets
from metako.proxy.encryption import ServerTlsError
from metako.proxy.outside import door_path, old_door_path, old_door_paths
from metako.proxy.routes import Route

if TYPE_CHECKING:
    from pathlib import Path

    from metako.proxy.board import Board

CANCEL_TIMEOUT_S = 2.0
# Sessions to which a worker may still give keys after it was replaced: those who log in by then.
SPARE_NUMBERS = 1 << 14


def node_number(node: NodeId) -> int:
    """Return the number by which cancel keys name a node, 1..NODE_MAX."""
    return 1 + int.from_bytes(hashlib.sha256(node.encode()).digest()[:4], "big") % NODE_MAX


@dataclass(frozen=True, slots=True)
class CancelTarget:
    """Where a session is now."""

    route: Route
    key: BackendKey  # the server's own


Locate = Callable[[], CancelTarget | None]  # None while the session has no server


@dataclass(eq=False, slots=True)
class Issued:
    """A key that a client has, until it is taken back."""

    number: int  # of the session
    key: BackendKey = field(repr=False)
    locate: Locate


class Cancels:
    """The keys that the clients of this worker have.

    Args:
        node: whose proxy this is.
        worker: its number, 1..n.
        control: beside which the doors of the other workers are; None: there are none.
    """

    def __init__(self, node: NodeId, worker: int, control: Path | None = None) -> None:
        self.node = node_number(node)
        self.worker = worker - 1
        self.control = control
        # Our own secret, until the agent tells the cluster's; and the one before, by which clients
        # may still have keys.
        self._keys = self._former = CancelKeys(secrets.token_bytes(SECRET_BYTES_MIN))
        self._secret = b""  # that the agent told; empty before
        self._issued: dict[int, Issued] = {}
        # From a random one, and each once before any comes again; see `pgwire.cancel`.
        self._next = secrets.randbelow(SESSION_MAX + 1)

    def receive_secret(self, secret: bytes) -> None:
        """Issue keys by this secret from now on; those by the one before stay good here."""
        if secret != self._secret:
            self._secret = secret
            self._keys, self._former = CancelKeys(secret), self._keys

    def numbers_end(self) -> int:
        """Return where another process may begin, to give numbers that are not given here."""
        return (self._next + SPARE_NUMBERS) & SESSION_MAX

    def begin_at(self, number: int) -> None:
        """Give numbers from here on."""
        self._next = number & SESSION_MAX

    def adopt(self, number: int, key: BackendKey, locate: Locate) -> Issued | None:
        """Take a key that another process has issued in this worker's place.

        None if the number is taken: then its client cannot cancel any more, and nobody else's.
        """
        if number in self._issued or not 0 <= number <= SESSION_MAX:
            return None
        issued = self._issued[number] = Issued(number, key, locate)
        return issued

    def issue(self, locate: Locate, *, long_keys: bool) -> Issued:
        """Return the key for a new session.

        Args:
            locate: says where the session is whenever a request comes.
            long_keys: whether the client speaks protocol 3.2.
        """
        assert len(self._issued) <= SESSION_MAX
        while self._next in self._issued:
            self._next = (self._next + 1) & SESSION_MAX
        number, self._next = self._next, (self._next + 1) & SESSION_MAX
        place = CancelPlace(self.node, self.worker, number)
        key = self._keys.issue(place, long_keys=long_keys, tag=secrets.token_bytes(TAG_BYTES))
        issued = self._issued[number] = Issued(number, key, locate)
        return issued

    def take_back(self, issued: Issued) -> None:
        """Forget a key. Once for each."""
        del self._issued[issued.number]

    def read_untrusted(self, request: CancelRequest) -> OwnCancel | None:
        """Return what a request is about, None if the cluster did not issue its key."""
        return self._keys.read_untrusted(request) or self._former.read_untrusted(request)

    def find(self, cancel: OwnCancel) -> Issued | None:
        """Return the session of this worker that a request is for, if it is one of them."""
        place = cancel.place
        issued = self._issued.get(place.session)
        if issued is None or (place.node, place.worker) != (self.node, self.worker):
            return None
        return issued if is_key_of(cancel, issued.key) else None

    def doors(self, worker: int) -> list[Path]:
        """Return where a session may be that a key says to be this worker's, but is not here."""
        if self.control is None:
            return []
        own = old_door_path(self.control, worker + 1, os.getpid())
        doors = [one for one in old_door_paths(self.control, worker + 1) if one != own]
        return doors if worker == self.worker else [door_path(self.control, worker + 1), *doors]

    def forward_packet(self, cancel: OwnCancel) -> bytes | None:
        """Return the packet for another worker, None if the request has gone far enough."""
        return self._keys.forward_packet(cancel)


async def forward_cancel(board: Board, request: CancelRequest) -> None:
    """Hand a request to the server that it is for, and return when that has acted.

    Bounded by `CANCEL_TIMEOUT_S`; whatever goes wrong, the client is not told, as servers do not.
    The route may be past its validity, as the sessions to it are kept too.
    """
    cancels, route = board.cancels, board.routes.last()
    with trio.move_on_after(CANCEL_TIMEOUT_S):
        cancel = cancels.read_untrusted(request)
        if cancel is None:
            if route is not None:
                await _tell_server(board, CancelTarget(route, BackendKey(0, b"")), request.packet)
            return
        issued = cancels.find(cancel)
        if issued is None:
            await _pass_on(board, cancel)
        elif (target := issued.locate()) is not None:
            await cancel_at_server(board, target)


async def cancel_at_server(board: Board, target: CancelTarget) -> None:
    """Have a server cancel what it does for a session; return when it has acted, or cannot.

    The caller sets the deadline.
    """
    packet = cancel_packet(target.key.process_id, target.key.secret_key)
    await _tell_server(board, target, packet)


async def _tell_server(board: Board, target: CancelTarget, packet: bytes) -> None:
    # In clear, as libpq did for long, unless that is forbidden.
    insists = board.encryption.mode.insists
    with contextlib.suppress(*sockets.BROKEN, ServerTlsError):
        sock = await sockets.connect(target.route.address)
        try:
            if board.routes.keeps(target.route):
                server = await board.encryption.towards(sock, target.route, in_clear=not insists)
                if board.routes.keeps(target.route):
                    await sockets.send_all(server, packet)
                    await sockets.receive_some(server, 1)  # the end: the server has acted
        finally:
            sockets.abort(sock)


async def _pass_on(board: Board, cancel: OwnCancel) -> None:
    """Send a request to where its session may be, and wait until they have acted."""
    cancels, place = board.cancels, cancel.place
    packet = cancels.forward_packet(cancel)
    if packet is None:
        return
    async with trio.open_nursery() as nursery:
        at_home = place.node == cancels.node
        if at_home and cancels.control is not None:
            for door in cancels.doors(place.worker):
                nursery.start_soon(_tell_sibling, door, packet)
        for peer in board.peers:
            if node_number(peer.node) == place.node:
                nursery.start_soon(_tell_peer, peer.address, packet)


async def _tell_sibling(door: Path, packet: bytes) -> None:
    with contextlib.suppress(*sockets.BROKEN):
        sibling = unixsocket.connect(door)
        try:
            await sockets.send_all(sibling, packet)
            await sockets.receive_some(sibling, 1)
        finally:
            sockets.close(sibling)


async def _tell_peer(address: Address, packet: bytes) -> None:
    with contextlib.suppress(*sockets.BROKEN):
        peer = await sockets.connect(address)
        try:
            await sockets.send_all(peer, packet)
            await sockets.receive_some(peer, 1)
        finally:
            sockets.abort(peer)
