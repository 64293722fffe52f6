"""A server that refuses connections, as it shuts down or is full, is not asked all the time."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from metako.model.ids import NodeId
from metako.postgres import sql
from metako.postgres.facts import Facts
from metako.postgres.files import ServerFiles
from metako.postgres.observe import REFUSED_PAUSE_S, Observer
from metako.postgres.settings import ServerSettings

Clock = trio.testing.MockClock
PID = 70


class Refusing:
    """Counts who comes; stands for the server's files as well."""

    socket_dir = "/r"

    def __init__(self) -> None:
        self.tried = 0
        self.answers = True

    async def connect(self, **_where: object) -> sql.Session:
        await trio.lowlevel.checkpoint()
        self.tried += 1
        raise sql.SqlError("the database system is shutting down", answered=self.answers)

    async def looks(self, observer: Observer, *, every_s: float, count: int) -> int:
        """Return how many of so many looks have come to the server."""
        before = self.tried
        for _ in range(count):
            with pytest.raises(sql.SqlError) as refused:
                await observer._connected(PID)
            assert refused.value.answered is self.answers
            await trio.sleep(every_s)
        return self.tried - before


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    server = Refusing()
    monkeypatch.setattr(sql, "connect", server.connect)
    return server


def observer_of(server: Refusing, *, was_up: bool) -> Observer:
    none = cast("object", None)
    facts = Facts()
    facts.was_up = was_up
    observer = Observer(
        settings=ServerSettings(NodeId("b"), "/d", "/s", "/r", "", 1, b"x"),  # type: ignore[arg-type]
        files=cast("ServerFiles", server),
        guard=none,  # type: ignore[arg-type]
        reader=none,  # type: ignore[arg-type]
        facts=facts,
    )
    observer._session_postmaster = PID
    return observer


async def test_a_server_that_refuses_is_asked_ten_times_a_second(
    server: Refusing, autojump_clock: Clock
) -> None:
    observer = observer_of(server, was_up=True)
    assert await server.looks(observer, every_s=REFUSED_PAUSE_S / 4, count=16) == 4


async def test_one_that_starts_is_asked_at_every_look(
    server: Refusing, autojump_clock: Clock
) -> None:
    observer = observer_of(server, was_up=False)
    assert await server.looks(observer, every_s=REFUSED_PAUSE_S / 4, count=8) == 8


async def test_one_that_says_nothing_is_asked_at_every_look(
    server: Refusing, autojump_clock: Clock
) -> None:
    """Each of them waits for the time of an answer; what it is must not be called a refusal."""
    server.answers = False
    observer = observer_of(server, was_up=True)
    assert await server.looks(observer, every_s=REFUSED_PAUSE_S / 4, count=8) == 8


async def test_another_server_is_asked_at_once(server: Refusing, autojump_clock: Clock) -> None:
    observer = observer_of(server, was_up=True)
    assert await server.looks(observer, every_s=0, count=1) == 1
    observer._session_postmaster = PID - 1
    assert await server.looks(observer, every_s=0, count=1) == 1
