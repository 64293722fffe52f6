"""A marker that does not return is the first commit that is blocked, and is told as such."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from metako.model.ids import Term
from metako.model.postgres import PostgresObserved, ProcessState
from metako.postgres import commit
from metako.postgres.background import PROBE_INTERVAL_S, PROBE_TIMEOUT_S, Background
from metako.postgres.doing import StepDoer
from metako.postgres.execute import Executor, StepError
from metako.postgres.facts import Facts
from metako.postgres.steps import EmitMarker

PROMOTED = PostgresObserved(process=ProcessState.RUNNING, in_recovery=False)
NOTICED_S = PROBE_TIMEOUT_S + PROBE_INTERVAL_S
LONG_S = 10.0


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> Facts:
    async def never_acknowledged(*_: object) -> None:
        await trio.sleep(LONG_S)
        raise StepError("the commit was not acknowledged: not answered in time")

    monkeypatch.setattr(commit, "emit_marker", never_acknowledged)
    return Facts()


def parts(facts: Facts) -> tuple[Background, StepDoer]:
    sessions = SimpleNamespace(any=None, fresh=None)
    executor = cast(
        "Executor",
        SimpleNamespace(sessions=sessions, settings=None, checkpoint_wanted=trio.Event()),
    )
    none = cast("object", None)
    background = Background(
        executor=executor,
        files=none,  # type: ignore[arg-type]  # nothing is deleted
        facts=facts,
        report=lambda _: None,
    )
    background.observed(PROMOTED, streams=False)
    doer = StepDoer(executor, none, none, facts)  # type: ignore[arg-type]  # not for a marker
    return background, doer


async def test_commits_are_blocked_while_the_marker_waits_for_long(
    facts: Facts, autojump_clock: trio.testing.MockClock
) -> None:
    background, doer = parts(facts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run)
        nursery.start_soon(attempt, doer)
        await trio.sleep(PROBE_TIMEOUT_S - 0.1)
        assert not facts.commit_blocked
        await trio.sleep(PROBE_INTERVAL_S + 0.2)
        assert facts.commit_blocked
        await trio.sleep(LONG_S)
        # It is tried again; the standbys are given no new chance by that.
        nursery.start_soon(attempt, doer)
        await trio.sleep(PROBE_INTERVAL_S + 0.1)
        assert facts.commit_blocked
        nursery.cancel_scope.cancel()


async def test_a_marker_that_returned_is_not_blocked(
    facts: Facts, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(*_: object) -> None:
        await trio.sleep(NOTICED_S + 0.1)

    monkeypatch.setattr(commit, "emit_marker", late)
    background, doer = parts(facts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run)
        await doer.do(EmitMarker(Term(3)))
        assert facts.marker_term == 3
        assert not facts.commit_blocked
        await trio.sleep(NOTICED_S)
        assert not facts.commit_blocked
        nursery.cancel_scope.cancel()


async def test_a_promotion_waits_for_its_own_marker(
    facts: Facts, autojump_clock: trio.testing.MockClock
) -> None:
    background, doer = parts(facts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run)
        nursery.start_soon(attempt, doer)
        await trio.sleep(NOTICED_S)
        facts.promoting()
        await trio.sleep(PROBE_INTERVAL_S + 0.1)  # past a look of the same instant as the check
        assert not facts.commit_blocked
        nursery.cancel_scope.cancel()


async def attempt(doer: StepDoer) -> None:
    with pytest.raises(StepError):
        await doer.do(EmitMarker(Term(3)))
