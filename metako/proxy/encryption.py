"""TLS of one worker, on both hops: which certificates, and who gets to use them.

    files ── loaded at the start, and again when they have changed ──▶ contexts
    a new connection to a server ── SSLRequest ──▶ S: handshake │ N: in clear, if that is allowed

A file that has changed is looked at twice before it is loaded, so that a certificate and its key
may be replaced one after the other. What cannot be loaded is told once, and the old ones stay. A
handshake that has begun goes on with what it began with, and so does its connection.

With `prefer` a server that has once said that it does no TLS is not asked again, for as long as it
is the primary of the same term; neither is one with which a handshake failed, as libpq does it.

Invariant: where TLS is insisted on, not a byte but the request for it goes to a server in clear.

Bounds: files are looked at once in `LOOK_INTERVAL_S`; `PLAIN_MAX` servers are remembered.

Deliberately unknown here: logins, and what is said on a connection.

Source: PostgreSQL documentation, "SSL Session Encryption", and that of libpq's sslmode.
"""

from __future__ import annotations

import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import trio

from metako.model.sslmode import SslMode
from metako.pgwire import startup as pg
from metako.proxy import sockets
from metako.proxy.frames import WorkerEvent
from metako.proxy.routes import Route
from metako.proxy.tls import ServerTls, TlsError, client_context, server_tls, shake_hands
from metako.proxy.tlsoptions import NO_TLS, TlsOptions

LOOK_INTERVAL_S = 1.0
PLAIN_MAX = 64  # there are one or two at a time
SERVER_HANDSHAKE_TIMEOUT_S = 5.0  # with the answer to the request; a frozen server says nothing

_Look = tuple[tuple[int, int, int] | None, ...]  # of each file: inode, mtime, size


class ServerTlsError(Exception):
    """The server was not encrypted with, and may be another time. The connection is of no use."""


class Encryption:
    """See the module's docstring. Raises `TlsError` if the files cannot be used."""

    offered: ServerTls | None  # to clients; None: they are not offered TLS
    _towards: ssl.SSLContext  # for servers

    def __init__(self, options: TlsOptions = NO_TLS) -> None:
        self.required = options.required
        self.mode = options.server_mode
        self._options = options
        # The routes that do without; the one that was noted first first.
        self._plain: OrderedDict[Route, None] = OrderedDict()
        self._look = self._look_at_files()
        self.offered, self._towards = self._load()

    @property
    def certifies(self) -> bool:
        """Whether clients on TLS are asked for a certificate."""
        return self._options.client_ca_file is not None

    # -- files --------------------------------------------------------------------------------

    async def run(self, report: Callable[[WorkerEvent], None]) -> None:
        """Look for files that have changed until cancelled; return at once if there are none."""
        seen = tried = self._look
        while self._options.files:
            await trio.sleep(LOOK_INTERVAL_S)
            look = await trio.to_thread.run_sync(self._look_at_files, abandon_on_cancel=True)
            if look == seen and look != tried:
                tried = look
                try:
                    self.offered, self._towards = await trio.to_thread.run_sync(
                        self._load, abandon_on_cancel=True
                    )
                except TlsError as error:
                    report(_not_loaded(error))
                else:
                    report(WorkerEvent("INFO", "the proxy uses the new certificates"))
            seen = look

    def _look_at_files(self) -> _Look:
        return tuple(map(_look_at, self._options.files))

    def _load(self) -> tuple[ServerTls | None, ssl.SSLContext]:
        options = self._options
        offered = None
        if options.cert_file is not None and options.key_file is not None:
            offered = server_tls(options.cert_file, options.key_file, options.client_ca_file)
        towards = client_context(
            options.server_ca_file if self.mode.verifies else None,
            verify_name=self.mode is SslMode.VERIFY_FULL,
        )
        return offered, towards

    # -- servers ------------------------------------------------------------------------------

    async def towards(
        self, sock: socket.socket, route: Route, *, in_clear: bool = False
    ) -> sockets.Connection:
        """Return the connection to a server, encrypted as is wanted. The caller closes `sock`.

        If cancelled, `sock` is of no further use.

        Args:
            in_clear: if that is allowed.

        Raises:
            ServerTlsError: it may succeed another time.
            OSError, trio.ClosedResourceError: the connection broke.
        """
        if self.mode is SslMode.DISABLE:
            return sock
        if not self.mode.insists and (in_clear or route in self._plain):
            return sock
        with trio.move_on_after(SERVER_HANDSHAKE_TIMEOUT_S):
            await sockets.send_all(sock, pg.ssl_request_packet())
            # One byte and no more: what came behind it in clear is no part of the handshake.
            answer = await sockets.receive_exactly(sock, 1)
            if answer == pg.ENCRYPTION_ACCEPTED:
                return await self._shake_hands(sock, route)
            if answer != pg.ENCRYPTION_REFUSED:
                said = "closed the connection" if not answer else "answered neither yes nor no"
                raise ServerTlsError(f"it {said} when asked for TLS")
            if self.mode.insists:
                raise ServerTlsError(f"it does no TLS, and `proxy.server_tls` is {self.mode}")
            self._note_plain(route)
            return sock
        raise ServerTlsError(f"no TLS within {SERVER_HANDSHAKE_TIMEOUT_S:g} s")

    async def _shake_hands(self, sock: socket.socket, route: Route) -> sockets.Connection:
        try:
            return await shake_hands(
                sock, self._towards, server_side=False, name=route.address.host
            )
        except TlsError as error:
            if not self.mode.insists:
                self._note_plain(route)  # the next attempt is in clear
            raise ServerTlsError(f"TLS failed: {error}") from error

    def _note_plain(self, route: Route) -> None:
        self._plain[route] = None
        while len(self._plain) > PLAIN_MAX:
            self._plain.popitem(last=False)


def _look_at(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _not_loaded(error: TlsError) -> WorkerEvent:
    message = (
        f"changed TLS files cannot be used, the old ones stay in use: {error}; "
        "repair them, they are read again when they change"
    )
    return WorkerEvent("ERROR", message)
