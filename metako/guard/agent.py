"""The agent at the other end of a connection, as the kernel says who it is."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from dataclasses import dataclass

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(slots=True)
class Agent:
    """The one connected agent."""

    connection: socket.socket
    pid: int
    pidfd: int | None  # None if the process cannot be seen from here

    @property
    def is_alive(self) -> bool:
        if self.pidfd is None:
            return True  # its connection is the only sign of life there is
        return not select.select([self.pidfd], [], [], 0)[0]


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end."""
    pid, uid, _gid = _PEER.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    )
    return pid, uid


def agent_of(connection: socket.socket, pid: int) -> Agent:
    """Return the agent, to be watched by its pidfd where that is possible."""
    pidfd = None
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
    return Agent(connection, pid, pidfd)
