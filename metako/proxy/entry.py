"""How a client has come to its session, and how it leaves for another process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from metako.pgwire.login_client import Refusal
from metako.pgwire.messages import BackendKey
from metako.proxy.cancels import Issued
from metako.proxy.legs import Failure, Leg, Opening, Refused
from metako.proxy.pool import Key
from metako.proxy.serverlogin import LogIn
from metako.proxy.snapshot import Snapshot
from metako.proxy.sockets import Connection
from metako.proxy.tracked import Tracked


@dataclass(frozen=True, slots=True)
class Entry:
    """What a relay may do in the name of its client."""

    opening: Opening | None = field(repr=False)  # None: there is a server, and no other will do
    database: str  # that the client is connected to
    movable: bool = False  # whether the opening can be repeated at another server
    pool_key: Key | None = None  # whose legs it may have; None: only one that is opened for it
    long_keys: bool = False  # whether the client speaks protocol 3.2
    # Called when a server did not take the key of the client's login.
    on_key_refused: Callable[[], None] = lambda: None

    @classmethod
    def of(
        cls,
        login: LogIn,
        user: str,
        database: str,
        *,
        movable: bool,
        long_keys: bool,
        forget: Callable[[str], None],
    ) -> Entry:
        """Return the entry of a client that has logged in to us."""
        pool_key = login.pool_key(user, database) if movable else None
        return cls(login, database, movable, pool_key, long_keys, partial(forget, user))

    def note(self, found: Refused | Failure) -> None:
        """Take account of why there is no leg."""
        if isinstance(found, Refused) and found.reason is Refusal.KEY_REFUSED:
            self.on_key_refused()


@dataclass(frozen=True, slots=True)
class Departed:
    """What another process is to go on with. The leg is still open, and nobody reads it."""

    leg: Leg
    movable: bool  # as of its `Entry`
    long_keys: bool
    issued: tuple[int, BackendKey] | None = field(repr=False)  # the cancel key of the client
    snapshot: Snapshot | None = field(repr=False)  # None: the session is not followed

    @property
    def server(self) -> socket.socket | None:
        """The connection that can go along; None if it is closed by now, or encrypted."""
        sock = self.leg.sock
        return sock if isinstance(sock, socket.socket) and not self.leg.closed else None


def departed(
    entry: Entry, leg: Leg, tracked: Tracked | None, issued: Issued | None, *, keeps: bool
) -> Departed | None:
    """Return what of a session at rest another process can go on with; None if it cannot now.

    Args:
        keeps: the session could go on with another server at this moment.
    """
    snapshot = None if tracked is None else tracked.snapshot()
    if tracked is not None and snapshot is None:
        return None
    key = None if issued is None else (issued.number, issued.key)
    found = Departed(leg, entry.movable, entry.long_keys, key, snapshot)
    return found if keeps or found.server is not None else None


def can_depart(client: Connection) -> bool:
    """Return whether another process could go on with a client at all: encryption stays."""
    return isinstance(client, socket.socket)
