"""One connection reads for all, within limits, and a function is made off a failover's course."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from metako.model.errors import MetakoError
from metako.model.ids import Term
from metako.model.postgres import PostgresObserved, ProcessState
from metako.model.rolelogin import STORED_CHARS_MAX, RoleLogin
from metako.postgres import background, commit, sql
from metako.postgres.background import FUNCTION_AFTER_S, FUNCTION_INTERVAL_S, Background
from metako.postgres.execute import Executor
from metako.postgres.facts import Facts
from metako.postgres.rolelogin import BY_CATALOG, BY_FUNCTION, MARK
from metako.postgres.steps import StepFailed
from metako.postgres.verifiers import (
    BATCH_MAX,
    IDLE_S,
    LOOK_INTERVAL_S,
    READ_TIMEOUT_S,
    WAITING_MAX,
    VerifierReader,
)


@dataclass
class FakeSession:
    server: FakeServer
    closed: bool = False

    async def row(self, _query: str) -> Sequence[object]:
        await trio.lowlevel.checkpoint()
        self.server.looks += 1
        return (True, MARK if self.server.has_function else None)

    async def rows(
        self, query: str, names: list[str], *, timeout_s: float
    ) -> list[tuple[str, bool, str]]:
        self.server.queries.append((query, tuple(names)))
        try:
            await self.server.before_answer()
            if self.server.fails:
                raise sql.SqlError("no")
        except BaseException:
            self.terminate()
            raise
        return [(name, True, self.server.stored(name)) for name in names]

    def terminate(self) -> None:
        self.closed = True


@dataclass
class FakeServer:
    """Takes connections and answers at once, unless it is told otherwise."""

    sessions: list[FakeSession] = field(default_factory=list)
    queries: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    looks: int = 0
    has_function: bool = True
    fails: bool = False
    gone: bool = False
    before_answer: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint
    stored: Callable[[str], str] = lambda name: f"of {name}"

    async def connect(self) -> sql.Session:
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise sql.SqlError("connect: no such file")
        self.sessions.append(FakeSession(self))
        return cast("sql.Session", self.sessions[-1])

    @property
    def open(self) -> list[FakeSession]:
        return [session for session in self.sessions if not session.closed]


@asynccontextmanager
async def no_loop() -> AsyncIterator[None]:
    """Stand for asyncio's loop, which no fake needs and which keeps the clock from jumping."""
    yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    monkeypatch.setattr(sql, "open_sql_loop", no_loop)
    return FakeServer()


