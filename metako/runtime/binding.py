"""One port for gossip, UDP and TCP alike, bound before anything else is started.

Input: host and port of the configuration; port 0 takes any that is free in both. Output: two
non-blocking sockets on the same port, the TCP one listening. A node that cannot have its port stops
here, with a line that says who has it.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from metako.model.errors import ConfigError, PortInUseError
from metako.model.ids import Address
from metako.runtime.port_owner import describe_port_owner

FREE_PORT_TRIES = 16
"""Ports that the kernel offered for TCP and that may be taken for UDP."""
BACKLOG = 128
RECEIVE_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class GossipSockets:
    """Both sockets of the gossip port. Close them once."""

    tcp: socket.socket
    udp: socket.socket
    address: Address  # as bound: with the real port

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self.udp.family)

    def close(self) -> None:
        self.tcp.close()
        self.udp.close()


def bind_gossip(host: str, port: int) -> GossipSockets:
    """Bind UDP and TCP on the same port. A host name is looked up, which may block.

    Raises:
        PortInUseError: something else has the port. Nothing stays open.
        ConfigError: the host is not an address of this machine, or the port is not allowed.
    """
    family, literal = _resolve(host, port)
    tries = 1 if port else FREE_PORT_TRIES
    for remaining in reversed(range(tries)):
        tcp = _bind("tcp", family, literal, port, shown=host)
        taken = int(tcp.getsockname()[1])
        try:
            udp = _bind("udp", family, literal, taken, shown=host)
        except PortInUseError:
            tcp.close()
            if not remaining:
                raise
            continue
        except BaseException:
            tcp.close()
            raise
        return GossipSockets(tcp, udp, Address(host, taken))
    raise AssertionError("unreachable")


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"gossip host {host!r} has no address: {error}") from error
    family, _, _, _, where = answers[0]
    return socket.AddressFamily(family), str(where[0])


def _bind(
    protocol: str, family: socket.AddressFamily, literal: str, port: int, *, shown: str
) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if protocol == "tcp":
            # For TCP this only skips the wait for old connections; for UDP it would let two
            # agents share the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.bind((literal, port))
        if protocol == "tcp":
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _explain(error, protocol, Address(shown, port)) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _explain(error: OSError, protocol: str, address: Address) -> PortInUseError | ConfigError:
    where = f"gossip port {address} ({protocol})"
    if error.errno == errno.EADDRINUSE:
        owner = describe_port_owner(protocol, address.port)
        return PortInUseError(f"{where} is in use by {owner}; stop it or set gossip.port")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"{where}: this machine has no such address; set gossip.host")
    if error.errno == errno.EACCES:
        return ConfigError(f"{where}: not allowed for this user; set gossip.port above 1023")
    return ConfigError(f"{where}: {error.strerror}")
