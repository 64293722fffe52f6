"""Timeline histories: who wrote which stretch of the WAL, and whether two servers share it.

The cluster document records every timeline that a leader reserved, with its parent and the LSN
where it began. A node knows the chain of its own data directory from its history file. This
module compares the two. It never trusts the timeline *number*: two isolated promotions can mint
the same number with identical history files and different rows behind them, which is why numbers
are reserved through the document and never reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn, RankedPosition, WalPosition

TIMELINES_IN_FULL_MAX = 64
"""Entries of the document that keep their node and reason; older ones are shortened."""

TIMELINES_MAX = 256
"""Entries of the document; older ones are dropped, and who has no newer WAL than that is cloned."""


class Took(NamedTuple):
    """How long the parts of an election took, in ms, as its winner saw them. For people."""

    silence: int  # until the former leader's hold had ended; 0 if it gave its lease up
    delay: int  # until the winner stood, its pre-vote included
    votes: int  # with the promises that they take
    document: int  # until the first version was on a majority
    promotion: int  # of PostgreSQL
    commit: int  # until a commit was acknowledged by the standbys

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One timeline that a leader reserved before promoting."""

    term: Term
    tli: TimelineId
    parent_tli: TimelineId  # 0 for the first timeline of the cluster
    begin_lsn: Lsn  # estimated while `confirmed` is false, read from the history file after
    node: NodeId | None = None  # None once shortened
    reason: str = ""
    confirmed: bool = False  # True once the promotion was seen to have happened
    when_ms: int = 0  # of the reservation, by the wall clock there, since 1970; 0: not known
    took: Took | None = None  # None until it was confirmed, and where that is not known


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """One line of a server's own history: it has been on `tli` since `begin_lsn`."""

    tli: TimelineId
    begin_lsn: Lsn


def trimmed(
    entries: Sequence[TimelineEntry], entries_max: int = TIMELINES_MAX
) -> tuple[TimelineEntry, ...]:
    """Return the entries as a document keeps them: so many at most, and old ones shortened.

    First goes what was reserved in vain, then what is oldest. The newest confirmed one is where
    everybody's WAL has to be; it stays.
    """
    tip = tip_of(entries)
    others = [entry for entry in entries[:-1] if entry.tli != tip]
    others.sort(key=lambda entry: (entry.confirmed, entry.tli))
    surplus = {entry.tli for entry in others[: max(0, len(entries) - entries_max)]}
    kept = tuple([entry for entry in entries if entry.tli not in surplus])
    old, recent = kept[:-TIMELINES_IN_FULL_MAX], kept[-TIMELINES_IN_FULL_MAX:]
    return (*(_shortened(entry) for entry in old), *recent)


def _shortened(entry: TimelineEntry) -> TimelineEntry:
    if (entry.node, entry.reason, entry.when_ms, entry.took) == (None, "", 0, None):
        return entry
    return replace(entry, node=None, reason="", when_ms=0, took=None)


def chain(entries: Sequence[TimelineEntry], tip: TimelineId) -> tuple[TimelineEntry, ...]:
    """Return the ancestry of `tip`, oldest first; empty if `tip` is unknown."""
    by_tli = {entry.tli: entry for entry in entries}
    result: list[TimelineEntry] = []
    current: int = tip
    while current and current in by_tli and len(result) <= len(by_tli):
        entry = by_tli[TimelineId(current)]
        result.append(entry)
        current = entry.parent_tli
    return tuple(reversed(result))


def on_record(
    history: Sequence[HistoryStep], lineage: Sequence[TimelineEntry]
) -> Sequence[HistoryStep]:
    """Return the steps of a server's own chain from the oldest entry on that is still on record.

    All of them if nothing was dropped; none if the server has never been on that timeline.
    """
    if not lineage or not lineage[0].parent_tli:
        return history
    older = [step.tli == lineage[0].tli for step in history]
    return history[older.index(True) :] if any(older) else ()


def tip_of(entries: Sequence[TimelineEntry]) -> TimelineId:
    """Return the newest timeline whose promotion was confirmed; 0 if there is none."""
    confirmed = [entry.tli for entry in entries if entry.confirmed]
    return confirmed[-1] if confirmed else TimelineId(0)


def owner_of(history: Sequence[HistoryStep], lsn: Lsn) -> TimelineId:
    """Return the timeline that owns the record ending at `lsn` in a server's own history."""
    owner = history[0].tli if history else TimelineId(0)
    for step in history:
        if step.begin_lsn < lsn:
            owner = step.tli
    return owner


def rank(entries: Sequence[TimelineEntry], position: WalPosition) -> RankedPosition | None:
    """Return the position in comparable form; None if its timeline is not on record."""
    for entry in entries:
        if entry.tli == position.timeline:
            return RankedPosition(entry.term, position.lsn)
    return None


def is_diverged(
    entries: Sequence[TimelineEntry],
    tip: TimelineId,
    history: Sequence[HistoryStep],
    position: WalPosition,
) -> bool:
    """Return whether the server holds WAL that is not part of the history ending in `tip`.

    Args:
        entries: the document's timelines.
        tip: the timeline to compare with, usually that of the current primary.
        history: the server's own chain, oldest first; steps beyond `position` (a history file
            fetched ahead of its WAL) are ignored.
        position: the end of the server's WAL on disk.

    A timeline that was reserved but whose promotion was cut short is known history as well: its
    entry has the right parent, and nothing was written past its beginning that could be followed.
    """
    lineage = chain(entries, tip)
    if not lineage:
        return True
    if not history:
        return False
    history = on_record(history, lineage)
    if not history:
        return True
    ends = (*(step.begin_lsn for step in history[1:]), None)
    # A step that ends where it begins, or before, holds no WAL: the server had gone over to a
    # timeline whose promotion was cut short, and on to the next from the same place; or it had only
    # that timeline's history, and was promoted before its own WAL came to the fork.
    written = [
        step
        for step, end in zip(history, ends, strict=True)
        if (end is None or end > step.begin_lsn)
        and (step.begin_lsn < position.lsn or step.tli == position.timeline)
    ]
    if not written:
        return False
    index = {entry.tli: i for i, entry in enumerate(lineage)}
    # The last timeline that holds WAL decides; its ancestors are checked by their begin.
    for step in written:
        if step.tli not in index:
            return True
        entry = lineage[index[step.tli]]
        if entry.confirmed and entry.parent_tli and step.begin_lsn != entry.begin_lsn:
            return True
    last = index[written[-1].tli]
    if last + 1 < len(lineage):
        successor = lineage[last + 1]
        return position.lsn > successor.begin_lsn
    return False
