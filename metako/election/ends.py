"""Why a leadership ends, or the server under it."""

from __future__ import annotations

import enum

STOP = "stop"  # the node was told to: its server may finish what it is at
HANDOVER = "switchover"  # the same, and the node goes on as a standby
RESTART = "restart"  # the same, where nobody else has data
PLANNED = (STOP, HANDOVER, RESTART)


class End(enum.StrEnum):
    """Why a leadership is over."""

    LEASE = "lease"  # no majority answered in time: the guard fences, we follow
    SERVER = "server"  # our PostgreSQL is verified gone: release at once
    DEPOSED = "deposed"  # a newer document names another primary
