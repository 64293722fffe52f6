"""The planner's table, row by row, and that following its steps reaches every target."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import (
    CatchingUp,
    DataState,
    Detached,
    Following,
    Initialize,
    Leading,
    PostgresObserved,
    ProcessState,
    ReceiverState,
    Stopped,
    SyncSetting,
    Untouched,
    Upstream,
)
from metako.model.timeline import HistoryStep, TimelineEntry
from metako.postgres.plan import DETACHED, LocalState, is_pointless, plan
from metako.postgres.steps import (
    CANCELLABLE,
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
    Stop,
    SyncBarrier,
    UpstreamAddress,
    step_name,
)

B = NodeId("b")
AT_B = Address("10.0.0.2", 5432)
HISTORY = (HistoryStep(TimelineId(1), Lsn(0)), HistoryStep(TimelineId(2), Lsn(1000)))
ENTRIES = (
    TimelineEntry(Term(0), TimelineId(1), TimelineId(0), Lsn(0), confirmed=True),
    TimelineEntry(Term(1), TimelineId(2), TimelineId(1), Lsn(1000), confirmed=True),
    TimelineEntry(Term(4), TimelineId(5), TimelineId(2), Lsn(5000), confirmed=True),
)
UPSTREAM = Upstream(B, AT_B, Term(4), ENTRIES, TimelineId(5), system_id=77)
FROM_B = UpstreamAddress(B, AT_B)
S1 = SyncSetting((B,), 1)
NONE = SyncSetting()

STOPPED = PostgresObserved(
    data=DataState.PRESENT,
    process=ProcessState.STOPPED,
    system_id=77,
    data_id=DataId("d"),
    timeline=TimelineId(2),
    history=HISTORY,
    receiver=ReceiverState.GONE,
)
MEASURED = replace(STOPPED, position=WalPosition(TimelineId(2), Lsn(5000)), detached_for=Term(4))
STANDBY = replace(
    MEASURED,
    process=ProcessState.RUNNING,
    in_recovery=True,
    lsn=Lsn(5000),
    sync_applied=NONE,
    admitting=True,
)
STREAMING = replace(
    STANDBY,
    receiver=ReceiverState.STREAMING,
    upstream=B,
    position=None,
    detached_for=Term(0),
    timeline=TimelineId(5),
    history=(*HISTORY, HistoryStep(TimelineId(5), Lsn(5000))),
    lsn=Lsn(6000),
)
PRIMARY = replace(
    STANDBY,
    in_recovery=False,
    timeline=TimelineId(5),
    position=None,
    sync_applied=S1,
    sync_barrier=S1,
    marker_term=Term(4),
)
EMPTY = PostgresObserved(data=DataState.EMPTY, process=ProcessState.STOPPED)
LEAD = Leading(Term(4), TimelineId(5), S1, admit=True)
CLOSED = ServerConfig(None, S1, admit=False)
OPEN = ServerConfig(None, S1, admit=True)
FOLLOW = Following(UPSTREAM)
CATCH_UP = CatchingUp(Term(4), UPSTREAM)
UNCOUNTED = UpstreamAddress(B, AT_B, counts=False)
DETACH = Detached(Term(4))
DOWN = Detached(Term(4), run=False)
PREPARED = Detached(Term(4), prepared=S1)
TAINTED = replace(STOPPED, data=DataState.TAINTED)


@pytest.mark.parametrize(
    ("observed", "target", "step"),
    [
        (PRIMARY, Untouched(), None),
        (PostgresObserved(), FOLLOW, None),
        (replace(EMPTY, data=DataState.NONE), FOLLOW, None),
        # Stopped
        (STOPPED, Stopped(fast=True), None),
        (PRIMARY, Stopped(fast=True), Stop(fast=True)),
        (PRIMARY, Stopped(fast=False), Stop(fast=False)),
        (PRIMARY, Stopped(fast=True, successor=B), Stop(fast=True, successor=B)),
        (replace(STOPPED, process=ProcessState.DYING), Stopped(fast=True), Stop(fast=False)),
        (replace(STOPPED, process=ProcessState.DYING), DETACH, Stop(fast=False)),
        # Initialize
        (EMPTY, Initialize(), InitDb()),
        (STOPPED, Initialize(), MeasurePosition(Term(0))),
        (MEASURED, Initialize(), Start(ServerConfig())),
        (STANDBY, Initialize(), None),
        # Detached
        (EMPTY, DETACH, None),
        (TAINTED, DETACH, None),
        (STOPPED, DETACH, MeasurePosition(Term(4))),
        (MEASURED, Detached(Term(5)), MeasurePosition(Term(5))),
        (MEASURED, DETACH, Start(ServerConfig())),
        (STREAMING, DETACH, Detach(Term(4))),
        (STANDBY, DETACH, None),
        (STANDBY, Detached(Term(5)), Detach(Term(5))),
        # One that stands is prepared for its promotion by the same reload.
        (MEASURED, PREPARED, Start(CLOSED)),
        (STREAMING, PREPARED, Detach(Term(4), S1)),
        (STANDBY, PREPARED, ApplySettings(CLOSED)),
        (replace(STANDBY, sync_applied=S1, admitting=False), PREPARED, None),
        (replace(STANDBY, sync_applied=S1, admitting=False), DETACH, ApplySettings(DETACHED)),
        (STOPPED, DOWN, MeasurePosition(Term(4))),
        (MEASURED, replace(DOWN, promise=Term(5)), MeasurePosition(Term(5))),
        (MEASURED, DOWN, None),
        (EMPTY, DOWN, None),
        (STANDBY, DOWN, None),  # one that runs is left running
        (STREAMING, DOWN, Detach(Term(4))),
        (PRIMARY, DOWN, Stop(fast=False)),
        (replace(STANDBY, receiver=ReceiverState.PRESENT), DETACH, Detach(Term(4))),
        (replace(STANDBY, position=None), DETACH, Detach(Term(4))),
        (PRIMARY, DETACH, Stop(fast=False)),
        (replace(STREAMING, process=ProcessState.STARTING), DETACH, Detach(Term(4))),
        (replace(STANDBY, process=ProcessState.STARTING), DETACH, None),
        # Following
        (EMPTY, FOLLOW, Clone(FROM_B)),
        (TAINTED, FOLLOW, Clone(FROM_B)),
        (STOPPED, FOLLOW, MeasurePosition(Term(0))),
        (MEASURED, FOLLOW, Start(ServerConfig(FROM_B))),
        (replace(MEASURED, system_id=78), FOLLOW, None),
        (replace(STANDBY, system_id=78), FOLLOW, None),
        (
            replace(MEASURED, position=WalPosition(TimelineId(2), Lsn(5008))),
            FOLLOW,
            Rewind(UPSTREAM),
        ),
        (
            replace(MEASURED, position=WalPosition(TimelineId(2), Lsn(5008)), rewind_failed=True),
            FOLLOW,
            Clone(FROM_B),
        ),
        (STANDBY, FOLLOW, ApplySettings(ServerConfig(FROM_B))),
        (replace(STANDBY, lsn=Lsn(5008), position=None), FOLLOW, Stop(fast=True)),
        (STREAMING, FOLLOW, None),
        (PRIMARY, FOLLOW, Stop(fast=False)),
        # CatchingUp: a standby that is up is attached, and nothing else is done
        (STANDBY, CATCH_UP, ApplySettings(ServerConfig(UNCOUNTED))),
        (replace(STANDBY, position=None), CATCH_UP, Detach(Term(4))),
        (replace(STREAMING, upstream=NodeId("c")), CATCH_UP, Detach(Term(4))),
        (
            replace(STANDBY, lsn=Lsn(5008), position=WalPosition(TimelineId(2), Lsn(5008))),
            CATCH_UP,
            None,
        ),  # beyond the fork
        (replace(STANDBY, system_id=78), CATCH_UP, None),
        (replace(STANDBY, process=ProcessState.STARTING), CATCH_UP, None),
        (MEASURED, CATCH_UP, None),
        (STOPPED, CATCH_UP, None),
        (TAINTED, CATCH_UP, None),
        (EMPTY, CATCH_UP, None),
        (PRIMARY, CATCH_UP, None),
        # Leading
        (EMPTY, LEAD, None),
        (TAINTED, LEAD, None),
        (STOPPED, LEAD, MeasurePosition(Term(0))),
        (MEASURED, LEAD, Start(CLOSED)),
        (STANDBY, LEAD, ApplySettings(CLOSED)),
        (replace(STANDBY, sync_applied=S1), LEAD, ApplySettings(CLOSED)),
        (
            replace(STANDBY, sync_applied=S1, admitting=False),
            LEAD,
            Promote(Term(4), TimelineId(5)),
        ),
        (
            replace(STANDBY, sync_applied=S1, admitting=False, receiver=ReceiverState.PRESENT),
            LEAD,
            Detach(Term(4)),
        ),
        (PRIMARY, LEAD, None),
        (replace(PRIMARY, timeline=TimelineId(4)), LEAD, Stop(fast=False)),
        (replace(PRIMARY, timeline=TimelineId(0)), LEAD, None),
        (replace(PRIMARY, sync_applied=NONE), LEAD, ApplySettings(OPEN)),
        (replace(PRIMARY, sync_applied=None), LEAD, ApplySettings(OPEN)),
        (replace(PRIMARY, sync_barrier=None), LEAD, SyncBarrier(S1)),
        # Between marker and admission a barrier would only be in the way.
        (replace(PRIMARY, sync_barrier=None, admitting=False), replace(LEAD, admit=False), None),
        (replace(PRIMARY, marker_term=Term(3)), LEAD, EmitMarker(Term(4))),
        (replace(PRIMARY, admitting=False), LEAD, ApplySettings(OPEN)),
        (PRIMARY, replace(LEAD, admit=False), ApplySettings(CLOSED)),
    ],
)
def test_the_table(observed, target, step):
    assert plan(observed, target) == step


def test_a_fresh_primary_stays_closed_until_its_marker_although_it_may_admit():
    fresh = replace(PRIMARY, marker_term=Term(0), admitting=False, sync_applied=NONE)
    assert plan(fresh, LEAD) == ApplySettings(CLOSED)


def test_letting_applications_in_comes_before_the_barrier():
    waiting = replace(PRIMARY, sync_barrier=None, admitting=False)
    assert plan(waiting, LEAD) == ApplySettings(OPEN)


def test_a_standby_without_the_wal_that_it_needs_is_stopped_and_cloned():
    local = LocalState(wal_lost=True)
    waiting = replace(STREAMING, receiver=ReceiverState.GONE)
    assert plan(waiting, FOLLOW, local) == Stop(fast=True)
    assert plan(MEASURED, FOLLOW, local) == Clone(FROM_B)


def test_an_upstream_that_moved_is_pointed_at_again():
    local = LocalState(upstream=UpstreamAddress(B, Address("10.0.0.9", 5432)))
    assert plan(STREAMING, FOLLOW, local) == ApplySettings(ServerConfig(FROM_B))


def test_who_catches_up_is_left_alone_until_it_has_to_follow_or_to_detach():
    local = LocalState(upstream=UNCOUNTED, wal_lost=True)
    assert plan(STREAMING, CATCH_UP, local) is None
    assert plan(STREAMING, DETACH, local) == Detach(Term(4))


def test_a_standby_under_its_own_name_does_not_pass_for_one_that_catches_up():
    """It would go on to acknowledge, to whoever answers there."""
    assert plan(STREAMING, CATCH_UP, LocalState(upstream=FROM_B)) == Detach(Term(4))


def test_who_has_caught_up_from_a_node_follows_it_under_its_own_name_and_keeps_its_data():
    local = LocalState(upstream=UNCOUNTED, wal_lost=True)
    assert plan(STREAMING, FOLLOW, local) == Detach(Term(0))
    assert plan(replace(STREAMING, receiver=ReceiverState.GONE), FOLLOW, local) == Detach(Term(0))
    assert plan(MEASURED, FOLLOW, local) == Start(ServerConfig(FROM_B))


def test_a_server_that_never_comes_up_is_cloned_by_a_follower_only():
    local = LocalState(start_hopeless=True)
    assert plan(MEASURED, FOLLOW, local) == Clone(FROM_B)
    assert plan(MEASURED, DETACH, local) == Start(ServerConfig())


@pytest.mark.parametrize("observed", [STANDBY, STREAMING, PRIMARY])
def test_settings_that_are_stale_are_written_again_in_the_same_role(observed):
    target = {STANDBY: DETACH, STREAMING: FOLLOW, PRIMARY: LEAD}[observed]
    step = plan(observed, target, LocalState(settings_stale=True))
    assert isinstance(step, ApplySettings)
    assert plan(observed, target, LocalState()) is None


@pytest.mark.parametrize(
    ("observed", "step"),
    [
        # How far its WAL goes is not known: it may hold more than the new primary.
        (replace(STREAMING, upstream=NodeId("c")), Detach(Term(0))),
        (replace(STANDBY, position=None), Detach(Term(4))),
        (replace(STANDBY, process=ProcessState.STARTING, position=None), Stop(fast=True)),
        # It is known.
        (STANDBY, ApplySettings(ServerConfig(FROM_B))),
        (replace(STANDBY, position=WalPosition(TimelineId(2), Lsn(5001))), Stop(fast=True)),
        # It has the history file of a promotion that came to nothing, and may have gone over.
        (replace(STANDBY, max_tli=TimelineId(4)), Stop(fast=True)),
        (replace(STANDBY, max_tli=TimelineId(5)), ApplySettings(ServerConfig(FROM_B))),
        # Not a new upstream.
        (STREAMING, None),
    ],
)
def test_standby_gets_a_new_upstream_only_when_its_end_of_wal_is_known(
    observed: PostgresObserved, step: object
) -> None:
    """It would tell the upstream that it has flushed what it has, and acknowledge with that."""
    assert plan(observed, FOLLOW) == step


def test_every_server_waits_for_a_standby_that_does_not_exist_until_it_leads() -> None:
    started = plan(MEASURED, DETACH)
    assert started == Start(ServerConfig())
    assert ServerConfig().sync == SyncSetting((), 1)


# ---------------------------------------------------------------- handing over

HANDING_OVER = replace(LEAD, checkpoint="o1")


def test_a_checkpoint_is_written_once_for_each_handover() -> None:
    assert plan(PRIMARY, HANDING_OVER) == Checkpoint("o1")
    assert plan(replace(PRIMARY, checkpointed="o0"), HANDING_OVER) == Checkpoint("o1")
    assert plan(replace(PRIMARY, checkpointed="o1"), HANDING_OVER) is None
    assert plan(replace(PRIMARY, checkpointed="o1"), LEAD) is None


@pytest.mark.parametrize(
    ("observed", "step"),
    [
        (replace(PRIMARY, sync_applied=NONE), ApplySettings(OPEN)),
        (replace(PRIMARY, marker_term=Term(3)), EmitMarker(Term(4))),
        (replace(PRIMARY, admitting=False), ApplySettings(OPEN)),
        (replace(PRIMARY, sync_barrier=None), SyncBarrier(S1)),
        (replace(PRIMARY, timeline=TimelineId(4)), Stop(fast=False)),
    ],
)
def test_everything_else_comes_before_it(observed: PostgresObserved, step: object) -> None:
    assert plan(observed, HANDING_OVER) == step


@pytest.mark.parametrize("observed", [STOPPED, MEASURED, STANDBY, STREAMING])
def test_only_a_primary_writes_one(observed: PostgresObserved) -> None:
    assert plan(observed, HANDING_OVER) == plan(observed, LEAD)


def test_it_is_abandoned_when_it_is_no_longer_wanted_or_something_is_more_urgent() -> None:
    step, local = Checkpoint("o1"), LocalState()
    assert step_name(step) in CANCELLABLE
    assert not is_pointless(step, PRIMARY, HANDING_OVER, local)
    assert is_pointless(step, PRIMARY, LEAD, local)
    assert is_pointless(step, PRIMARY, Stopped(fast=True, successor=B), local)
    assert is_pointless(step, replace(PRIMARY, sync_barrier=None), HANDING_OVER, local)


def test_another_successor_is_another_way_to_stop() -> None:
    step, local = Stop(fast=True, successor=B), LocalState()
    assert not is_pointless(step, PRIMARY, Stopped(fast=True, successor=B), local)
    assert is_pointless(step, PRIMARY, Stopped(fast=True, successor=NodeId("c")), local)
    assert is_pointless(step, PRIMARY, Stopped(fast=False), local)
    assert not is_pointless(step, STOPPED, Stopped(fast=True, successor=B), local)
