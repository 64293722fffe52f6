"""Catching up, as a candidate, from a replier that is ahead and cannot lead.

Where the only standby that is sure to have every commit has priority 0, or no vote, both quorums
may be there and nobody to use them: those who could lead are behind. Such a candidate streams from
that standby, which is detached like everybody who has promised, and stands on with what it got.

In: a verdict that names such a replier, gossip's word on where its server is, pictures of the own
one. Out: what is wanted of the own server meanwhile, and for how long the candidacy goes on.

Invariants, each of which rests on R65 of docs/protocol.md:
* what is received is acknowledged to nobody: the name it is received under is in no setting;
* the own promise does not count again until a picture shows a position that was found after it;
* the WAL here is a beginning of what is received: nothing that a promise has told is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metako.election.core import Core
from metako.model.document import ClusterDocument, DocumentRef
from metako.model.events import EventName
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds, seconds
from metako.model.lsn import Lsn
from metako.model.member import ServerRole
from metako.model.postgres import CatchingUp, ProcessState, Upstream
from metako.model.timeline import is_diverged

if TYPE_CHECKING:
    from metako.election.candidate import Candidate
    from metako.election.quorum import Promise

CATCH_UP_MAX_S = 30.0
"""For so long at most a candidacy goes on to catch up; nobody leads meanwhile. It ends sooner if no
WAL comes for `candidacy_timeout`. What came is kept: the next one has less to get."""


@dataclass(slots=True)
class CatchUp:
    """One candidate's way to the position of one source."""

    term: Term  # of the candidacy
    document: DocumentRef  # that the candidacy was judged by
    target: CatchingUp
    goal: Lsn  # where the WAL of the source ends
    until_ns: int  # CLOCK_MONOTONIC, as the next
    moved_ns: int  # when WAL was last seen to come, or it began
    lsn: Lsn  # how far it was then
    done: bool = False  # everything was received; what is on disk is to be measured

    @property
    def source(self) -> NodeId:
        return self.target.source.node


def under_way(candidate: Candidate) -> CatchUp | None:
    """Return what a candidate that asks for votes is catching up with; None if it is not."""
    newest = candidate.catch_up
    if newest is None or newest.done or newest.term != candidate.term:
        return None
    return newest


def begin(candidate: Candidate, now: Instant, promise: Promise) -> None:
    """Begin to catch up from a replier, if it can be reached and is on the same history.

    Args:
        candidate: that has a majority of the votes and lacks what the replier has.
        now: the time of this step.
        promise: of the replier, kept, and further ahead than the candidate's.
    """
    core, document, former = candidate.core, candidate.core.document, candidate.catch_up
    assert document is not None
    source = _upstream(core, document, promise)
    if source is None or promise.position is None:
        return
    until_ns = now.mono_ns + seconds(CATCH_UP_MAX_S)
    if former is not None and former.term == candidate.term:
        until_ns = former.until_ns
    target, lsn = CatchingUp(candidate.term, source), core.observed.lsn
    begun = candidate.catch_up = CatchUp(
        term=candidate.term,
        document=document.ref,
        target=target,
        goal=promise.position.lsn,
        until_ns=until_ns,
        moved_ns=now.mono_ns,
        lsn=lsn,
    )
    core.emit(
        EventName.CATCH_UP_STARTED,
        f"has the votes, and gets the WAL that it lacks from {promise.node}, which cannot lead",
        term=candidate.term,
        source=promise.node,
        bytes=promise.position.lsn - lsn,
    )
    go_on(candidate, begun, now)


def _upstream(core: Core, document: ClusterDocument, promise: Promise) -> Upstream | None:
    """Return where the replier's server is; None if it does not run, or has another history."""
    member, position = core.members.get(promise.node), core.observed.position
    meta = member.meta if member is not None else None
    if meta is None or meta.postgres_address is None or not core.is_alive(promise.node):
        return None
    if meta.role is not ServerRole.STANDBY or meta.data_id != promise.data_id:
        return None
    if position is None or promise.position is None:
        return None
    there = promise.position
    # There may be two of one term: the cluster's first leader has made both.
    of_term = (entry for entry in document.timelines if entry.term == there.wal_term)
    tips = [entry.tli for entry in of_term if entry.begin_lsn < there.lsn]
    history = core.observed.history
    if not tips or is_diverged(document.timelines, tips[-1], history, position):
        return None
    return Upstream(
        node=promise.node,
        address=meta.postgres_address,
        term=document.term,
        timelines=document.timelines,
        tip=tips[-1],
        system_id=document.system_id,
    )


def go_on(candidate: Candidate, catch_up: CatchUp, now: Instant) -> None:
    """Look how far it has come: end it, or keep the candidacy alive for it."""
    core, source = candidate.core, catch_up.source
    observed = core.observed
    if core.document_ref != catch_up.document:
        # By another document others may be needed. Our promise would have to be kept anew for that.
        candidate.lose(f"document {core.document_ref} came while it caught up from {source}")
        return
    if observed.process is not ProcessState.RUNNING or observed.in_recovery is not True:
        candidate.lose(f"its server ended while it caught up from {source}")
        return
    # A picture with a position was taken before it was attached.
    attached = observed.position is None and observed.upstream == source
    if attached and observed.lsn > catch_up.lsn:
        catch_up.lsn, catch_up.moved_ns = observed.lsn, now.mono_ns
    patience_ns = milliseconds(core.settings.candidacy_timeout_ms)
    candidate.give_up_ns = min(catch_up.until_ns, catch_up.moved_ns + patience_ns)
    if candidate.verdict is not None:
        why = f"WAL that {source} has, which cannot lead: it is being received"
        candidate.verdict = replace(candidate.verdict, data=False, missing=why)
    if attached and observed.lsn >= catch_up.goal:
        catch_up.done = True
        candidate.give_up_ns = now.mono_ns + patience_ns
        core.emit(
            EventName.CAUGHT_UP,
            f"has received all that {source} has",
            term=candidate.term,
            source=source,
        )
