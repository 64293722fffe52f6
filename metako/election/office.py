"""The first documents of a term: what a winner writes, and what the first database begins with.

In: the newest document found, the promises it was won with, the picture of the own server. Out: the
next version. Invariant: it keeps the data quorum, S_new = (S ∪ {P}) ∖ {winner} with the same k, and
reserves a timeline number that no reply, document or history file has ever named. It does not know
how a document is made durable, nor when. Source: DESIGN §4.3.4.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from metako.election.core import Core
from metako.election.quorum import Promise, successor_sync_set
from metako.election.reserve import first_entry, reserve
from metako.model.document import ClusterDocument, Phase
from metako.model.events import EventName
from metako.model.ids import Term
from metako.model.lsn import format_lsn
from metako.model.timeline import TimelineEntry


def winners_document(
    core: Core,
    base: ClusterDocument,
    term: Term,
    promises: Collection[Promise],
    reason: str,
    hold_ms: int,
) -> ClusterDocument:
    """Return the first document of a term whose winner has yet to be promoted.

    Args:
        core: of the winner, whose server is detached with its position known.
        base: the newest document found.
        term: that was won.
        promises: that it was won with; the new timeline gets a number above all of theirs.
        reason: of the promotion, for people.
        hold_ms: that the winner's heartbeats ask for.
    """
    observed = core.observed
    assert observed.position is not None
    highest = max(
        *(promise.max_tli for promise in promises),
        observed.max_tli,
        observed.timeline,
    )
    return replace(
        base,
        term=term,
        version=base.version + 1,
        hold_ms=hold_ms,
        primary=core.node,
        primary_data_id=observed.data_id,
        phase=Phase.PROMOTING,
        sync=successor_sync_set(base, core.node, primary_data_id=base.primary_data_id),
        timelines=_reserved(core, base, highest, term, reason),
        switchover=None,  # this promotion is what came of it
    )


def founders_document(core: Core, document: ClusterDocument, term: Term) -> ClusterDocument | None:
    """Return the document that promotes the first database; None while there is none yet."""
    observed = core.observed
    if observed.position is None or not observed.system_id or not observed.data_id:
        return None
    first = first_entry(observed, term=term, node=core.node)
    base = replace(
        document,
        system_id=observed.system_id,
        primary_data_id=observed.data_id,
        timelines=(first,),
    )
    highest = max(observed.max_tli, observed.timeline, first.tli)
    return replace(
        base,
        version=document.version + 1,
        phase=Phase.PROMOTING,
        timelines=_reserved(core, base, highest, term, "bootstrap"),
    )


def _reserved(
    core: Core, base: ClusterDocument, highest: int, term: Term, reason: str
) -> tuple[TimelineEntry, ...]:
    entries = reserve(
        base.timelines,
        highest=highest,
        term=term,
        node=core.node,
        observed=core.observed,
        reason=reason,
    )
    entry = entries[-1]
    core.emit(
        EventName.TIMELINE_RESERVED,
        f"reserved timeline {entry.tli} at {format_lsn(entry.begin_lsn)}",
        timeline=entry.tli,
        parent=entry.parent_tli,
        lsn=format_lsn(entry.begin_lsn),
        term=term,
    )
    return entries
