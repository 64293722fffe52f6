"""The processes of a running server that matter to others: its WAL receiver and its WAL senders.

In: the postmaster's pid. Out: pids, by what /proc says of its children, which is also true of a
server that takes no connections or does not list yet what it has just forked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNDECIDED_FOR_S = 1.0


@dataclass(frozen=True, slots=True)
class Receivers:
    """Children of a postmaster that are, or may become, WAL receivers."""

    certain: tuple[int, ...]
    # Forked a moment ago and still under the postmaster's own title: a receiver renames itself at
    # once, a backend only when its client has spoken. After UNDECIDED_FOR_S it is a backend.
    undecided: tuple[int, ...]


def _age_s(pid: str) -> float:
    """Return how long ago a process was started, whatever the wall clock did meanwhile."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _children(postmaster: int) -> Iterator[tuple[str, bytes]]:
    """Yield pid and title of each child that is still there when it is looked at."""
    with contextlib.suppress(OSError):
        listed = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in listed:
            with contextlib.suppress(OSError):
                yield pid, Path(f"/proc/{pid}/cmdline").read_bytes()


def receiver_processes(postmaster: int) -> Receivers:
    """Return what /proc says about WAL receivers, also those that SQL does not list yet."""
    certain, undecided = [], []
    with contextlib.suppress(OSError):
        own = Path(f"/proc/{postmaster}/cmdline").read_bytes()
        for pid, title in _children(postmaster):
            if b"walreceiver" in title:
                certain.append(int(pid))
            elif title == own and _age_s(pid) < UNDECIDED_FOR_S:
                undecided.append(int(pid))
    return Receivers(tuple(certain), tuple(undecided))


def sender_processes(postmaster: int) -> tuple[int, ...]:
    """Return the WAL senders of a server, also of one that takes no connections any more."""
    return tuple(int(pid) for pid, title in _children(postmaster) if b"walsender" in title)
