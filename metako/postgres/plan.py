"""The planner: from what is seen and what is wanted to the one next step.

Input: the whole picture of the local server (`PostgresObserved`), the target, and the few local
facts that the picture does not carry. Output: a step, or None when nothing is to be done *now*
(everything is as wanted, or something has to happen first that the picture will show).

Invariants, each of which a promise of the whole system rests on:

* PostgreSQL is only ever started as a standby; `Promote` is the only way to a primary.
* A server on another timeline than the reserved one is stopped, never served.
* A data directory whose WAL is not part of the upstream's history is never started as its standby.
* Applications are let in only on a standby, or on a primary whose marker was acknowledged.
* A data directory of another system is never touched.

It deliberately knows neither time nor how a step is done: pauses between tries, deadlines and
cancellation belong to the supervisor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from metako.model.ids import Term
from metako.model.lsn import WalPosition
from metako.model.postgres import (
    CatchingUp,
    DataState,
    Detached,
    Following,
    Initialize,
    Leading,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    Stopped,
    Untouched,
    Upstream,
)
from metako.model.timeline import chain, is_diverged, owner_of
from metako.postgres.steps import (
    ApplySettings,
    Checkpoint,
    Clone,
    Detach,
    EmitMarker,
    InitDb,
    MeasurePosition,
    Promote,
    Rewind,
    ServerConfig,
    Start,
    Step,
    StepFailed,
    StepFinished,
    Stop,
    SyncBarrier,
    UpstreamAddress,
)

__all__ = ["DETACHED", "LocalState", "StepFailed", "StepFinished", "is_pointless", "plan"]

DETACHED = ServerConfig()
"""A standby without upstream, open for reads."""


@dataclass(frozen=True, slots=True)
class LocalState:
    """What the planner needs to know and no other node does."""

    upstream: UpstreamAddress | None = None  # in force; None: not known, taken as right
    wal_lost: bool = False  # the upstream no longer has WAL that this standby needs
    start_hopeless: bool = False  # the server failed to come up several times in a row
    settings_stale: bool = False  # the node's own configuration changed since the last writing


def plan(
    observed: PostgresObserved, target: PostgresTarget, local: LocalState | None = None
) -> Step | None:
    """Return the next step towards `target`, or None if there is nothing to do now."""
    here = local or LocalState()
    unknown = observed.process is ProcessState.UNKNOWN or observed.data is DataState.UNKNOWN
    if unknown or observed.data is DataState.NONE or isinstance(target, Untouched):
        return None
    match target:
        case Stopped():
            return _stop(observed, target)
        case _ if observed.process is ProcessState.DYING:
            # The postmaster is dead. What is left of it can write nothing that matters, but
            # "verified gone" must be true before anything else is.
            return Stop(fast=False)
        case _ if observed.process is ProcessState.STOPPING:
            return None
        case Detached():
            return _detached(observed, here, target)
        case Following(upstream=upstream):
            if _is_to_restart(observed, target):
                return Stop(fast=True, restart=target.restart)
            return _following(observed, here, upstream)
        case CatchingUp():
            return _catching_up(observed, here, target)
        case Leading():
            return _leading(observed, here, target)
        case Initialize():
            return _initialize(observed)
        case _:
            assert_never(target)


def is_pointless(
    step: Step, observed: PostgresObserved, target: PostgresTarget, local: LocalState
) -> bool:
    """Return whether a step that runs is no longer what is to be done, and is to be abandoned."""
    if isinstance(step, Clone | Rewind):
        # What the planner sees changes while these run (the data are tainted), so only the target
        # can make them pointless.
        if not isinstance(target, Following):
            return True
        upstream, wanted = target.upstream, step.upstream
        return (upstream.node, upstream.address) != (wanted.node, wanted.address)
    ending = isinstance(step, Stop) and observed.process is ProcessState.STOPPED
    return not ending and plan(observed, target, local) != step


def _stop(observed: PostgresObserved, target: Stopped) -> Step | None:
    match observed.process:
        case ProcessState.STOPPED:
            return None
        case ProcessState.DYING:
            return Stop(fast=False)
        case _:
            return Stop(fast=target.fast, successor=target.successor)


def _initialize(observed: PostgresObserved) -> Step | None:
    if observed.process is not ProcessState.STOPPED:
        return None
    match observed.data:
        case DataState.EMPTY:
            return InitDb()
        case DataState.PRESENT:
            return _measure_then(observed, Term(0), Start(DETACHED))
        case _:
            return None


def _measure_then(observed: PostgresObserved, promise: Term, start: Start) -> Step:
    # Also where nobody asked for it: the start needs the position to tell history files that
    # belong to our WAL from those of promotions that never happened.
    if observed.position is None or observed.detached_for < promise:
        return MeasurePosition(promise)
    return start


def _detached(observed: PostgresObserved, local: LocalState, target: Detached) -> Step | None:
    promise = target.promise
    wanted = DETACHED
    if target.prepared is not None:
        wanted = ServerConfig(None, target.prepared, admit=False)
    if observed.data is not DataState.PRESENT:
        return None
    if observed.process is ProcessState.STOPPED:
        step = _measure_then(observed, promise, Start(wanted))
        return step if target.run or not isinstance(step, Start) else None
    if observed.process is ProcessState.STARTING:
        # A standby that is not consistent yet may already stream, hence acknowledge.
        return None if observed.upstream is None else Detach(promise, target.prepared)
    if observed.in_recovery is False:
        return Stop(fast=False)
    kept = (
        observed.receiver is ReceiverState.GONE
        and observed.upstream is None
        and observed.position is not None
        and observed.detached_for >= promise
    )
    if not kept:
        return Detach(promise, target.prepared)
    unprepared = target.prepared is not None and observed.sync_applied != target.prepared
    if local.settings_stale or observed.admitting != wanted.admit or unprepared:
        return ApplySettings(wanted)
    return None


def _is_foreign(observed: PostgresObserved, upstream: Upstream) -> bool:
    return bool(
        observed.system_id and upstream.system_id and observed.system_id != upstream.system_id
    )


def _following(observed: PostgresObserved, local: LocalState, upstream: Upstream) -> Step | None:
    wanted = UpstreamAddress(upstream.node, upstream.address)
    was_catching_up = local.upstream is not None and not local.upstream.counts
    if was_catching_up:
        # What the source of an earlier candidacy lacks says nothing about the one to follow now.
        local = replace(local, wal_lost=False)
    if observed.process is ProcessState.STOPPED:
        return _follow_from_stopped(observed, local, upstream, wanted)
    if _is_foreign(observed, upstream) or observed.data is DataState.EMPTY:
        return None
    if observed.in_recovery is False and observed.process is ProcessState.RUNNING:
        return Stop(fast=False)
    if observed.data is DataState.TAINTED or local.wal_lost or _runs_ahead(observed, upstream):
        return Stop(fast=True)
    renamed = observed.upstream != upstream.node or was_catching_up
    if renamed and observed.position is None:
        # A standby tells its upstream how far its WAL is flushed, and START_REPLICATION looks at
        # the beginning of a segment only: one that holds WAL beyond the fork would acknowledge
        # commits that it does not have. So it has to be known first where its WAL ends.
        starting = observed.process is ProcessState.STARTING
        return Stop(fast=True) if starting else Detach(observed.detached_for)
    if renamed and _went_astray(observed, upstream):
        return Stop(fast=True)
    moved = local.upstream is not None and local.upstream.address != upstream.address
    if renamed or moved or not observed.admitting or local.settings_stale:
        return ApplySettings(ServerConfig(wanted))
    return None


def _catching_up(observed: PostgresObserved, local: LocalState, target: CatchingUp) -> Step | None:
    """Attach a detached standby to another one, and do nothing else to it.

    The candidacy that this is for ends when the server is not a standby that is up.
    """
    source = target.source
    wanted = UpstreamAddress(source.node, source.address, counts=False)
    up = observed.process is ProcessState.RUNNING and observed.in_recovery is True
    if not up or observed.data is not DataState.PRESENT or _is_foreign(observed, source):
        return None
    if observed.upstream == source.node and local.upstream == wanted:
        return None
    position = observed.position
    if position is None:
        return Detach(target.promise)  # it has to be known first whether its WAL goes on there
    if is_diverged(source.timelines, source.tip, observed.history, position):
        return None
    return ApplySettings(ServerConfig(wanted))


def _is_to_restart(observed: PostgresObserved, target: Following) -> bool:
    """Return whether a standby has yet to be stopped by the order for its restart."""
    standby = observed.process is ProcessState.RUNNING and observed.in_recovery is True
    return standby and bool(target.restart) and observed.restarted != target.restart


def _follow_from_stopped(
    observed: PostgresObserved, local: LocalState, upstream: Upstream, wanted: UpstreamAddress
) -> Step | None:
    if observed.data in (DataState.EMPTY, DataState.TAINTED):
        return Clone(wanted)
    if _is_foreign(observed, upstream):
        return None
    if local.wal_lost or local.start_hopeless:
        return Clone(wanted)
    if observed.position is None:
        return MeasurePosition(observed.detached_for)
    if is_diverged(upstream.timelines, upstream.tip, observed.history, observed.position):
        return Clone(wanted) if observed.rewind_failed else Rewind(upstream)
    return Start(ServerConfig(wanted))


def _runs_ahead(observed: PostgresObserved, upstream: Upstream) -> bool:
    """Return whether a running standby seems to hold WAL that `upstream` does not share.

    An estimate that errs towards yes: the server is then stopped, measured from its disk, and
    only a position found there makes for a rewind.
    """
    if observed.receiver is ReceiverState.STREAMING and observed.upstream == upstream.node:
        return False  # the upstream itself has compared the histories
    if not upstream.tip or not observed.history or not observed.lsn:
        return False
    position = observed.position or WalPosition(
        owner_of(observed.history, observed.lsn), observed.lsn
    )
    return is_diverged(upstream.timelines, upstream.tip, observed.history, position)


def _went_astray(observed: PostgresObserved, upstream: Upstream) -> bool:
    """Return whether a running standby may have gone over to a timeline that came to nothing.

    PostgreSQL goes over as soon as it has the history file, and from there only on to descendants;
    a restart without that file is the only way back.
    """
    position = observed.position
    if position is None or observed.max_tli <= position.timeline:
        return False
    lineage = chain(upstream.timelines, upstream.tip)
    return observed.max_tli not in {entry.tli for entry in lineage}


def _leading(observed: PostgresObserved, local: LocalState, target: Leading) -> Step | None:
    if observed.data is not DataState.PRESENT:
        return None
    closed = ServerConfig(None, target.sync, admit=False)
    began = any(step.tli == target.tli for step in observed.history)
    if began and observed.in_recovery is not False:
        # This server was primary on that timeline already and has ended since. A number is used
        # once: whoever set the target has yet to see the end, and must reserve another.
        return None
    if observed.process is ProcessState.STOPPED:
        return _measure_then(observed, Term(0), Start(closed))
    if observed.process is not ProcessState.RUNNING or observed.in_recovery is None:
        return None
    if observed.in_recovery:
        settled = (
            observed.sync_applied == target.sync
            and observed.upstream is None
            and not observed.admitting
            and not local.settings_stale
        )
        if not settled:
            return ApplySettings(closed)
        if observed.receiver is not ReceiverState.GONE:
            return Detach(target.term)
        return Promote(target.term, target.tli)
    return _lead_primary(observed, local, target)


def _lead_primary(observed: PostgresObserved, local: LocalState, target: Leading) -> Step | None:
    if not observed.timeline:
        return None
    if observed.timeline != target.tli:
        return Stop(fast=False)
    marked = observed.marker_term >= target.term
    # Before its marker a fresh primary stays closed, whatever the target says already; one that
    # is being closed again is closed at once.
    admit = target.admit and (marked or observed.admitting)
    wanted = ServerConfig(None, target.sync, admit=admit)
    if observed.sync_applied != target.sync or local.settings_stale:
        return ApplySettings(wanted)
    if not target.admit and observed.admitting:
        return ApplySettings(wanted)
    if not marked:
        return EmitMarker(target.term)
    if observed.admitting != target.admit:
        return ApplySettings(wanted)
    # Last: letting applications in never waits for a barrier. Nor for the end of one: once the
    # marker is there they are let in in a moment, and until then no change of the set needs it.
    if target.admit and observed.sync_barrier != target.sync:
        return SyncBarrier(target.sync)
    if target.checkpoint and observed.checkpointed != target.checkpoint:
        return Checkpoint(target.checkpoint)
    return None
