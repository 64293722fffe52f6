"""The step that stops a server: which WAL senders it ends, and whose it never does."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
import trio.testing

from metako.model.ids import NodeId
from metako.postgres import execute, sql
from metako.postgres.execute import STOP_FAST_TIMEOUT_S, STOP_SENDERS_AFTER_S, Executor
from metako.postgres.facts import Facts
from metako.postgres.observe import Observer
from metako.postgres.process import Guard, ServerNotGoneError

Clock = trio.testing.MockClock
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
POSTMASTER = 70
SENDERS = {B: 71, C: 72}


@dataclass
class Status:
    gone: bool = False
    postmaster_pid: int | None = POSTMASTER


@dataclass
class FakeGuard:
    """Of a server that ends so long after a signal, and only once its senders have."""

    ends_after_s: float = 0.01
    waits_for: set[int] = field(default_factory=set)  # senders whose standbys confirm nothing
    status: Status = field(default_factory=Status)
    sent: list[int] = field(default_factory=list)
    _ends_at: float = 10.0**9

    async def signal(self, sig: int) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(sig)
        if sig == signal.SIGQUIT:
            self.waits_for.clear()
        self._ends_at = trio.current_time() + self.ends_after_s

    async def wait_gone(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            while self.waits_for or trio.current_time() < self._ends_at:  # noqa: ASYNC110
                await trio.sleep(0.01)
            self.status = Status(gone=True, postmaster_pid=None)
            return
        raise ServerNotGoneError("it is still there")

    async def kill_all(self) -> None:
        raise AssertionError("it was not necessary")


@dataclass
class Kit:
    guard: FakeGuard
    facts: Facts
    ended: list[int]  # senders that got SIGTERM
    executor: Executor
    alive: set[int]  # senders


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    guard, facts, ended = FakeGuard(), Facts(senders=dict(SENDERS)), []
    none = cast("object", None)
    executor = Executor(
        settings=none,  # type: ignore[arg-type]  # only the guard is spoken to
        files=none,  # type: ignore[arg-type]
        installation=none,  # type: ignore[arg-type]
        guard=cast("Guard", guard),
        reader=none,  # type: ignore[arg-type]
        facts=facts,
    )
    alive = set(SENDERS.values())

    def kill(pid: int, sig: int) -> None:
        assert sig == signal.SIGTERM
        if pid not in alive:
            raise ProcessLookupError
        ended.append(pid)
        alive.discard(pid)
        guard.waits_for.discard(pid)

    def senders(postmaster: int) -> tuple[int, ...]:
        assert postmaster == POSTMASTER
        return tuple(sorted(alive))

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(execute, "sender_processes", senders)
    return Kit(guard, facts, ended, executor, alive)


async def test_nobody_is_ended_where_everybody_confirms(kit: Kit, autojump_clock: Clock) -> None:
    await kit.executor.stop(fast=True, successor=B)
    assert kit.ended == []
    assert kit.guard.sent == [signal.SIGINT]


async def test_a_stop_is_known_as_one_and_the_end_of_a_server_before_it_is_not(
    kit: Kit, autojump_clock: Clock
) -> None:
    kit.guard.status = Status(gone=False, postmaster_pid=None)  # it crashed: backends are left
    kit.guard.ends_after_s = 0
    await kit.executor.stop(fast=False)
    assert not kit.facts.stop_asked
    kit.guard.status = Status()
    with trio.move_on_after(0.001):  # at once, also for whoever looks meanwhile
        kit.guard.ends_after_s = 5
        await kit.executor.stop(fast=True)
    assert kit.facts.stop_asked


@pytest.mark.parametrize(
    ("was_up", "runs", "left"),
    [(False, True, 2), (True, True, 3), (False, False, 3)],
    ids=["interrupted", "up", "ended by itself"],
)
async def test_a_start_that_is_interrupted_is_no_failed_one(
    was_up: bool, runs: bool, left: int, kit: Kit, autojump_clock: Clock
) -> None:
    kit.facts.failed_starts, kit.facts.was_up = 3, was_up
    kit.guard.status = Status(gone=False, postmaster_pid=POSTMASTER if runs else None)
    kit.guard.ends_after_s = 5
    with trio.move_on_after(0.001):
        await kit.executor.stop(fast=True)
    await kit.executor.stop(fast=True)  # whoever begins again has interrupted it only once
    assert kit.facts.failed_starts == left


async def test_a_standby_that_confirms_nothing_is_ended_after_a_moment(
    kit: Kit, autojump_clock: Clock
) -> None:
    kit.guard.waits_for = {SENDERS[C]}
    began = trio.current_time()
    await kit.executor.stop(fast=True, successor=B)
    assert kit.ended == [SENDERS[C]]
    assert kit.guard.sent == [signal.SIGINT]
    assert STOP_SENDERS_AFTER_S <= trio.current_time() - began < STOP_SENDERS_AFTER_S + 0.1


async def test_the_successor_is_waited_for(kit: Kit, autojump_clock: Clock) -> None:
    kit.guard.waits_for = {SENDERS[B]}
    began = trio.current_time()
    await kit.executor.stop(fast=True, successor=B)
    assert SENDERS[B] not in kit.ended
    assert kit.guard.sent == [signal.SIGINT, signal.SIGQUIT]
    assert trio.current_time() - began > STOP_FAST_TIMEOUT_S


async def test_without_a_successor_everybody_is_waited_for(kit: Kit, autojump_clock: Clock) -> None:
    kit.guard.waits_for = {SENDERS[C]}
    await kit.executor.stop(fast=True)
    assert kit.ended == []
    assert kit.guard.sent == [signal.SIGINT, signal.SIGQUIT]


async def test_a_successor_that_has_everything_may_have_gone_already(
    kit: Kit, autojump_clock: Clock
) -> None:
    """PostgreSQL ends each sender as soon as its own standby has confirmed the end."""
    kit.guard.waits_for = {SENDERS[C]}
    kit.alive.discard(SENDERS[B])
    await kit.executor.stop(fast=True, successor=B)
    assert kit.ended == [SENDERS[C]]
    assert kit.guard.sent == [signal.SIGINT]


@pytest.mark.parametrize("known", [{}, {C: SENDERS[C]}, {B: 99, C: SENDERS[C]}])
async def test_one_that_may_be_the_successors_is_never_ended(
    kit: Kit, autojump_clock: Clock, known: dict[NodeId, int]
) -> None:
    """It was not seen so far, or has connected again since."""
    kit.facts.senders = dict(known)
    kit.guard.waits_for = {SENDERS[C]}
    await kit.executor.stop(fast=True, successor=B)
    assert kit.ended == ([SENDERS[C]] if known else [])


async def test_whoever_else_has_a_connection_is_ended_with_the_others(
    kit: Kit, autojump_clock: Clock
) -> None:
    kit.alive.add(73)  # a backup, or somebody who receives WAL
    kit.guard.waits_for = {73}
    await kit.executor.stop(fast=True, successor=B)
    assert sorted(kit.ended) == [SENDERS[C], 73]


async def test_an_immediate_stop_asks_nobody(kit: Kit, autojump_clock: Clock) -> None:
    kit.guard.waits_for = {SENDERS[C]}
    await kit.executor.stop(fast=False, successor=B)
    assert kit.ended == []
    assert kit.guard.sent == [signal.SIGQUIT]


# ---------------------------------------------------------------- who sends to whom


class Session:
    """Answers with rows, or goes away instead."""

    def __init__(self, rows: list[tuple[object, ...]] | None) -> None:
        self._rows = rows

    async def rows(self, _query: str) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        if self._rows is None:
            raise sql.SqlError("terminating connection due to administrator command")
        return self._rows


def observer_of(facts: Facts) -> Observer:
    none = cast("object", None)
    return Observer(
        settings=none,  # type: ignore[arg-type]  # only a session is asked
        files=none,  # type: ignore[arg-type]
        guard=none,  # type: ignore[arg-type]
        reader=none,  # type: ignore[arg-type]
        facts=facts,
    )


def row(name: str, pid: int) -> tuple[object, ...]:
    return name, True, "0/10", "0/10", True, False, pid


async def look(observer: Observer, rows: list[tuple[object, ...]] | None) -> None:
    await observer._standbys(cast("sql.Session", Session(rows)))


async def test_the_newest_sender_of_a_standby_counts() -> None:
    facts = Facts(members={"x-b": B, "x-c": C})
    await look(observer_of(facts), [row("x-b", 81), row("x-c", 82), row("x-b", 71), row("psql", 9)])
    assert facts.senders == {B: 81, C: 82}
    await look(observer_of(facts), [row("x-c", 82)])
    assert facts.senders == {C: 82}


async def test_a_server_that_ends_the_session_leaves_what_was_known() -> None:
    """That is how a shutdown begins, and it has to be known then whose sender is to stay."""
    facts = Facts(members={"x-b": B}, senders={B: 71})
    with pytest.raises(sql.SqlError):
        await look(observer_of(facts), None)
    assert facts.senders == {B: 71}
