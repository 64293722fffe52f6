"""Workers ask their agent about roles, whatever happens to either."""

from __future__ import annotations

import contextlib
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from proxy_kit import DEADLINE_S, eventually

from metako import unixsocket
from metako.model.ids import NodeId, Term
from metako.model.rolelogin import RoleLogin
from metako.model.routing import RoutingTable
from metako.proxy import control, frames, sockets
from metako.proxy.control import AgentLink, RoutingFeed, WorkerReport, serve_control
from metako.proxy.loginframes import Verifier, VerifierWanted, Welcome
from metako.proxy.questions import ASK_TIMEOUT_S, QUESTIONS_MAX, Questions

HELLO = frames.Hello(pid=42, index=1, node=NodeId("n1"), host="h", port=1)
WELCOME = Welcome(bytes(32), bytes(32), ("host all all all scram-sha-256",))
TABLE = RoutingTable(Term(1), None, (), 10**18)


def role_of(user: str) -> RoleLogin:
    return RoleLogin(found=True, stored=f"of {user}")


class Agent:
    """The agent's half; answers at once unless told otherwise."""

    def __init__(self, path: Path, *, answers: bool = True) -> None:
        self.path = path
        self.feed = RoutingFeed()
        self.asked: list[str] = []
        self.reports: list[WorkerReport] = []
        self.before_answer: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        if answers:
            self.feed.greet(WELCOME)
        self.feed.publish(TABLE)

    async def answer(self, user: str) -> RoleLogin | None:
        self.asked.append(user)
        await self.before_answer()
        return None if user == "untold" else role_of(user)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await serve_control(
            self.path,
            self.feed,
            self.reports.append,
            answer=self.answer,
            task_status=task_status,
        )


class Listener:
    """What a worker's board sees."""

    def __init__(self) -> None:
        self.tables = 0
        self.present = False

    def agent_came(self) -> None:
        self.present = True

    def agent_went(self) -> None:
        self.present = False

    def receive_welcome(self, _: Welcome) -> None: ...

    def receive_table(self, _: RoutingTable) -> None:
        self.tables += 1

    def stats(self) -> frames.Stats:
        return frames.Stats()


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "s")


@pytest.fixture
def link(agent: Agent, nursery: trio.Nursery) -> AgentLink:
    link = AgentLink(agent.path, HELLO)
    nursery.start_soon(link.run, Listener(), lambda: None)
    return link


@contextlib.contextmanager
def worker_socket(path: Path) -> Iterator[socket.socket]:
    sock = unixsocket.connect(path)
    try:
        yield sock
    finally:
        sock.close()


async def read_line(sock: socket.socket) -> bytes:
    line = b""
    with trio.fail_after(DEADLINE_S):
        while not line.endswith(b"\n"):
            part = await sockets.receive_exactly(sock, 1)
            assert part, "the connection ended"
            line += part
    return line


async def read_frame(sock: socket.socket) -> frames.FromAgent:
    return frames.decode_from_agent(await read_line(sock))


# -- both halves ------------------------------------------------------------------------------


async def test_answers_come_in_any_order_to_whom_they_are_for(
    agent: Agent, link: AgentLink, nursery: trio.Nursery
) -> None:
    await nursery.start(agent.run)
    got: dict[str, RoleLogin | None] = {}

    async def ask(user: str) -> None:
        got[user] = await link.ask(user)

    async with trio.open_nursery() as asking:
        for name in ("anna", "untold", "olga"):
            asking.start_soon(ask, name)
    assert got == {"anna": role_of("anna"), "olga": role_of("olga"), "untold": None}
    assert link.welcome == WELCOME
    assert link.answering


async def test_the_first_agent_is_waited_for(
    agent: Agent, link: AgentLink, nursery: trio.Nursery
) -> None:
    nursery.start_soon(agent.run)
    assert await link.wait_welcome() == WELCOME
    assert await link.ask("anna") == role_of("anna")


