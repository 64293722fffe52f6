"""The wait for synchronous standbys: PostgreSQL's queue, with its known holes.

Three queues, one for what standbys have written, flushed and applied. A WAL sender that hears a
reply releases waiters by *its own* copy of `synchronous_standby_names`. Whoever commits asks only
the flag that says whether any standby is defined; the checkpointer keeps that flag, so it lags
behind a reload, and turning it off wakes all waiters as if they had been acknowledged.

Source: PostgreSQL 15, src/backend/replication/syncrep.c.
"""

from __future__ import annotations

from collections import deque

from sim.postgres.commits import Commit, SyncLevel

WRITE, FLUSH, APPLY = range(3)
MODES = {SyncLevel.REMOTE_WRITE: WRITE, SyncLevel.ON: FLUSH, SyncLevel.REMOTE_APPLY: APPLY}


class SyncQueue:
    """Commits that wait, in the order of their LSNs, and what was released so far."""

    __slots__ = ("queues", "released")

    def __init__(self) -> None:
        self.queues: tuple[deque[Commit], ...] = (deque(), deque(), deque())
        self.released = [0, 0, 0]  # LSN up to which commits of a mode need not wait

    def wait(self, commit: Commit, mode: int) -> bool:
        """Enter a queue; False if the standbys have acknowledged that LSN already."""
        if commit.record.end <= self.released[mode]:
            return False
        self.queues[mode].append(commit)
        return True

    def release(self, mode: int, lsn: int) -> list[Commit]:
        """Take out and return what waits for at most `lsn`."""
        if lsn <= self.released[mode]:
            return []
        self.released[mode] = lsn
        queue, woken = self.queues[mode], []
        while queue and queue[0].record.end <= lsn:
            woken.append(queue.popleft())
        return woken

    def holds(self, commit: Commit) -> bool:
        """Return whether a commit waits here, as pg_stat_activity shows it."""
        return any(commit in queue for queue in self.queues)

    def remove(self, commit: Commit) -> bool:
        """Take one commit out; False if it does not wait here."""
        queue = self.queues[MODES[commit.level]] if commit.level in MODES else None
        if queue is None or commit not in queue:
            return False
        queue.remove(commit)
        return True

    def drain(self) -> list[Commit]:
        """Take out and return everything."""
        woken = [commit for queue in self.queues for commit in queue]
        for queue in self.queues:
            queue.clear()
        return sorted(woken, key=lambda commit: commit.record.end)

    def __len__(self) -> int:
        return sum(map(len, self.queues))

    def first_lsn(self) -> int | None:
        """Return the LSN of the oldest waiting commit, None without one."""
        ends = [queue[0].record.end for queue in self.queues if queue]
        return min(ends) if ends else None
