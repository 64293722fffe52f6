"""What the tests of the lab share: whether it can be made here, and sockets inside of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chaos.inside import inside
from chaos.lab import NAMESPACES, Lab
from chaos.tools import PACKAGES, LabError, tool

PATIENCE_S = 10.0
"""For what has to happen."""
SILENCE_S = 0.2
"""For what must not happen: a frame takes a thousandth of it."""


def why_no_lab() -> str | None:
    """Return why no lab can be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    for name in PACKAGES:
        try:
            tool(name)
        except LabError as error:
            return str(error)
    return None


def socket_in(lab: Lab, name: str, kind: socket.SocketKind) -> socket.socket:
    """Return an IPv4 socket that belongs to a host's namespace, wherever it is used."""
    path = NAMESPACES / lab.namespace(name)
    return inside(path, lambda: socket.socket(socket.AF_INET, kind))


class Datagrams:
    """One UDP port on each host."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._port = port
        self._addresses = lab.addresses
        self._sockets = {name: socket_in(lab, name, socket.SOCK_DGRAM) for name in lab.addresses}
        for name, sock in self._sockets.items():
            sock.bind((self._addresses[name], port))
        self._number = 0

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def send(self, src: str, dst: str, data: bytes) -> None:
        self._sockets[src].sendto(data, (self._addresses[dst], self._port))

    def receive(self, dst: str, wait_s: float = SILENCE_S) -> bytes | None:
        """Return the next datagram, or None if none comes within `wait_s`."""
        sock = self._sockets[dst]
        sock.settimeout(wait_s)
        try:
            return sock.recv(2048)
        except TimeoutError:
            return None

    def passes(self, src: str, dst: str) -> bool:
        """Return whether a datagram arrives; silence is waited for once."""
        self._number += 1
        token = b"%d" % self._number
        self.send(src, dst, token)
        return self.receive(dst) == token

    def journey_s(self, src: str, dst: str) -> float:
        """Return how long one datagram takes."""
        begin_s = time.monotonic()
        self.send(src, dst, b"journey")
        assert self.receive(dst, PATIENCE_S) == b"journey"
        return time.monotonic() - begin_s


@contextmanager
def listener(lab: Lab, name: str, port: int) -> Iterator[socket.socket]:
    """Listen on a host."""
    with socket_in(lab, name, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((lab.address(name), port))
        sock.listen()
        sock.settimeout(PATIENCE_S)
        yield sock


@contextmanager
def connection(
    lab: Lab, src: str, dst: str, port: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Open a connection; the two ends are those of the sender and of the receiver."""
    with listener(lab, dst, port) as listening, socket_in(lab, src, socket.SOCK_STREAM) as near:
        near.settimeout(PATIENCE_S)
        near.connect((lab.address(dst), port))
        far, _ = listening.accept()
        with far:
            far.settimeout(PATIENCE_S)
            yield near, far


def dial(lab: Lab, src: str, dst: str, port: int, wait_s: float = SILENCE_S) -> str:
    """Return what becomes of an attempt to connect: "open", "refused" or "silence".

    There has to be a listener; a full queue of connections is none of the answers.
    """
    with socket_in(lab, src, socket.SOCK_STREAM) as sock:
        sock.settimeout(wait_s)
        try:
            sock.connect((lab.address(dst), port))
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"
        return "open"


def wait_gone(pid: int) -> bool:
    """Return whether a process ends in time; one that is no child of ours leaves no zombie."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            time.sleep(0.02)
            continue
        return True
    return False
