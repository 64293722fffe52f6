"""Non-blocking sockets for the proxy: listen, connect, read, write, close.

Plain `socket` objects with trio's readiness primitives, not trio's own sockets: those make a trip
through the scheduler for every call, also when data is ready. For the same reason every function
here tries first and waits only when it must. While a session is relayed its sockets are the
`reactor`'s, and nothing here is used on them.

Invariant: a socket is closed by `close` or `abort` and by nothing else, because the tasks that
wait for it must be told (`trio.ClosedResourceError`), and only after its `Link` has let go of it.
Both are synchronous: after they return no byte can leave through that socket any more.

What reads, writes and closes takes encrypted connections as well (`Encrypted`).

Deliberately unknown here: PostgreSQL, sessions, limits on their number, and encryption.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Protocol

import trio

from metako.model.ids import Address

ACCEPT_PAUSE_S = 0.25
LISTEN_BACKLOG = 1024  # the kernel takes the lesser of this and net.core.somaxconn
KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3
RECEIVE_BYTES_MAX = 65_536
_LINGER_ABORT = struct.pack("ii", 1, 0)

# What a connection that is no longer one raises, in whichever call notices it first.
BROKEN = (OSError, trio.ClosedResourceError)


class Encrypted(Protocol):
    """What stands between us and a socket, and is read and written like one."""

    @property
    def sock(self) -> socket.socket:
        """The connection below."""

    def fileno(self) -> int:
        """Return the descriptor of the connection below; -1 once it is closed."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Return how many bytes have arrived, 0 at the end. Raises BlockingIOError, OSError."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return what has arrived, b"" at the end. Raises BlockingIOError, OSError."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Return how much was taken. Raises BlockingIOError, OSError."""

    def shutdown(self, how: int, /) -> None:
        """Tell the peer that nothing more will be sent. Raises OSError."""

    def close(self) -> None:
        """Say goodbye if that can be done at once, and close the connection below."""


Connection = socket.socket | Encrypted


def below(sock: Connection) -> socket.socket:
    """Return the TCP connection, be it encrypted or not."""
    return sock if isinstance(sock, socket.socket) else sock.sock


def tune(sock: socket.socket) -> None:
    """Prepare a connected TCP socket for small messages and for peers that vanish.

    No TCP_USER_TIMEOUT: it also kills a connection whose peer is alive and just does not read,
    such as a client that pages through a long result.
    """
    sock.setblocking(False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def close(sock: Connection) -> None:
    """Close and wake whoever waits for `sock`. Unsent bytes are still delivered by the kernel."""
    if sock.fileno() != -1:
        trio.lowlevel.notify_closing(sock)
        sock.close()


def close_all(several: Iterable[Connection]) -> None:
    """Close all of them, those too that are closed already."""
    for sock in several:
        close(sock)


def abort(sock: Connection) -> None:
    """Close with a reset: unsent bytes are thrown away and a frozen peer cannot hold anything."""
    if sock.fileno() != -1:
        plain = below(sock)
        with contextlib.suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ABORT)
        close(plain)  # encrypted or not, not even a goodbye leaves any more


async def receive_some(sock: Connection, bytes_max: int = RECEIVE_BYTES_MAX) -> bytes:
    """Return what has arrived, b"" at the end. Raises one of `BROKEN`. Cancelling loses nothing."""
    while True:
        try:
            return sock.recv(min(bytes_max, RECEIVE_BYTES_MAX))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)


async def receive_exactly(sock: Connection, count: int) -> bytes:
    """Return `count` bytes, fewer only if the peer ended before. Raises one of `BROKEN`.

    Never reads beyond: what follows stays in the kernel for the relay, or decrypted in what
    encrypts. Cancelling loses what had arrived, so the socket is of no further use.
    """
    parts = bytearray()
    while len(parts) < count:
        part = await receive_some(sock, count - len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)


async def send_all(sock: Connection, data: bytes | memoryview) -> None:
    """Send everything. Raises one of `BROKEN`. If cancelled, a part may have been sent."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def connect(address: Address) -> socket.socket:
    """Return a tuned TCP connection to the first address of the host that accepts one.

    Raises `OSError` when none does. The caller sets the deadline; if cancelled, nothing is left
    open.
    """
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    error: OSError = OSError("the name has no address")
    for family, kind, protocol, _, target in found:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            await _connect_to(sock, target)
            tune(sock)
        except OSError as failure:
            close(sock)
            error = failure
        except BaseException:
            close(sock)
            raise
        else:
            return sock
    raise error


async def _connect_to(sock: socket.socket, target: tuple[object, ...]) -> None:
    try:
        sock.connect(target)
    except BlockingIOError:
        await trio.lowlevel.wait_writable(sock)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for every address of `host` ("*" or "": all of the machine).

    Several processes may listen on the port at once; the kernel spreads connections over them. A
    port of 0 takes a free one, the same for all addresses. Raises `OSError` with nothing open.
    """
    listeners: list[socket.socket] = []
    try:
        for sock, target in _passive_sockets(host, port):
            listeners.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            tune(sock)  # those that are accepted inherit all of it but that they do not block
            sock.bind((target[0], port, *target[2:]))
            sock.listen(LISTEN_BACKLOG)
            port = sock.getsockname()[1]
    except OSError:
        close_all(listeners)
        raise
    return listeners


async def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection; for listeners to which few and known ones connect."""
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener)
        except OSError:
            # Out of descriptors or memory: the backlog keeps the peer until it passes.
            await trio.sleep(ACCEPT_PAUSE_S)
        else:
            connection.setblocking(False)
            return connection


def probe_port_free(host: str, port: int) -> None:
    """Raise `OSError` if anybody listens on the port, also somebody who would share it."""
    for sock, target in _passive_sockets(host, port):
        with sock:
            sock.bind(target)


def _passive_sockets(host: str, port: int) -> Iterator[tuple[socket.socket, tuple[object, ...]]]:
    """Give an unbound socket and its address for each address of `host`. The caller closes it."""
    everywhere = host in ("", "*")
    for family, kind, protocol, _, target in socket.getaddrinfo(
        None if everywhere else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            if everywhere and error.errno == errno.EAFNOSUPPORT:
                continue  # a machine without IPv6
            raise
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own; a dual one would make the second bind fail.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        yield sock, target
