"""The agent's own socket: who may connect, what is there, and what is left of it afterwards."""

import os
import socket
import stat
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from test_api_server import PRIMARY, FakeSource

from metako import unixsocket
from metako.api import client, server
from metako.api.client import LocalAgent
from metako.api.server import serve_agent_socket
from metako.model.errors import PrivilegeError, UnreachableError
from metako.model.ids import NodeId
from metako.model.orders import OrderAnswer, OrderKind
from metako.runtime.orders import ORDER_TIMEOUT_S


class Sink:
    def __init__(self):
        self.orders = []
        self.delay_s = 0
        self.asked = trio.Event()

    async def order(self, order):
        self.orders.append(order)
        self.asked.set()
        await trio.sleep(self.delay_s)
        return OrderAnswer(order.order_id, order.target is None, "because", NodeId("n2"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.sock"


@asynccontextmanager
async def serving(path):
    """Serve at `path`; yield the sink and the event that stops the service."""
    sink, stop = Sink(), trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_agent_socket, FakeSource(PRIMARY), sink, path, stop=stop)
            await nursery.start(serve)
            yield sink, stop
            stop.set()


in_thread = trio.to_thread.run_sync


async def test_status_and_orders_are_on_the_socket(path):
    agent = LocalAgent(path)
    async with serving(path) as (sink, _):
        assert (await in_thread(agent.status, 2.0))["node"] == "n1"
        taken = await in_thread(agent.order_switchover, None, 30.0)
        refused = await in_thread(agent.order_switchover, "n2", 30.0)
        cancelled = await in_thread(agent.cancel_switchover)
        bad = await in_thread(agent.order_switchover, "n 2", 30.0)
    kinds = [order.kind for order in sink.orders]
    assert kinds == [OrderKind.SWITCHOVER] * 2 + [OrderKind.CANCEL_SWITCHOVER]
    assert (taken.accepted, taken.reason, taken.target) == (True, "because", "n2")
    assert (refused.accepted, refused.reason) == (False, "because")
    assert [a.order_id for a in (taken, refused, cancelled)] == [o.order_id for o in sink.orders]
    assert (bad.accepted, bad.reason[:10], bad.order_id) == (False, "to must be", "")


async def test_changes_of_members_are_on_the_socket(path):
    agent = LocalAgent(path)
    async with serving(path) as (sink, _):
        added = await in_thread(partial(agent.add_member, "n4", learner=False))
        await in_thread(partial(agent.add_member, "n5", learner=True))
        removed = await in_thread(agent.remove_member, "n4")
        bad = [await in_thread(agent.remove_member, name) for name in ("n 4", "a/b", "")]
    told = [(order.kind, order.target, order.voter) for order in sink.orders]
    assert told == [
        (OrderKind.ADD_MEMBER, "n4", True),
        (OrderKind.ADD_MEMBER, "n5", False),
        (OrderKind.REMOVE_MEMBER, "n4", True),
    ]
    assert [(a.accepted, a.reason, a.target) for a in (added, removed)] == [
        (False, "because", "n4")
    ] * 2
    assert added.order_id == sink.orders[0].order_id
    assert {(a.accepted, a.reason[:13], a.order_id) for a in bad} == {(False, "the last part", "")}


async def test_orders_of_upkeep_are_on_the_socket(path):
    agent = LocalAgent(path)
    later = "2999-01-01T00:00:00Z"
    async with serving(path) as (sink, _):
        answers = [
            await in_thread(ask)
            for ask in (
                agent.pause,
                agent.resume,
                partial(agent.restart, [], 60.0),
                partial(agent.restart, ["n2", "n1"], 5.0),
                agent.cancel_restart,
            )
        ]
        bad = [
            await in_thread(partial(agent.order_switchover, None, 30.0, at))
            for at in (later, "2020-01-01T00:00:00Z", "02:00")
        ]
    assert [(order.kind, order.nodes, order.timeout_ms) for order in sink.orders] == [
        (OrderKind.PAUSE, (), 30_000),
        (OrderKind.RESUME, (), 30_000),
        (OrderKind.RESTART, (), 60_000),
        (OrderKind.RESTART, ("n2", "n1"), 5000),
        (OrderKind.CANCEL_RESTART, (), 30_000),
    ]
    assert all(answer.accepted and answer.target is None for answer in answers)
    assert [answer.order_id for answer in answers] == [order.order_id for order in sink.orders]
    assert [answer.order_id for answer in bad] == [""] * 3
    for answer, why in zip(bad, ("days ahead", "has passed", "not a date"), strict=True):
        assert why in answer.reason


def test_an_answer_may_take_as_long_as_the_driver_waits_for_it():
    # Else the connection would be closed on an order that is about to be answered.
    assert server.ORDER_READ_TIMEOUT_S > client.ORDER_ANSWER_TIMEOUT_S > ORDER_TIMEOUT_S


async def test_only_the_user_of_the_agent_may_connect(path):
    before = os.umask(0)
    try:
        async with serving(path):
            found = path.stat()
    finally:
        os.umask(before)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())


async def test_what_an_earlier_agent_left_is_replaced_and_nothing_is_left_behind(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(UnreachableError, match="is the agent running"):
        LocalAgent(path).status(1.0)
    async with serving(path):
        assert (await in_thread(LocalAgent(path).status, 2.0))["node"] == "n1"
    assert not path.exists()


async def test_cancellation_removes_the_socket(path):
    async with trio.open_nursery() as nursery:
        serve = partial(serve_agent_socket, FakeSource(PRIMARY), Sink(), path, stop=trio.Event())
        await nursery.start(serve)
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_successors_socket_is_left_alone(path):
    async with serving(path):
        successor = path.with_name("next.sock")
        with unixsocket.listening(successor):
            successor.rename(path)
            inode = path.stat().st_ino
    assert path.stat().st_ino == inode


async def test_a_path_longer_than_a_socket_address_works(tmp_path):
    directory = tmp_path / ("x" * 100) / ("y" * 100)
    directory.mkdir(parents=True)
    path = directory / "agent.sock"
    async with serving(path):
        assert (await in_thread(LocalAgent(path).status, 2.0))["node"] == "n1"
    assert not path.exists()


async def test_an_order_in_flight_does_not_hold_up_the_end(path):
    answers = []

    async def ask():
        with pytest.raises(UnreachableError):
            await in_thread(LocalAgent(path).order_switchover, None, 30.0)
        answers.append(trio.current_time())

    async with trio.open_nursery() as nursery, serving(path) as (sink, stop):
        sink.delay_s = 60
        nursery.start_soon(ask)
        await sink.asked.wait()
        stop.set()
        stopped = trio.current_time()
    assert answers[0] - stopped < server.GRACEFUL_TIMEOUT_S + 0.5


async def test_a_directory_that_is_not_there_is_an_error_that_names_the_path(tmp_path):
    path = tmp_path / "none" / "agent.sock"
    with pytest.raises(PrivilegeError, match=r"none/agent\.sock: No such file"):
        await serve_agent_socket(FakeSource(PRIMARY), Sink(), path, stop=trio.Event())
    with pytest.raises(UnreachableError, match=r"none/agent\.sock: No such file.*metako run"):
        LocalAgent(path).status(1.0)


def test_a_user_who_may_not_connect_is_told_whom_to_be(path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")  # root, who runs tests, is never refused

    monkeypatch.setattr(unixsocket, "connect", refuse)
    with pytest.raises(PrivilegeError, match="as the user that runs the agent"):
        LocalAgent(path).status(1.0)
