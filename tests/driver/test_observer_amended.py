"""What a step has proven of a primary is told at once, and nothing that only a look can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from metako.model.ids import NodeId, Term
from metako.model.lsn import Lsn
from metako.model.postgres import DataState, PostgresObserved, ProcessState, SyncSetting
from metako.postgres.facts import Facts
from metako.postgres.observe import Observer
from metako.postgres.steps import ServerConfig

SYNC = SyncSetting((NodeId("b"), NodeId("c")), 1)
PRIMARY = PostgresObserved(
    data=DataState.PRESENT,
    process=ProcessState.RUNNING,
    in_recovery=False,
    lsn=Lsn(700),
    sync_applied=SYNC,
)


def observer_after(step: str) -> tuple[Observer, Facts]:
    """Return an observer of a new primary that has just done a step."""
    facts = Facts()
    facts.was_up, facts.last_in_recovery, facts.verified = True, False, True
    facts.written = ServerConfig(None, SYNC, admit=step == "admitted")
    facts.marker_term = Term(0) if step == "promoted" else Term(7)
    none = cast("object", None)
    observer = Observer(
        settings=none,  # type: ignore[arg-type]  # nothing is looked at
        files=none,  # type: ignore[arg-type]
        guard=none,  # type: ignore[arg-type]
        reader=none,  # type: ignore[arg-type]
        facts=facts,
    )
    return observer, facts


def test_the_marker_and_then_the_admission_are_told_without_a_look() -> None:
    observer, _ = observer_after("promoted")
    assert observer.amended(PRIMARY) == PRIMARY
    observer, _ = observer_after("marked")
    marked = observer.amended(PRIMARY)
    assert marked == replace(PRIMARY, marker_term=Term(7))
    observer, _ = observer_after("admitted")
    assert observer.amended(marked) == replace(marked, admitting=True)


def test_settings_that_no_fresh_backend_has_shown_are_not_told() -> None:
    observer, facts = observer_after("admitted")
    facts.verified = False
    assert not observer.amended(PRIMARY).admitting


def test_settings_that_differ_in_whom_commits_wait_for_need_a_look() -> None:
    """The picture's standbys are from before: nobody may conclude from both together."""
    observer, facts = observer_after("admitted")
    facts.written = ServerConfig(None, SyncSetting((NodeId("b"),), 1), admit=True)
    amended = observer.amended(PRIMARY)
    assert (amended.admitting, amended.sync_applied) == (False, SYNC)


@pytest.mark.parametrize(
    "changes",
    [
        {"in_recovery": True},
        {"in_recovery": None, "process": ProcessState.STARTING},
        {"in_recovery": None, "process": ProcessState.STOPPED},
        {"silent": True},
    ],
    ids=["standby", "starting", "stopped", "silent"],
)
def test_nothing_is_told_of_what_was_no_primary_when_it_was_seen(
    changes: dict[str, object],
) -> None:
    observer, _ = observer_after("admitted")
    seen = replace(PRIMARY, **changes)  # type: ignore[arg-type]
    assert observer.amended(seen) is seen


def test_nothing_is_told_once_the_server_was_seen_to_have_ended() -> None:
    observer, facts = observer_after("admitted")
    facts.server_stopped()
    assert observer.amended(PRIMARY) is PRIMARY
