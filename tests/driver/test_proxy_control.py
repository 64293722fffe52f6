"""The Unix socket between agent and workers, and the sockets below it."""

from __future__ import annotations

import contextlib
import errno
import socket

import pytest
import trio
from proxy_kit import DEADLINE_S, eventually
from trio.testing import wait_all_tasks_blocked

from metako import unixsocket
from metako.model.ids import NodeId, Term
from metako.model.routing import RoutingTable
from metako.proxy import control, frames, sockets
from metako.proxy.control import AgentLink, RoutingFeed, serve_control
from metako.proxy.loginframes import Welcome

HELLO = frames.Hello(pid=42, index=1, node=NodeId("n1"), host="h", port=1)


def table(term: int) -> RoutingTable:
    return RoutingTable(Term(term), None, (), 10**18)


class Agent:
    def __init__(self, path) -> None:
        self.path = path
        self.feed = RoutingFeed()
        self.reports = []
        self.events = []

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        await serve_control(
            self.path,
            self.feed,
            self.reports.append,
            on_event=lambda _hello, event: self.events.append(event),
            task_status=task_status,
        )


class Listener:
    """What a worker's board sees."""

    def __init__(self) -> None:
        self.terms: list[int] = []
        self.present = False

    def agent_came(self) -> None:
        self.present = True

    def agent_went(self) -> None:
        self.present = False

    def receive_welcome(self, _: Welcome) -> None: ...

    def receive_table(self, received: RoutingTable) -> None:
        self.terms.append(received.term)

    def stats(self) -> frames.Stats:
        return frames.Stats(total=len(self.terms))


@contextlib.contextmanager
def worker_socket(path):
    sock = unixsocket.connect(path)
    try:
        yield sock
    finally:
        sock.close()


async def read_frame(sock: socket.socket) -> frames.FromAgent:
    line = b""
    with trio.fail_after(DEADLINE_S):
        while not line.endswith(b"\n"):
            line += await sockets.receive_exactly(sock, 1)
    return frames.decode_from_agent(line)


async def test_worker_gets_the_latest_table_at_once_and_each_later_one(tmp_path, nursery) -> None:
    agent = Agent(tmp_path / "s")
    agent.feed.publish(table(1))
    agent.feed.publish(table(2))
    await nursery.start(agent.run)
    with worker_socket(agent.path) as sock:
        await sockets.send_all(sock, frames.encode(HELLO))
        assert await read_frame(sock) == table(2)
        agent.feed.publish(table(3))
        assert await read_frame(sock) == table(3)
        agent.feed.drain([41, 42])
        assert await read_frame(sock) == frames.Drain()
    await eventually(lambda: agent.reports[-1].connected is False)
    assert agent.feed.draining == {41}


async def test_worker_that_reads_late_gets_the_newest_table_only(tmp_path, nursery) -> None:
    agent = Agent(tmp_path / "s")
    await nursery.start(agent.run)
    with worker_socket(agent.path) as sock:
        await sockets.send_all(sock, frames.encode(HELLO))
        await eventually(lambda: len(agent.reports) == 1)
        for term in range(1, 1000):
            agent.feed.publish(table(term))
        assert await read_frame(sock) == table(999)


async def test_worker_that_never_reads_is_disconnected(tmp_path, nursery, monkeypatch) -> None:
    monkeypatch.setattr(control, "SEND_TIMEOUT_S", 0.05)
    agent = Agent(tmp_path / "s")
    await nursery.start(agent.run)
    with worker_socket(agent.path) as sock:
        await sockets.send_all(sock, frames.encode(HELLO))
        term = 0
        with trio.fail_after(DEADLINE_S):
            while not agent.reports or agent.reports[-1].connected:
                term += 1
                agent.feed.publish(table(term))
                await trio.lowlevel.checkpoint()
    assert term > 1


