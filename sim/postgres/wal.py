"""Records of the write-ahead log, and timeline histories as chains.

A record is one shared object wherever it is stored: two servers hold the same row exactly when they
hold the same object. Its `branch` is ground truth that no server can see. Every promotion begins a
new branch, also two isolated ones that mint the same timeline number at the same LSN; PostgreSQL
compares numbers and LSNs only, and so does everything here that stands for PostgreSQL.

Pure values and functions; knows no server.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from itertools import islice
from operator import attrgetter

from metako.model.ids import TimelineId
from metako.model.lsn import Lsn
from metako.model.timeline import HistoryStep

RECORD_BYTES = 8192
"""All records are of one size: rows of the same shape, as two halves of a split brain write them.
Their boundaries then agree on two branches, and a standby does not notice that it changed over."""
SEGMENT_BYTES = 16 << 20
FIRST_LSN = Lsn(SEGMENT_BYTES)
"""Where the WAL of a new database begins."""

Chain = tuple[HistoryStep, ...]
"""A history, oldest first, ending in the timeline itself; () for a placeholder file."""

PLACEHOLDER: Chain = ()

_end = attrgetter("end")


class RecordKind(enum.Enum):
    """What a record says."""

    COMMIT = enum.auto()  # of an application
    MESSAGE = enum.auto()  # a transactional message: marker, probe, barrier
    CHECKPOINT = enum.auto()
    END_OF_RECOVERY = enum.auto()  # the first one of a promotion


class Record:
    """One WAL record; never changed, never copied."""

    __slots__ = ("branch", "commit_id", "end", "kind", "tli", "values")

    def __init__(
        self,
        end: Lsn,
        tli: TimelineId,
        branch: str,
        kind: RecordKind,
        values: tuple[tuple[str, str], ...] = (),
        commit_id: int = 0,
    ) -> None:
        self.end = end  # LSN after it
        self.tli = tli
        self.branch = branch
        self.kind = kind
        self.values = values  # (key, value) pairs that a commit appended
        self.commit_id = commit_id  # 0: not a commit

    def __repr__(self) -> str:
        return f"Record({self.tli}:{self.end} {self.branch} {self.kind.name} {self.values})"


def count_until(wal: list[Record], lsn: int) -> int:
    """Return how many records end at or before `lsn`."""
    return bisect_right(wal, lsn, key=_end)


def find(wal: list[Record], lsn: int) -> int:
    """Return the index of the first record that ends at or after `lsn`."""
    return bisect_left(wal, lsn, key=_end)


def last_checkpoint(wal: list[Record], count: int | None = None) -> Lsn:
    """Return the end of the last checkpoint record among the first `count`, None for all."""
    backwards = islice(reversed(wal), 0 if count is None else len(wal) - count, None)
    ends = (record.end for record in backwards if record.kind is RecordKind.CHECKPOINT)
    return next(ends, FIRST_LSN)


def segment_of(lsn: Lsn) -> Lsn:
    """Return where the segment begins; streaming always begins there."""
    return Lsn(lsn - lsn % SEGMENT_BYTES)


def timeline_at(chain: Chain, lsn: int) -> TimelineId:
    """Return the timeline of `chain` on which a record that begins at `lsn` lies."""
    tli = chain[0].tli
    for step in chain:
        if step.begin_lsn <= lsn:
            tli = step.tli
    return tli


def left_at(chain: Chain, tli: int) -> Lsn | None:
    """Return where `chain` left a timeline for the next one; None if it is its last.

    Raises:
        KeyError: the timeline is not part of the chain.
    """
    for step, successor in zip(chain, (*chain[1:], None), strict=True):
        if step.tli == tli:
            return successor.begin_lsn if successor is not None else None
    raise KeyError(tli)


def newest_from(tli: int, files: dict[int, Chain]) -> TimelineId:
    """Return the newest timeline that consecutive history files lead to, as PostgreSQL finds it."""
    number = tli
    while number + 1 in files:
        number += 1
    return TimelineId(number)


def chain_of(tli: TimelineId, files: dict[int, Chain]) -> Chain:
    """Return the history of a timeline as its file tells it; without one, the timeline alone."""
    return files.get(tli) or ((HistoryStep(tli, Lsn(0)),) if tli else ())


def may_have_gone_over(current: TimelineId, files: dict[int, Chain]) -> TimelineId | None:
    """Return what production's function of that name does."""
    for number in sorted(files, reverse=True):
        if number > current and current in {step.tli for step in files[number][:-1]}:
            return TimelineId(number)
    return None


def missing_histories(
    current: TimelineId, reserved: TimelineId, files: dict[int, Chain]
) -> dict[int, Chain]:
    """Return the history files that production writes before a promotion: see there."""
    chain = files.get(current, ())
    known = {step.tli: chain[: index + 1] for index, step in enumerate(chain)}
    return {
        number: known.get(TimelineId(number), PLACEHOLDER)
        for number in range(2, reserved)
        if number not in files and number != current
    }
