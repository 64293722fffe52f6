"""What a step has proven is told at once, and nothing that only a look can tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import server_kit
from server_kit import STANDBY

from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import (
    DataState,
    PostgresObserved,
    ProcessState,
    SyncSetting,
)
from metako.model.watchdog import WatchdogSeen
from metako.postgres import observe
from metako.postgres.facts import Facts
from metako.postgres.files import DiskView, ServerFiles
from metako.postgres.observe import Observer
from metako.postgres.process import Guard
from metako.postgres.steps import ServerConfig, UpstreamAddress

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
    return observer_of(facts), facts


class Disk:
    """Stands for the server's files and its guard; holds the history of timeline 2."""

    watchdog = WatchdogSeen()
    slow_s = 0.0

    def view(self) -> DiskView:
        time.sleep(self.slow_s)
        histories = {2: "1\t0/2BC\tno recovery target specified\n"}
        return DiskView(DataState.PRESENT, DataId("d"), histories, TimelineId(2))


def observer_of(facts: Facts, disk: Disk | None = None) -> Observer:
    none = cast("object", None)
    disk = disk or Disk()
    return Observer(
        settings=none,  # type: ignore[arg-type]  # nothing is looked at but the disk
        files=cast("ServerFiles", disk),
        guard=cast("Guard", disk),
        reader=none,  # type: ignore[arg-type]
        facts=facts,
    )


async def test_the_marker_and_then_the_admission_are_told_without_a_look() -> None:
    observer, _ = observer_after("promoted")
    assert await observer.amended(PRIMARY) == PRIMARY
    observer, _ = observer_after("marked")
    marked = await observer.amended(PRIMARY)
    assert marked == replace(PRIMARY, marker_term=Term(7))
    observer, _ = observer_after("admitted")
    assert await observer.amended(marked) == replace(marked, admitting=True)


async def test_a_checkpoint_is_told_with_the_end_of_the_wal_after_it() -> None:
    """By what they had flushed in the picture, the standbys have yet to confirm it."""
    observer, facts = observer_after("admitted")
    facts.checkpointed, facts.wal_end = "order", Lsn(900)
    amended = await observer.amended(replace(PRIMARY, replay_lsn=Lsn(700)))
    assert (amended.checkpointed, amended.lsn, amended.replay_lsn) == ("order", 900, 900)
    assert (await observer.amended(replace(PRIMARY, lsn=Lsn(950)))).lsn == 950


async def test_settings_that_no_fresh_backend_has_shown_are_not_told() -> None:
    observer, facts = observer_after("admitted")
    facts.verified = False
    assert not (await observer.amended(PRIMARY)).admitting


async def test_settings_that_differ_in_whom_commits_wait_for_need_a_look() -> None:
    """The picture's standbys are from before: nobody may conclude from both together."""
    observer, facts = observer_after("admitted")
    facts.written = ServerConfig(None, SyncSetting((NodeId("b"),), 1), admit=True)
    amended = await observer.amended(PRIMARY)
    assert (amended.admitting, amended.sync_applied) == (False, SYNC)


@pytest.mark.parametrize(
    "changes",
    [
        {"in_recovery": None, "process": ProcessState.STARTING},
        {"in_recovery": None, "process": ProcessState.STOPPED},
        {"silent": True},
    ],
    ids=["starting", "stopped", "silent"],
)
async def test_nothing_is_told_of_what_did_not_answer_when_it_was_seen(
    changes: dict[str, object],
) -> None:
    observer, _ = observer_after("admitted")
    seen = replace(PRIMARY, **changes)  # type: ignore[arg-type]
    assert await observer.amended(seen) is seen


async def test_nothing_is_told_once_the_server_was_seen_to_have_ended() -> None:
    observer, facts = observer_after("admitted")
    facts.server_stopped()
    assert await observer.amended(PRIMARY) is PRIMARY


# ---------------------------------------------------------------- standbys

DETACHED = replace(server_kit.DETACHED, sync_applied=ServerConfig().sync, whole=True)


def facts_of_detached() -> Facts:
    facts = Facts()
    facts.was_up, facts.last_in_recovery, facts.verified = True, True, True
    facts.written = ServerConfig()
    facts.found_position(WalPosition(TimelineId(1), Lsn(700)), Term(7), received=Lsn(700))
    return facts


async def test_a_promise_that_is_kept_is_told_without_a_look() -> None:
    assert await observer_of(facts_of_detached()).amended(STANDBY) == DETACHED


async def test_settings_that_a_detached_standby_has_loaded_are_told_without_a_look() -> None:
    facts = facts_of_detached()
    facts.written = ServerConfig(None, SYNC, admit=False)
    amended = await observer_of(facts).amended(DETACHED)
    assert amended == replace(DETACHED, sync_applied=SYNC, admitting=False)


def unverified(facts: Facts) -> None:
    facts.verified = False


def attached(facts: Facts) -> None:
    facts.written = ServerConfig(UpstreamAddress(NodeId("a"), Address("h", 1)))


def forgotten(facts: Facts) -> None:
    facts.forget_position()


def on_another_timeline(facts: Facts) -> None:
    facts.found_position(WalPosition(TimelineId(2), Lsn(700)), Term(7), received=Lsn(700))


@pytest.mark.parametrize("change", [unverified, attached, forgotten, on_another_timeline])
async def test_what_is_not_proven_of_a_standby_needs_a_look(
    change: Callable[[Facts], None],
) -> None:
    facts = facts_of_detached()
    change(facts)
    assert await observer_of(facts).amended(STANDBY) is STANDBY


# ---------------------------------------------------------------- promotions


def facts_of_promoted() -> Facts:
    facts = facts_of_detached()
    facts.forget_position()
    facts.written = ServerConfig(None, SYNC, admit=False)
    facts.last_in_recovery, facts.timeline = False, TimelineId(2)
    return facts


async def test_a_promotion_is_told_with_the_history_of_its_timeline() -> None:
    seen = replace(DETACHED, sync_applied=SYNC, admitting=False)
    amended = await observer_of(facts_of_promoted()).amended(seen)
    assert (amended.in_recovery, amended.timeline) == (False, 2)
    assert [(step.tli, step.begin_lsn) for step in amended.history] == [(1, 0), (2, 0x2BC)]
    assert (amended.position, amended.detached_for) == (None, 0)
    assert (amended.sync_applied, amended.admitting, amended.marker_term) == (SYNC, False, 0)


async def test_a_promotion_is_not_told_without_the_history_of_its_timeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observe, "DISK_TIMEOUT_S", 0.01)
    disk = Disk()
    disk.slow_s = 0.1
    assert await observer_of(facts_of_promoted(), disk).amended(DETACHED) is DETACHED
