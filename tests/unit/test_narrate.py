"""What the log tells of the local server."""

from __future__ import annotations

from dataclasses import replace

from metako.cluster.narrate import server_events
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.postgres import (
    DataState,
    Detached,
    Leading,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    Stopped,
    SyncSetting,
)

STOPPED = PostgresObserved(data=DataState.PRESENT, process=ProcessState.STOPPED)
STANDBY = PostgresObserved(data=DataState.PRESENT, process=ProcessState.RUNNING, in_recovery=True)
PRIMARY = PostgresObserved(data=DataState.PRESENT, process=ProcessState.RUNNING, in_recovery=False)
STREAMING = PostgresObserved(
    data=DataState.PRESENT,
    process=ProcessState.RUNNING,
    in_recovery=True,
    receiver=ReceiverState.STREAMING,
    upstream=NodeId("b"),
)
BLOCKED = PostgresObserved(
    data=DataState.PRESENT, process=ProcessState.RUNNING, in_recovery=False, commit_blocked=True
)


def names(
    before: PostgresObserved, after: PostgresObserved, target: PostgresTarget | None = None
) -> list[EventName]:
    return [event.name for event in server_events(before, after, target)]


def test_the_same_picture_tells_nothing() -> None:
    for picture in (STOPPED, STANDBY, PRIMARY, STREAMING, BLOCKED):
        assert names(picture, picture) == []


def test_an_end_that_nobody_wanted_is_a_crash_and_an_error_on_a_primary() -> None:
    (told,) = server_events(PRIMARY, STOPPED, Detached(Term(3)))
    assert told.name is EventName.POSTGRES_CRASHED
    assert told.severity is Severity.ERROR
    assert dict(told.fields)["role"] == "primary"


def test_an_end_that_was_wanted_is_a_stop() -> None:
    assert names(STANDBY, STOPPED, Stopped(fast=True)) == [EventName.POSTGRES_STOPPED]


def test_a_server_that_its_agent_stops_to_start_it_another_way_did_not_crash() -> None:
    for before in (STANDBY, PRIMARY, replace(STANDBY, process=ProcessState.STARTING)):
        for after in (STOPPED, replace(STOPPED, process=ProcessState.DYING)):
            asked = replace(after, stop_asked=True)
            assert names(before, asked, Detached(Term(3))) == [EventName.POSTGRES_STOPPED]
            assert names(before, after, Detached(Term(3))) == [EventName.POSTGRES_CRASHED]


def test_start_and_streaming_are_told_once_each() -> None:
    assert names(STOPPED, STANDBY) == [EventName.POSTGRES_STARTED]
    assert names(STANDBY, STREAMING) == [EventName.REJOIN]
    assert names(STREAMING, STANDBY) == []


def test_blocked_commits_are_told_when_they_begin_and_when_they_end() -> None:
    assert names(PRIMARY, BLOCKED) == [EventName.COMMITS_BLOCKED]
    assert names(BLOCKED, PRIMARY) == [EventName.COMMITS_BLOCKED]


def test_that_a_server_which_is_stopped_returns_no_commit_is_no_news() -> None:
    """It takes no connections while it shuts down, so the look at it finds its commits blocked."""
    for target in (Stopped(fast=True), Stopped(fast=True, successor=NodeId("b"))):
        assert names(PRIMARY, BLOCKED, target) == []
        assert names(BLOCKED, PRIMARY, target) == []
    assert names(BLOCKED, STOPPED, Stopped(fast=True)) == [EventName.POSTGRES_STOPPED]
    leading = Leading(Term(3), TimelineId(2), SyncSetting(), admit=True)
    assert names(PRIMARY, BLOCKED, leading) == [EventName.COMMITS_BLOCKED]


def test_commits_that_were_blocked_when_the_server_ended_are_not_told_to_go_on() -> None:
    assert names(BLOCKED, STOPPED, Detached(Term(3))) == [EventName.POSTGRES_CRASHED]
    assert names(STOPPED, STANDBY) == [EventName.POSTGRES_STARTED]
