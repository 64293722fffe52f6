"""What the log tells of the local server."""

from __future__ import annotations

from metako.cluster.narrate import server_events
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId, Term
from metako.model.postgres import (
    DataState,
    Detached,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    Stopped,
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


def test_start_and_streaming_are_told_once_each() -> None:
    assert names(STOPPED, STANDBY) == [EventName.POSTGRES_STARTED]
    assert names(STANDBY, STREAMING) == [EventName.REJOIN]
    assert names(STREAMING, STANDBY) == []


def test_blocked_commits_are_told_when_they_begin_and_when_they_end() -> None:
    assert names(PRIMARY, BLOCKED) == [EventName.COMMITS_BLOCKED]
    assert names(BLOCKED, PRIMARY) == [EventName.COMMITS_BLOCKED]
