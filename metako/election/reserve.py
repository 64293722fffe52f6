"""Timeline entries of the document: reserving a number, and recording how it really began.

A number is reserved before a promotion and never reused, because two isolated promotions at one
LSN would otherwise mint the same timeline with identical history files and different rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import PostgresObserved
from metako.model.timeline import HistoryStep, TimelineEntry, Took, owner_of, trimmed


def first_entry(observed: PostgresObserved, *, term: Term, node: NodeId) -> TimelineEntry:
    """Return the entry of the timeline that the cluster's first database was found on."""
    assert observed.position is not None
    tli = observed.history[0].tli if observed.history else observed.position.timeline
    return TimelineEntry(
        term=term,
        tli=tli,
        parent_tli=TimelineId(0),
        begin_lsn=Lsn(0),
        node=node,
        reason="first database",
        confirmed=True,
    )


def reserve(
    entries: Sequence[TimelineEntry],
    *,
    highest: int,
    term: Term,
    node: NodeId,
    observed: PostgresObserved,
    reason: str,
    when_ms: int = 0,
    skipped: int = 0,
) -> tuple[TimelineEntry, ...]:
    """Return the entries with a new timeline for a promotion at the observed position.

    Args:
        entries: the document's.
        highest: the greatest number known to anybody who answered.
        term: of the leader.
        node: of the leader.
        observed: its server, detached and with its position known.
        reason: for people.
        when_ms: now, by the wall clock; for people.
        skipped: so many numbers are left to whoever may have taken them unheard.
    """
    assert observed.position is not None
    tli = TimelineId(max([highest, *(entry.tli for entry in entries)]) + 1 + skipped)
    entry = TimelineEntry(
        term=term,
        tli=tli,
        parent_tli=observed.timeline or observed.position.timeline,
        begin_lsn=observed.position.lsn,
        node=node,
        reason=reason,
        when_ms=when_ms,
    )
    return trimmed((*entries, entry))


def confirm(
    entries: Sequence[TimelineEntry], history: Sequence[HistoryStep], took: Took | None = None
) -> tuple[TimelineEntry, ...]:
    """Return the entries with the newest one as PostgreSQL's own history file has it."""
    last = entries[-1]
    begin = next((s.begin_lsn for s in history if s.tli == last.tli), last.begin_lsn)
    before = [step for step in history if step.tli != last.tli]
    known = {entry.tli for entry in entries}
    parent = last.parent_tli
    if before:
        parent = before[-1].tli if before[-1].tli in known else owner_of(before, begin)
    confirmed = replace(last, begin_lsn=begin, parent_tli=parent, confirmed=True, took=took)
    return (*entries[:-1], confirmed)
