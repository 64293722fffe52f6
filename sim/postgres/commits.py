"""Commits of clients and how they end.

Values only; how a commit waits is `sim.postgres.syncwait`'s business.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from sim.postgres.wal import Record, RecordKind


class SyncLevel(enum.Enum):
    """A session's `synchronous_commit`."""

    OFF = enum.auto()
    LOCAL = enum.auto()
    REMOTE_WRITE = enum.auto()
    ON = enum.auto()
    REMOTE_APPLY = enum.auto()


class Outcome(enum.Enum):
    """What a client is told."""

    OK = enum.auto()
    OK_WITH_WARNING = enum.auto()  # visible, but the wait for standbys was cancelled
    ERROR = enum.auto()  # nothing was written
    LOST = enum.auto()  # the connection broke: nobody knows


class CommitState(enum.Enum):
    """Where a commit is."""

    WAITING = enum.auto()  # for its own flush or for standbys; nobody sees it
    ACKNOWLEDGED = enum.auto()
    WARNED = enum.auto()  # its wait was cancelled
    LOST = enum.auto()  # its backend ended; the record may be in the WAL


class Commit:
    """A transaction that is being committed."""

    __slots__ = (
        *("cancelled", "commit_id", "kind", "level", "on_done", "record", "state", "values"),
    )

    def __init__(
        self,
        commit_id: int,
        values: tuple[tuple[str, str], ...],
        level: SyncLevel,
        record: Record,
        on_done: Callable[[Outcome], object],
    ) -> None:
        self.commit_id = commit_id
        self.values = values
        self.level = level
        self.record = record
        self.kind: RecordKind = record.kind
        self.on_done = on_done
        self.state = CommitState.WAITING
        self.cancelled = False  # a cancel came before the wait for standbys had begun

    @property
    def waiting(self) -> bool:
        return self.state is CommitState.WAITING
