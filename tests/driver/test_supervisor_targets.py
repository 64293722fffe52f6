"""What the supervisor does about a new target, or a proof, before it looks again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from server_kit import DETACHED, STANDBY

from metako.model.ids import Address, NodeId, Term, TimelineId
from metako.model.postgres import (
    Detached,
    Following,
    Leading,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    Stopped,
    SyncSetting,
    Upstream,
)
from metako.postgres import steps
from metako.postgres.settings import ServerSettings
from metako.postgres.supervisor import CHANGING_FOR_S, PostgresSupervisor

Clock = trio.testing.MockClock
FOLLOWING = Following(
    Upstream(NodeId("a"), Address("h", 1), Term(7), (), tip=TimelineId(0), system_id=0)
)


class Supervised(PostgresSupervisor):
    """A supervisor of a server that does at once what is wanted of it; `done` tells the order."""

    def __init__(self, directory: Path, seen: PostgresObserved) -> None:
        none = cast("object", None)
        super().__init__(
            settings=ServerSettings(
                node=NodeId("b"),
                data_dir=directory / "data",
                state_dir=directory / "state",
                socket_dir=directory,
                listen="127.0.0.1",
                port=5432,
                secret=b"x",
            ),
            installation=none,  # type: ignore[arg-type]  # no server is touched
            user=none,  # type: ignore[arg-type]
            guard=none,  # type: ignore[arg-type]
        )
        self.server = seen
        self.done: list[str] = []
        self.proves = False  # as the observer does, when a step has shown what it did
        self.on_look: Callable[[], None] = lambda: None

    async def _look(self) -> None:
        await trio.sleep(0.01)
        self.on_look()
        self._observed = replace(self.server, under=self._target)
        self._seen_at, self._has_proven = trio.current_time(), False
        self.done.append("look")

    async def _carry_out(self, step: steps.Step) -> None:
        self.done.append(steps.step_name(step))
        self._seen_at = -math.inf
        await trio.sleep(0.01)
        match step:
            case steps.Detach():
                self.server = DETACHED
            case steps.ApplySettings(config=config) if config.upstream is None:
                self.server = replace(self.server, sync_applied=config.sync, admitting=config.admit)
            case _:
                return  # nothing is proven
        if self.proves:
            self._observed = self.server
            self._seen_at, self._has_proven = trio.current_time(), True


async def done_after(supervised: Supervised, target: PostgresTarget) -> list[str]:
    """Return the first things that are done once a target is set, after a look."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervised._drive)
        await trio.sleep(0.1)
        supervised.done.clear()
        supervised.set_target(target)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    return supervised.done[:3]


async def test_a_running_server_is_detached_before_it_is_looked_at_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    done = await done_after(Supervised(tmp_path, STANDBY), Detached(Term(7)))
    assert done == ["Detach", "look", "look"]


@pytest.mark.parametrize(
    ("seen", "target"),
    [
        (replace(STANDBY, in_recovery=False, silent=True), Detached(Term(7))),
        (replace(DETACHED, process=ProcessState.STOPPED, position=None), Detached(Term(8))),
    ],
    ids=["detach a primary", "measure"],
)
async def test_all_else_is_begun_by_a_look(
    seen: PostgresObserved, target: PostgresTarget, tmp_path: Path, autojump_clock: Clock
) -> None:
    first, second, *_ = await done_after(Supervised(tmp_path, seen), target)
    assert first == "look"
    assert second not in ("look", "Detach")


@pytest.mark.parametrize(("stop_asked", "failed"), [(False, ["Start"]), (True, [])])
async def test_a_server_that_is_stopped_while_it_starts_has_not_failed_to_start(
    stop_asked: bool, failed: list[str], tmp_path: Path
) -> None:
    ended = replace(STANDBY, process=ProcessState.STOPPED)
    supervised = Supervised(tmp_path, ended)
    supervised._facts.failed_starts, supervised._facts.stop_asked = 1, stop_asked
    supervised._observed = ended
    supervised._note_failed_start(replace(STANDBY, process=ProcessState.STARTING))
    told = supervised._results
    assert [result.step for result in told if isinstance(result, steps.StepFailed)] == failed


LEADING = Leading(Term(7), TimelineId(2), SyncSetting(), admit=False)
SERVING = replace(
    STANDBY,
    in_recovery=False,
    timeline=TimelineId(2),
    receiver=ReceiverState.GONE,
    upstream=None,
    sync_applied=SyncSetting(),
    sync_barrier=SyncSetting(),
    marker_term=Term(7),
)


@pytest.mark.parametrize(
    ("seen", "target", "step"),
    [
        (DETACHED, FOLLOWING, "ApplySettings"),
        (DETACHED, LEADING, "ApplySettings"),
        (SERVING, replace(LEADING, admit=True, checkpoint="order"), "Checkpoint"),
        (SERVING, Stopped(fast=True), "Stop"),
    ],
    ids=["follow", "lead", "checkpoint", "stop"],
)
async def test_a_young_picture_is_enough_for_what_proves_itself(
    seen: PostgresObserved,
    target: PostgresTarget,
    step: str,
    tmp_path: Path,
    autojump_clock: Clock,
) -> None:
    done = await done_after(Supervised(tmp_path, seen), target)
    assert done[:2] == [step, "look"]


async def test_an_older_picture_or_one_of_a_server_that_says_nothing_does_not_do(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    supervised = Supervised(tmp_path, replace(DETACHED, silent=True))
    assert (await done_after(supervised, FOLLOWING))[0] == "look"
    steady = Supervised(tmp_path, DETACHED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(steady._drive)
        await trio.sleep(CHANGING_FOR_S + 1.4)  # now it looks every half second
        steady.done.clear()
        steady.set_target(FOLLOWING)
        await trio.sleep(0.005)
        assert steady.done == []
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert steady.done[:2] == ["look", "ApplySettings"]


async def test_what_a_step_has_proven_leads_to_the_next_without_a_look(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    supervised = Supervised(tmp_path, DETACHED)
    supervised.proves = True
    assert await done_after(supervised, LEADING) == ["ApplySettings", "Promote", "look"]


async def test_a_picture_from_before_another_step_is_not_acted_on(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """A step may have failed half-way, and what it was begun by does not hold any more."""
    supervised = Supervised(tmp_path, DETACHED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervised._drive)
        await trio.sleep(0.1)
        supervised.set_target(LEADING)
        await trio.sleep(0.005)
        assert supervised.done[-1] == "ApplySettings"
        supervised.set_target(FOLLOWING)
        supervised.done.clear()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert supervised.done[:2] == ["look", "ApplySettings"]


async def test_a_target_that_was_set_during_a_look_is_acted_on_once(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    supervised = Supervised(tmp_path, STANDBY)

    def set_once() -> None:
        supervised.on_look = lambda: None
        supervised.set_target(Detached(Term(7)))

    supervised.on_look = set_once
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervised._drive)
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    assert supervised.done[:3] == ["look", "Detach", "look"]
    assert supervised.done.count("Detach") == 1
