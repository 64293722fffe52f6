"""Processor time for a new agent before that of others, until it has renewed the lease.

A new agent on a primary has what is left of the lease to load itself and to renew it, which takes
0.6 s of a processor. Where several processes wait for each processor that is too long. So the old
agent raises the priority of the process before it begins anew, because what the interpreter does
before any line of ours counts as well, and the new one restores it.

Linux may weigh sessions against each other before it looks at the processes in them (autogroups,
see sched(7)): then the session counts. The priorities to go back to are handed on in the
environment. Where raising them is not allowed nothing changes: as root it is.

It is raised by no more than the guard's own, which has to end PostgreSQL in time if all this is in
vain: on a single processor that this agent keeps busy the guard was woken at most 17 ms late,
which is less than one of its own turns.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

VARIABLE = "METAKO_PRIORITY_BEFORE"  # nice value of the process, of its session
NICE_GAIN = 10  # as the guard's
AUTOGROUP = Path("/proc/self/autogroup")  # says `/autogroup-7 nice 0`; takes the nice value
_BEFORE = re.compile(r"(-?\d+) (-?\d+)?")
_NICE_OF_SESSION = re.compile(r" nice (-?\d+)$")


def raise_priority() -> None:
    """Raise the priority of this thread and of its session, if that is allowed."""
    process = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, process - NICE_GAIN)
    except PermissionError:
        return
    os.environ[VARIABLE] = f"{process} "
    with contextlib.suppress(OSError):  # a kernel without autogroups
        told = _NICE_OF_SESSION.search(AUTOGROUP.read_text().strip())
        if told is not None:
            session = int(told[1])
            AUTOGROUP.write_text(str(session - NICE_GAIN))
            os.environ[VARIABLE] = f"{process} {session}"


def restore_priority() -> None:
    """Give this process and its session the priorities back that were noted, if any were.

    What has been started meanwhile in a session of its own keeps that of a process.
    """
    before = _BEFORE.fullmatch(os.environ.pop(VARIABLE, ""))
    if before is None:
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, int(thread), int(before[1]))
    if before[2] is not None:
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(before[2])