@pytest.mark.parametrize(
    "garbage", [b"\n", b"hello\n", b'{"stats":{}}\n', b"x" * 200_000, frames.encode(HELLO)[:-5]]
)
async def test_garbage_ends_its_own_connection_only(tmp_path, nursery, garbage) -> None:
    agent = Agent(tmp_path / "s")
    agent.feed.publish(table(1))
    await nursery.start(agent.run)
    with worker_socket(agent.path) as bad, worker_socket(agent.path) as good:
        with contextlib.suppress(*sockets.BROKEN):
            await sockets.send_all(bad, garbage)
            bad.shutdown(socket.SHUT_WR)
            with trio.fail_after(DEADLINE_S):
                assert await sockets.receive_some(bad) == b""
        await sockets.send_all(good, frames.encode(HELLO))
        assert await read_frame(good) == table(1)


async def test_silent_connection_is_closed(tmp_path, nursery, monkeypatch) -> None:
    monkeypatch.setattr(control, "HELLO_TIMEOUT_S", 0.02)
    agent = Agent(tmp_path / "s")
    await nursery.start(agent.run)
    with worker_socket(agent.path) as sock, trio.fail_after(DEADLINE_S):
        assert await sockets.receive_some(sock) == b""
    assert agent.reports == []


async def test_link_finds_the_agent_loses_it_and_finds_the_next(tmp_path, nursery) -> None:
    path, listener = tmp_path / "s", Listener()
    link = AgentLink(path, HELLO)
    link.report(frames.WorkerEvent("INFO", "said before there was anybody"))
    nursery.start_soon(link.run, listener, lambda: None)
    await wait_all_tasks_blocked()
    first, second = Agent(path), Agent(path)
    first.feed.publish(table(1))
    async with trio.open_nursery() as inner:
        await inner.start(first.run)
        await eventually(lambda: listener.terms == [1])
        assert listener.present
        await eventually(lambda: len(first.events) == 1)
        inner.cancel_scope.cancel()
    assert not path.exists()
    await eventually(lambda: not listener.present)
    second.feed.publish(table(2))
    await nursery.start(second.run)
    await eventually(lambda: listener.terms == [1, 2])
    assert second.events == []


async def test_events_while_alone_are_bounded_and_the_newest_are_kept(tmp_path, nursery) -> None:
    agent, link = Agent(tmp_path / "s"), AgentLink(tmp_path / "s", HELLO)
    for number in range(control.EVENTS_MAX + 10):
        link.report(frames.WorkerEvent("INFO", str(number)))
    await nursery.start(agent.run)
    nursery.start_soon(link.run, Listener(), lambda: None)
    await eventually(lambda: len(agent.events) == control.EVENTS_MAX)
    assert [agent.events[0].message, agent.events[-1].message] == ["10", "109"]


async def test_ending_agent_leaves_the_socket_of_its_successor(tmp_path, nursery) -> None:
    old, new = Agent(tmp_path / "s"), Agent(tmp_path / "s")
    new.feed.publish(table(2))
    async with trio.open_nursery() as inner:
        await inner.start(old.run)
        await nursery.start(new.run)
        inner.cancel_scope.cancel()
    with worker_socket(new.path) as sock:
        await sockets.send_all(sock, frames.encode(HELLO))
        assert await read_frame(sock) == table(2)


async def test_wildcard_listens_on_one_port_for_all_families() -> None:
    listeners = sockets.listen("*", 0)
    try:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        assert len({listener.family for listener in listeners}) == len(listeners)
    finally:
        for listener in listeners:
            sockets.close(listener)


async def test_workers_share_a_port_that_a_stranger_finds_taken() -> None:
    first = sockets.listen("127.0.0.1", 0)[0]
    port = first.getsockname()[1]
    second = sockets.listen("127.0.0.1", port)[0]
    try:
        with pytest.raises(OSError, match="in use") as raised:
            sockets.probe_port_free("127.0.0.1", port)
        assert raised.value.errno == errno.EADDRINUSE
    finally:
        sockets.close(first)
        sockets.close(second)