@asynccontextmanager
async def reading(server: FakeServer) -> AsyncIterator[VerifierReader]:
    reader = VerifierReader(server.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await trio.testing.wait_all_tasks_blocked()
        yield reader
        nursery.cancel_scope.cancel()
    assert server.open == []


@pytest.fixture
async def reader(server: FakeServer) -> AsyncIterator[VerifierReader]:
    async with reading(server) as running:
        yield running


async def ask_all(reader: VerifierReader, names: Sequence[str]) -> list[RoleLogin | None]:
    got: list[RoleLogin | None] = [None] * len(names)

    async def ask(at: int) -> None:
        got[at] = await reader.read(names[at])

    async with trio.open_nursery() as nursery:
        for at in range(len(names)):
            nursery.start_soon(ask, at)
    return got


async def test_what_is_asked_meanwhile_is_read_together(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    server.before_answer = partial(trio.sleep, 0.1)
    names = ["first", *(f"u{n}" for n in range(BATCH_MAX + 5)), "u1", "u1"]
    got = await ask_all(reader, names)
    assert got == [RoleLogin(True, f"of {name}") for name in names]
    assert len(server.sessions) == 1
    assert sum(len(asked) for _, asked in server.queries) == BATCH_MAX + 6
    assert max(len(asked) for _, asked in server.queries) == BATCH_MAX


async def test_a_name_that_the_server_may_not_know_how_to_write_is_read_alone(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    await ask_all(reader, ["a", "é", "b"])
    assert sorted(len(asked) for _, asked in server.queries) == [1, 2]
    assert (BY_FUNCTION, ("é",)) in server.queries


async def test_more_names_than_may_wait_cannot_be_told(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    server.before_answer = trio.sleep_forever
    got: list[RoleLogin | None] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.read, "first")
        await trio.testing.wait_all_tasks_blocked()  # being read, waits no more
        for number in range(WAITING_MAX):
            nursery.start_soon(reader.read, f"u{number}")
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        got.append(await reader.read("one more"))
        assert trio.current_time() == begun
    assert got == [None]
    assert trio.current_time() - begun == pytest.approx(READ_TIMEOUT_S)


async def test_a_server_that_hangs_holds_nobody_longer_than_the_limit(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    server.before_answer = trio.sleep_forever
    begun = trio.current_time()
    assert await reader.read("anna") is None
    assert trio.current_time() - begun == pytest.approx(READ_TIMEOUT_S)
    server.before_answer = trio.lowlevel.checkpoint
    assert await reader.read("anna") == RoleLogin(True, "of anna")


async def test_a_kept_connection_that_has_ended_is_replaced_once(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    assert await reader.read("anna") is not None
    server.sessions[0].closed = True  # noticed before it is used
    assert await reader.read("anna") is not None
    assert len(server.sessions) == 2
    server.fails = True
    assert await reader.read("anna") is None
    assert len(server.sessions) == 3
    server.gone = True
    assert await reader.read("anna") is None


async def test_a_name_that_breaks_the_driver_breaks_nothing_else(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("cannot be encoded")

    server.before_answer = fail
    assert await reader.read("anna") is None
    server.before_answer = trio.lowlevel.checkpoint
    assert await reader.read("anna") == RoleLogin(True, "of anna")


async def test_the_connection_is_kept_for_a_while(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    await reader.read("anna")
    await trio.sleep(IDLE_S - 1)
    assert len(server.open) == 1
    await reader.read("anna")
    assert len(server.sessions) == 1
    await trio.sleep(IDLE_S + 1)
    assert server.open == []


async def test_the_function_is_looked_for_until_it_is_there(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    server.has_function = False
    for _ in range(3):
        await reader.read("anna")
    server.has_function = True
    await reader.read("anna")
    assert {query for query, _ in server.queries} == {BY_CATALOG}
    assert server.looks == 1
    await trio.sleep(LOOK_INTERVAL_S)
    for _ in range(3):
        await reader.read("anna")
    assert [query for query, _ in server.queries[-3:]] == [BY_FUNCTION] * 3
    assert server.looks == 2


async def test_what_is_too_long_to_be_a_password_is_none(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    server.stored = lambda _: "x" * (STORED_CHARS_MAX + 1)
    assert await reader.read("anna") == RoleLogin(True, None)


async def test_whoever_stops_waiting_is_not_read_for(
    server: FakeServer, reader: VerifierReader, autojump_clock: trio.testing.MockClock
) -> None:
    server.before_answer = partial(trio.sleep, 0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.read, "first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.1):
            await reader.read("second")
    await trio.sleep(1)
    assert [names for _, names in server.queries] == [("first",)]


async def test_the_end_of_the_reader_ends_those_who_wait(
    server: FakeServer, autojump_clock: trio.testing.MockClock
) -> None:
    server.before_answer = trio.sleep_forever
    got: list[RoleLogin | None] = []

    async def ask(reader: VerifierReader, name: str) -> None:
        got.append(await reader.read(name))

    async with trio.open_nursery() as nursery, reading(server) as reader:
        nursery.start_soon(ask, reader, "anna")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, reader, "olga")
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
    assert got == [None, None]
    assert trio.current_time() == begun
    assert await reader.read("anna") is None


# -- making the function ----------------------------------------------------------------------

PRIMARY = PostgresObserved(
    process=ProcessState.RUNNING, in_recovery=False, marker_term=Term(3), admitting=True
)


async def test_a_primary_makes_the_function_late_and_sees_to_it_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    made: list[float] = []
    reports: list[StepFailed] = []
    failure: MetakoError | None = None

    async def ensure(_open: object, superuser: str) -> bool:
        assert superuser == "postgres"
        made.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if failure is not None:
            raise failure
        return True

    async def works(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(background, "ensure_function", ensure)
    monkeypatch.setattr(commit, "commit_message", works)
    executor = SimpleNamespace(
        sessions=SimpleNamespace(any=None, fresh=None),
        settings=SimpleNamespace(superuser="postgres"),
        checkpoint_wanted=trio.Event(),
    )
    beside = Background(
        executor=cast("Executor", executor),
        files=None,  # type: ignore[arg-type]  # nothing is deleted
        facts=Facts(),
        report=reports.append,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside.run)
        beside.observed(replace(PRIMARY, in_recovery=True), streams=False)
        await trio.sleep(100)
        assert made == []
        begun = trio.current_time()
        beside.observed(PRIMARY, streams=False)
        await trio.sleep(2 * FUNCTION_AFTER_S + 0.1)
        assert len(made) == 1
        assert made[0] - begun >= FUNCTION_AFTER_S
        failure = MetakoError("it belongs to somebody else")
        await trio.sleep(5 * FUNCTION_INTERVAL_S)
        assert 4 <= len(made) <= 6
        assert [report.error for report in reports] == ["it belongs to somebody else"]  # once
        beside.observed(replace(PRIMARY, in_recovery=True), streams=False)
        count = len(made)
        await trio.sleep(5 * FUNCTION_INTERVAL_S)
        assert len(made) == count
        nursery.cancel_scope.cancel()
