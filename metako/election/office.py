"""The first documents of a term: what a winner writes, and what the first database begins with.

In: the newest document found, the promises it was won with, the picture of the own server. Out: the
next version. Invariant: it keeps the data quorum, S_new = (S ∪ {P}) ∖ {winner} with the same k, and
reserves a timeline number that no reply, document or history file has ever named. It does not know
how a document is made durable, nor when. Source: DESIGN §4.3.4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from metako.election.core import Core
from metako.election.errand import LOST_TIMELINES
from metako.election.lossy import grounds
from metako.election.quorum import Promise, data_grounds, data_quorum, successor_sync_set
from metako.election.reserve import confirm, first_entry, reserve
from metako.election.restarts import left_after
from metako.model.document import ClusterDocument, Phase
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.instant import Instant
from metako.model.lsn import format_lsn
from metako.model.postgres import Detached, sync_setting
from metako.model.timeline import TimelineEntry


class Mandate(NamedTuple):
    """Why a node was to lead, and whom an operator's order does without."""

    reason: str  # for people
    lost: tuple[NodeId, ...] = ()
    resumes: bool = False  # an operator has ended the pause by it
    when_ms: int = 0  # it was won, by the wall clock, since 1970


def winners_document(
    core: Core,
    base: ClusterDocument,
    term: Term,
    promises: Collection[Promise],
    why: Mandate,
    hold_ms: int,
) -> ClusterDocument:
    """Return the first document of a term whose winner has yet to be promoted.

    Args:
        core: of the winner, whose server is detached with its position known.
        base: the newest document found.
        term: that was won.
        promises: that it was won with; the new timeline gets a number above all of theirs.
        why: it leads.
        hold_ms: that the winner's heartbeats ask for.
    """
    observed = core.observed
    assert observed.position is not None
    highest = max(
        *(promise.max_tli for promise in promises),
        observed.max_tli,
        observed.timeline,
    )
    skipped = LOST_TIMELINES if why.lost else 0
    return replace(
        base,
        term=term,
        version=base.version + 1,
        hold_ms=hold_ms,
        primary=core.node,
        primary_data_id=observed.data_id,
        phase=Phase.PROMOTING,
        sync=successor_sync_set(base, core.node, primary_data_id=base.primary_data_id),
        timelines=_reserved(core, base, highest, term, why.reason, why.when_ms, skipped),
        switchover=None,  # this promotion is what came of it
        scheduled=base.scheduled if base.primary == core.node else None,
        restarts=left_after(base),
    )


def first_document(
    core: Core,
    base: ClusterDocument,
    term: Term,
    promises: Collection[Promise],
    why: Mandate,
    hold_ms: int,
    *,
    serving: bool,
) -> ClusterDocument:
    """Return the first document of a term: the newest one found, with this node as the primary.

    Args:
        core: of the winner.
        base: the newest document found.
        term: that was won.
        promises: that it was won with.
        why: it leads.
        hold_ms: that the winner's heartbeats ask for.
        serving: its server is the primary already, of an earlier term of its own.
    """
    if base.phase is Phase.INITIALIZING or serving:
        return replace(base, term=term, version=base.version + 1, hold_ms=hold_ms)
    document = winners_document(core, base, term, promises, why, hold_ms)
    if why.resumes and document.paused:
        core.emit(EventName.RESUMED, "the cluster is resumed by this election", term=term)
        document = replace(document, paused=False)
    return document.going_on_without(why.lost) if why.lost else document


def activated_document(core: Core, document: ClusterDocument, now: Instant) -> ClusterDocument:
    """Return the document by which a promoted primary, whose marker is out, serves applications."""
    return replace(
        document,
        version=document.version + 1,
        phase=Phase.ACTIVE,
        timelines=confirm(document.timelines, core.observed.history, core.course.took(now)),
    )


def founders_document(
    core: Core, document: ClusterDocument, term: Term, now: Instant
) -> ClusterDocument | None:
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
        timelines=_reserved(core, base, highest, term, "bootstrap", now.wall_ms),
    )


def tell_won(
    core: Core,
    document: ClusterDocument,
    term: Term,
    promises: Mapping[NodeId, Promise],
    *,
    incumbent: bool,
    forced: bool,
) -> None:
    """Report with whose votes an election was won, and why the winner has every commit, if so.

    Who does without the votes of a majority may not know the newest document, by which another set
    of standbys, or none, has the newest commits: then nothing shows that it has them.
    """
    data, own = "its own server is the primary", promises[core.node].position
    if not incumbent and document.phase is not Phase.INITIALIZING:
        newest = not forced or document.has_majority(promises)
        data = data_grounds(document, core.node, promises)
        if own is None or not newest or not data_quorum(document, own, promises):
            data = grounds(core, document, forced=forced)
            core.emit(EventName.COMMITS_MAY_BE_LOST, data, Severity.ERROR, term=term)
    core.emit(
        EventName.ELECTION_WON,
        f"won the election of term {term}, with {len(promises)} votes; data: {data}",
        term=term,
        votes=", ".join(sorted(promises)),
        data=data,
        document=str(document.ref),
    )


def tell_promoted(core: Core, term: Term, timeline: TimelineId) -> None:
    """Report that the server of this node is a primary, not yet open to applications."""
    what = f"PostgreSQL was promoted to timeline {timeline}"
    core.emit(EventName.PROMOTED, what, term=term, timeline=timeline)


def tell_active(core: Core, term: Term, timeline: TimelineId) -> None:
    """Report that the server of this node serves applications."""
    what = f"{core.node} is the primary of term {term}"
    core.emit(EventName.PRIMARY_ACTIVE, what, term=term, timeline=timeline)


def _reserved(
    core: Core,
    base: ClusterDocument,
    highest: int,
    term: Term,
    reason: str,
    when_ms: int,
    skipped: int = 0,
) -> tuple[TimelineEntry, ...]:
    entries = reserve(
        base.timelines,
        highest=highest,
        term=term,
        node=core.node,
        observed=core.observed,
        reason=reason,
        when_ms=when_ms,
        skipped=skipped,
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


def may_invite(core: Core, document: ClusterDocument, term: Term) -> bool:
    """Return whether standbys may connect to our server before it is promoted.

    What a WAL sender has heard of its standby stays with it beyond the promotion, so it must not
    reach beyond the fork. Where part of a record was received, that is sent and acknowledged like
    all else, and would then acknowledge what is written in its place.

    Args:
        core: of the node that leads.
        document: the newest one on a majority.
        term: that it leads.
    """
    observed = core.observed
    known = observed.in_recovery is True and observed.position is not None
    return _promotes(document, term) and known and observed.whole


def to_be_promoted(term: Term, document: ClusterDocument | None) -> Detached:
    """Return what a winner's server waits as until its promotion may begin."""
    if document is None or not _promotes(document, term):
        return Detached(term)
    return Detached(term, prepared=sync_setting(document.sync))


def _promotes(document: ClusterDocument, term: Term) -> bool:
    """Return whether a document is the one by which the winner of a term is promoted."""
    return document.phase is Phase.PROMOTING and document.term == term
