"""One connection is kept between steps, and never one with which something went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from server_kit import SETTINGS

from metako.postgres import sql
from metako.postgres.files import ServerFiles
from metako.postgres.process import Guard
from metako.postgres.sessions import Sessions


@dataclass
class FakeSession:
    closed: bool = False

    def terminate(self) -> None:
        self.closed = True


@dataclass
class Status:
    postmaster_pid: int | None = 70


@dataclass
class Server:
    """Takes connections; stands for the guard and the files as well."""

    status: Status = field(default_factory=Status)
    socket_dir: Path = Path("/r")
    opened: list[FakeSession] = field(default_factory=list)
    while_connecting: Callable[[], None] = lambda: None
    room: int = 10  # connections that it has left for us
    silent: bool = False
    tried: int = 0

    async def connect(self, **_where: object) -> FakeSession:
        await trio.lowlevel.checkpoint()
        self.tried += 1
        self.while_connecting()
        if self.silent or len(self.open) >= self.room:
            raise sql.SqlError("sorry, too many clients already", answered=not self.silent)
        self.opened.append(FakeSession())
        return self.opened[-1]

    @property
    def open(self) -> list[FakeSession]:
        return [session for session in self.opened if not session.closed]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(sql, "connect", server.connect)
    return server


@pytest.fixture
def sessions(server: Server) -> Sessions:
    return Sessions(
        settings=lambda: SETTINGS, files=cast("ServerFiles", server), guard=cast("Guard", server)
    )


async def test_what_a_fresh_backend_was_asked_over_serves_the_next_step(
    server: Server, sessions: Sessions
) -> None:
    async with sessions.fresh():
        pass
    for _ in range(3):
        async with sessions.any() as lent:
            assert lent is server.opened[0]
    assert len(server.opened) == 1


async def test_a_fresh_session_is_never_one_that_was_kept(
    server: Server, sessions: Sessions
) -> None:
    async with sessions.any() as older:
        pass
    async with sessions.fresh() as newer:
        assert newer is not older
    assert server.open == [newer]  # and no more than one is kept


async def test_two_steps_at_a_time_do_not_share_a_session(
    server: Server, sessions: Sessions
) -> None:
    async with sessions.any() as one, sessions.any() as other:
        assert one is not other
    assert len(server.open) == 1


async def test_a_session_with_an_error_is_closed(server: Server, sessions: Sessions) -> None:
    for opened in (sessions.fresh, sessions.any):
        async with sessions.any():
            pass
        with pytest.raises(RuntimeError):
            async with opened():
                raise RuntimeError("in the midst of something")
        async with sessions.any() as following:
            assert not following.closed
        sessions.close()
        assert server.open == []


async def test_a_session_whose_user_was_cancelled_is_closed(
    server: Server, sessions: Sessions
) -> None:
    async with sessions.any():
        pass
    with trio.CancelScope() as scope:
        async with sessions.any():
            scope.cancel()
            await trio.sleep_forever()
    assert server.open == []


async def test_a_session_that_the_server_has_closed_is_not_lent(
    server: Server, sessions: Sessions
) -> None:
    async with sessions.any() as lent:
        pass
    cast("FakeSession", lent).closed = True
    async with sessions.any() as following:
        assert not following.closed


async def test_a_session_of_a_former_postmaster_is_not_lent(
    server: Server, sessions: Sessions
) -> None:
    async with sessions.any() as former:
        pass
    server.status.postmaster_pid = 71
    async with sessions.any() as following:
        assert following is not former
    assert server.open == [following]


@pytest.mark.parametrize("then", [71, None])
async def test_a_session_is_kept_for_the_server_that_it_was_opened_to(
    server: Server, sessions: Sessions, then: int | None
) -> None:
    """The server ended, or another one was started, while it was in use."""
    async with sessions.any():
        server.status.postmaster_pid = then
    assert server.open == []


async def test_a_session_that_was_opened_across_a_restart_is_not_kept(
    server: Server, sessions: Sessions
) -> None:
    """Nobody can say to which of both servers it leads."""

    def restart() -> None:
        server.status.postmaster_pid = 71

    server.while_connecting = restart
    async with sessions.fresh():
        pass
    assert server.open == []


async def test_the_kept_session_makes_room_on_a_server_that_is_full(
    server: Server, sessions: Sessions, autojump_clock: trio.testing.MockClock
) -> None:
    server.room = 1
    async with sessions.any() as kept:
        pass
    async with sessions.fresh() as fresh:
        assert server.open == [fresh]
        assert fresh is not kept
    assert server.tried == 3


@pytest.mark.parametrize("silent", [False, True])
async def test_a_refusal_that_room_does_not_help_against_is_told(
    server: Server,
    sessions: Sessions,
    autojump_clock: trio.testing.MockClock,
    silent: bool,
) -> None:
    """There is nothing to close, or the server does not answer at all."""
    if silent:
        async with sessions.any():
            pass
    server.room, server.silent, server.tried = 0, silent, 0
    with pytest.raises(sql.SqlError):
        async with sessions.fresh():
            pass
    assert (server.tried, len(server.open)) == (1, int(silent))