async def test_nobody_waits_longer_than_the_limit_for_an_agent(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    asked = Questions(lambda: None)
    begun = trio.current_time()
    assert await asked.ask("anna") is None
    assert await asked.wait_welcome() is None
    assert trio.current_time() - begun == pytest.approx(2 * ASK_TIMEOUT_S)


async def test_an_agent_that_says_nothing_costs_the_limit_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked = Questions(lambda: None)
    asked.connected()
    asked.receive_welcome(WELCOME)
    begun = trio.current_time()
    assert await asked.ask("anna") is None
    assert trio.current_time() - begun == pytest.approx(ASK_TIMEOUT_S)
    assert asked.next_unsent() is None  # nobody waits for it any more
    asked.receive_answer(Verifier(1, role_of("anna")))  # too late, and of no use


async def test_an_older_agent_is_noticed_by_its_table(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    older = Agent(tmp_path / "s", answers=False)
    link = AgentLink(older.path, HELLO)
    await nursery.start(older.run)
    nursery.start_soon(link.run, Listener(), lambda: None)
    with trio.fail_after(ASK_TIMEOUT_S / 2):
        assert await link.wait_welcome() is None
        assert await link.ask("anna") is None
    assert older.asked == []
    older.feed.greet(WELCOME)  # it became able to
    await eventually(lambda: link.answering)
    assert await link.ask("anna") == role_of("anna")


async def test_a_new_welcome_replaces_the_one_before(
    agent: Agent, link: AgentLink, nursery: trio.Nursery
) -> None:
    await nursery.start(agent.run)
    await eventually(lambda: link.welcome == WELCOME)
    changed = Welcome(bytes(32), bytes(32), None)
    agent.feed.greet(changed)
    await eventually(lambda: link.welcome == changed)


async def test_a_question_is_asked_again_of_the_next_agent(
    agent: Agent, link: AgentLink, nursery: trio.Nursery
) -> None:
    agent.before_answer = trio.sleep_forever
    following = Agent(agent.path)
    got: list[RoleLogin | None] = []

    async def ask() -> None:
        got.append(await link.ask("anna"))

    async with trio.open_nursery() as first:
        await first.start(agent.run)
        await eventually(lambda: link.answering)
        nursery.start_soon(ask)
        await eventually(lambda: agent.asked == ["anna"])
        first.cancel_scope.cancel()
    await eventually(lambda: not link.answering)
    assert link.welcome == WELCOME  # goes on to hold while nobody says otherwise
    await nursery.start(following.run)
    await eventually(lambda: got == [role_of("anna")])


async def test_a_cancelled_question_leaves_nothing_behind() -> None:
    asked = Questions(lambda: None)
    asked.connected()
    asked.receive_welcome(WELCOME)
    for _ in range(2 * QUESTIONS_MAX):
        with trio.move_on_after(0):
            await asked.ask("anna")
    assert asked.next_unsent() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.ask, "olga")
        await trio.testing.wait_all_tasks_blocked()
        assert asked.next_unsent() is not None
        nursery.cancel_scope.cancel()


async def test_questions_beyond_the_limit_cannot_be_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked = Questions(lambda: None)
    async with trio.open_nursery() as nursery:
        for number in range(QUESTIONS_MAX):
            nursery.start_soon(asked.ask, str(number))
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        assert await asked.ask("one more") is None
        assert trio.current_time() == begun
        nursery.cancel_scope.cancel()


# -- the agent's half alone -------------------------------------------------------------------


async def test_a_flood_is_answered_and_bounded(agent: Agent, nursery: trio.Nursery) -> None:
    gate = trio.Event()
    agent.before_answer = gate.wait
    await nursery.start(agent.run)
    count = 3 * QUESTIONS_MAX
    with worker_socket(agent.path) as sock:
        flood = [frames.encode(VerifierWanted(f"u{n}", n)) for n in range(count)]
        hello = frames.encode(frames.Hello(7, 1, NodeId("n1"), "h", 1, asks=True))
        await sockets.send_all(sock, hello)
        assert await read_frame(sock) == WELCOME
        assert await read_frame(sock) == TABLE
        await sockets.send_all(sock, b"".join(flood))
        refused = [await read_frame(sock) for _ in range(count - QUESTIONS_MAX)]
        assert refused == [Verifier(n, None) for n in range(QUESTIONS_MAX, count)]
        assert len(agent.asked) == QUESTIONS_MAX
        gate.set()
        rest = [await read_frame(sock) for _ in range(QUESTIONS_MAX)]
        assert {frame.id for frame in rest if isinstance(frame, Verifier)} == set(
            range(QUESTIONS_MAX)
        )


async def test_a_worker_that_takes_no_answers_is_disconnected(
    agent: Agent, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SEND_TIMEOUT_S", 0.05)
    await nursery.start(agent.run)
    with worker_socket(agent.path) as sock:
        await sockets.send_all(sock, frames.encode(HELLO))
        with contextlib.suppress(*sockets.BROKEN), trio.fail_after(DEADLINE_S):
            while True:
                await sockets.send_all(sock, frames.encode(VerifierWanted("x", 1)))
    await eventually(lambda: not agent.reports[-1].connected)


@pytest.mark.parametrize(
    "garbage",
    [
        b'{"verifier_wanted":{}}\n',
        b'{"verifier_wanted":{"id":1,"user":"' + b"x" * 64 + b'"}}\n',
        b'{"verifier":{"id":1,"found":true,"stored":"x"}}\n',
        b'{"welcome":{}}\n',
    ],
)
async def test_garbage_ends_its_own_connection_only(
    agent: Agent, link: AgentLink, nursery: trio.Nursery, garbage: bytes
) -> None:
    await nursery.start(agent.run)
    await eventually(lambda: link.answering)
    with worker_socket(agent.path) as bad:
        await sockets.send_all(bad, frames.encode(HELLO) + garbage)
        with trio.fail_after(DEADLINE_S), contextlib.suppress(*sockets.BROKEN):
            while await sockets.receive_some(bad):
                pass
    assert await link.ask("anna") == role_of("anna")


async def test_an_older_worker_hears_nothing_new(agent: Agent, nursery: trio.Nursery) -> None:
    await nursery.start(agent.run)
    with worker_socket(agent.path) as sock:
        await sockets.send_all(sock, frames.encode(HELLO))
        assert await read_frame(sock) == TABLE
        agent.feed.greet(Welcome(bytes(32), bytes(32), None))
        newer = RoutingTable(Term(2), None, (), 10**18)
        agent.feed.publish(newer)
        assert await read_frame(sock) == newer


async def test_only_the_agents_user_can_connect(agent: Agent, nursery: trio.Nursery) -> None:
    await nursery.start(agent.run)
    mode = agent.path.stat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)


async def test_an_agents_garbage_ends_the_connection_and_the_link_comes_back(
    agent: Agent, nursery: trio.Nursery
) -> None:
    """Whatever listens there first, the link gets to an agent in the end."""
    link = AgentLink(agent.path, HELLO)
    with unixsocket.listening(agent.path) as listener:
        nursery.start_soon(link.run, Listener(), lambda: None)
        await trio.lowlevel.wait_readable(listener)
        connection, _ = listener.accept()
        connection.setblocking(False)
        hello = frames.decode_from_worker(await read_line(connection))
        assert isinstance(hello, frames.Hello)
        assert hello.asks
        await sockets.send_all(connection, frames.encode(WELCOME))
        await eventually(lambda: link.answering)
        await sockets.send_all(connection, b'{"verifier":{"id":1}\n')
        await eventually(lambda: not link.answering)
        sockets.close(connection)
    await nursery.start(agent.run)
    assert await link.ask("anna") == role_of("anna")
