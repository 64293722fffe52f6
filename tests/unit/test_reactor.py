"""The private epoll set: who is called, who is not any more, and who else gets a turn."""

from __future__ import annotations

import contextlib
import functools
import os
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from metako.proxy.reactor import (
    BULK_MAX,
    GATHER_AFTER,
    GATHER_S,
    LINGER_S,
    PEER_CLOSED,
    READ,
    WRITE,
    Reactor,
)

DEADLINE_S = 5.0


@contextlib.asynccontextmanager
async def running():
    """Give a reactor that runs, and the exceptions it reported."""
    errors: list[Exception] = []
    reactor = Reactor(errors.append)
    try:
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reactor.run)
                yield reactor, errors
                nursery.cancel_scope.cancel()
    finally:
        reactor.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


class Calls:
    """A callback that takes one byte and remembers; whoever waits is woken."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self.events: list[int] = []
        self.called = trio.Event()
        self._reactor = reactor
        self._sock = sock

    def __call__(self, events: int) -> None:
        self.events.append(events)
        if events & READ:
            self._sock.recv(1)
        self.called.set()
        self._reactor.hurry()


async def test_a_ready_socket_is_reported_until_it_is_read(pair) -> None:
    near, far = pair
    async with running() as (reactor, errors):
        calls = Calls(reactor, near)
        reactor.watch(near.fileno(), READ, calls)
        far.send(b"abc")
        await calls.called.wait()
        await wait_all_tasks_blocked()
        assert calls.events == [READ, READ, READ]
        assert not errors


async def test_a_registration_lasts_and_can_be_changed(pair) -> None:
    near, far = pair
    async with running() as (reactor, _):
        first, second = Calls(reactor, near), Calls(reactor, near)
        reactor.watch(near.fileno(), READ, first)
        for _ in range(3):
            first.called = trio.Event()
            far.send(b"x")
            await first.called.wait()
        reactor.watch(near.fileno(), PEER_CLOSED, second)
        far.send(b"x")
        await wait_all_tasks_blocked()
        assert (len(first.events), len(second.events)) == (3, 0)
        far.close()
        await second.called.wait()
        reactor.watch(near.fileno(), 0, second)
        assert second.events[0] & PEER_CLOSED


async def test_a_forgotten_socket_is_not_reported_even_in_the_same_pass() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []
    async with running() as (reactor, errors):

        def only_one(number: int) -> None:
            called.append(number)
            pairs[number][0].recv(1)
            for near, _ in pairs:
                reactor.watch(near.fileno(), 0, lambda _: None)

        for number, (near, far) in enumerate(pairs):
            far.send(b"x")
            reactor.watch(near.fileno(), READ, lambda _, number=number: only_one(number))
        await wait_all_tasks_blocked()
        assert len(called) == 1
        assert not errors
    for end in sum(pairs, ()):
        end.close()


async def test_an_event_of_a_closed_socket_is_not_given_to_its_namesake() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    fresh_near, fresh_far = socket.socketpair()
    given: list[str] = []
    async with running() as (reactor, errors):

        def replace(number: int) -> None:
            """Close the other socket and put a silent one under its descriptor."""
            given.append("first")
            pairs[number][0].recv(1)
            descriptor = pairs[1 - number][0].fileno()
            reactor.watch(descriptor, 0, lambda _: None)
            os.dup2(fresh_near.fileno(), descriptor)
            reactor.watch(descriptor, READ, lambda _: given.append("namesake"))

        for number, (near, far) in enumerate(pairs):
            far.send(b"x")
            reactor.watch(near.fileno(), READ, lambda _, number=number: replace(number))
        await wait_all_tasks_blocked()
        assert given == ["first"]
        assert not errors
    for end in (*sum(pairs, ()), fresh_near, fresh_far):
        end.close()


async def test_a_callback_that_raises_is_reported_and_forgotten_and_others_go_on(pair) -> None:
    near, far = pair
    bad_near, bad_far = socket.socketpair()
    async with running() as (reactor, errors):

        def fail(events: int) -> None:
            raise ValueError("planted")

        calls = Calls(reactor, near)
        reactor.watch(bad_near.fileno(), READ, fail)
        reactor.watch(near.fileno(), READ, calls)
        bad_far.send(b"x")
        far.send(b"x")
        await calls.called.wait()
        await wait_all_tasks_blocked()
        assert [str(error) for error in errors] == ["planted"]
        calls.called = trio.Event()
        far.send(b"x")
        await calls.called.wait()
    bad_near.close()
    bad_far.close()


async def test_a_socket_that_is_always_ready_does_not_keep_timers_waiting(pair) -> None:
    near, _ = pair
    async with running() as (reactor, _errors):
        passes = [0]

        def busy(events: int) -> None:
            passes[0] += 1

        reactor.watch(near.fileno(), WRITE, busy)
        for _ in range(3):
            before = passes[0]
            with trio.move_on_after(0.005):
                await trio.sleep_forever()
            assert passes[0] > before
        reactor.watch(near.fileno(), 0, busy)


async def test_all_ready_sockets_are_served_in_one_pass() -> None:
    pairs = [socket.socketpair() for _ in range(8)]
    served: list[int] = []
    errors: list[Exception] = []
    reactor = Reactor(errors.append)
    for number, (near, far) in enumerate(pairs):
        far.send(b"x")
        reactor.watch(near.fileno(), READ, lambda _, number=number: served.append(number))
    reactor._serve(reactor._epoll.poll(0, 64))
    assert sorted(served) == list(range(8))
    reactor.close()
    for end in sum(pairs, ()):
        end.close()


async def test_cancelling_stops_the_calls_and_closing_leaves_the_sockets_open(pair) -> None:
    near, far = pair
    reactor = Reactor(lambda error: None)
    calls = Calls(reactor, near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        reactor.watch(near.fileno(), READ, calls)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    far.send(b"x")
    await wait_all_tasks_blocked()
    assert not calls.events
    reactor.close()
    assert near.recv(1) == b"x"


async def test_closing_wakes_the_task_that_waits() -> None:
    reactor = Reactor(lambda error: None)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await reactor.run()

            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            reactor.close()


async def test_nobody_on_a_slow_path_waits_for_the_reactor_to_linger(pair) -> None:
    near, far = pair
    asked: list[float] = []

    class Spy:
        def __init__(self, inner) -> None:
            self._inner = inner

        def poll(self, timeout, maxevents):
            asked.append(timeout)
            return self._inner.poll(timeout, maxevents)

    reactor = Reactor(lambda error: None)
    reactor.watch(near.fileno(), READ, lambda _: near.recv(1))
    inner = reactor._epoll
    reactor._epoll = Spy(inner)  # type: ignore[assignment]
    try:
        far.send(b"x")
        with reactor.attentive():
            reactor._serve_slice()
        assert asked == [0, 0]
        far.send(b"x")
        reactor._serve_slice()
        assert asked[2:] == [LINGER_S] * 2
    finally:
        reactor._epoll = inner
        reactor.close()


# --------------------------------------------- those who move much at a time


@contextlib.contextmanager
def ready_sockets(count: int):
    """Give sockets that always have something to be read."""
    with contextlib.ExitStack() as stack:
        nears = []
        for _ in range(count):
            near, far = socket.socketpair()
            stack.enter_context(near)
            stack.enter_context(far)
            far.send(b"x")
            nears.append(near)
        yield nears


class Passes:
    """Watches sockets, and tells who is served in a pass."""

    def __init__(self, reactor: Reactor, socks: list[socket.socket]) -> None:
        self._reactor = reactor
        self._served: list[int] = []
        for sock in socks:
            reactor.watch(sock.fileno(), READ, functools.partial(self._note, sock.fileno()))
        self.next()  # they are registered for this one

    def _note(self, descriptor: int, _events: int) -> None:
        self._served.append(descriptor)

    def next(self) -> list[int]:
        self._served = []
        self._reactor._serve(self._reactor._epoll.poll(0))
        return self._served


async def test_those_who_move_much_are_served_last_few_at_a_time_and_all_of_them() -> None:
    reactor = Reactor(lambda error: None)
    with ready_sockets(12) as socks:
        passes = Passes(reactor, socks)
        bulk = {sock.fileno() for sock in socks[:7]}
        for descriptor in bulk:
            reactor.note_bulk(descriptor, bulk=True)
        others = {sock.fileno() for sock in socks[7:]}
        rounds = [passes.next() for _ in range(70)]
        for served in rounds:
            assert set(served[: len(others)]) == others
            assert len(served) == len(others) + BULK_MAX
        counts = [sum(served.count(one) for served in rounds) for one in bulk]
        assert sum(counts) == 70 * BULK_MAX
        assert max(counts) - min(counts) <= BULK_MAX

        for descriptor in bulk:
            reactor.note_bulk(descriptor, bulk=False)
        assert all(len(passes.next()) == len(socks) for _ in range(3))
    reactor.close()


async def test_a_descriptor_that_is_forgotten_is_no_longer_one_that_moves_much() -> None:
    reactor = Reactor(lambda error: None)
    with ready_sockets(BULK_MAX + 2) as socks:
        for sock in socks:
            reactor.watch(sock.fileno(), READ, lambda events: None)
            reactor.note_bulk(sock.fileno(), bulk=True)
            reactor.forget(sock.fileno())
            reactor.note_bulk(sock.fileno(), bulk=True)  # it is not watched: too late
        passes = Passes(reactor, socks)
        assert all(len(passes.next()) == len(socks) for _ in range(3))
    reactor.close()


class Pauses:
    """What the reactor's clock is asked for."""

    def __init__(self, monkeypatch) -> None:
        self.slept: list[float] = []
        monkeypatch.setattr("metako.proxy.reactor.time.sleep", self.slept.append)


def slices(reactor: Reactor, *, more: bool, count: int) -> None:
    """Serve one socket alone, pass by pass."""
    with ready_sockets(1) as (sock,):
        left = count

        def serve(_events: int) -> None:
            nonlocal left
            left -= 1
            if more:
                reactor.note_more()
            if not left:
                reactor.watch(sock.fileno(), 0, serve)

        reactor.watch(sock.fileno(), READ, serve)
        while left:
            reactor._serve_slice()


async def test_parts_are_left_to_gather_only_if_nearly_all_that_happens_are_parts(
    monkeypatch,
) -> None:
    pauses = Pauses(monkeypatch)
    reactor = Reactor(lambda error: None)
    slices(reactor, more=True, count=GATHER_AFTER)
    assert not pauses.slept
    slices(reactor, more=True, count=5)
    assert pauses.slept == [GATHER_S] * 5
    for _ in range(10):  # somebody else is busy too
        slices(reactor, more=True, count=5)
        slices(reactor, more=False, count=2)
    pauses.slept.clear()
    for _ in range(50):
        slices(reactor, more=True, count=5)
        slices(reactor, more=False, count=2)
    slices(reactor, more=False, count=1000)
    slices(reactor, more=True, count=GATHER_AFTER)
    assert not pauses.slept
    reactor.close()


async def test_nothing_gathers_while_somebody_else_is_served_too(monkeypatch) -> None:
    pauses = Pauses(monkeypatch)
    reactor = Reactor(lambda error: None)
    with ready_sockets(2) as socks:
        left = 10 * GATHER_AFTER

        def part(_events: int) -> None:
            nonlocal left
            left -= 1
            reactor.note_more()

        reactor.watch(socks[0].fileno(), READ, part)
        reactor.watch(socks[1].fileno(), READ, lambda events: None)
        while left > 0:
            reactor._serve_slice()
    assert not pauses.slept
    reactor.close()


async def test_nobody_on_a_slow_path_waits_until_parts_have_gathered(monkeypatch) -> None:
    pauses = Pauses(monkeypatch)
    reactor = Reactor(lambda error: None)
    with reactor.attentive():
        slices(reactor, more=True, count=3 * GATHER_AFTER)
    assert not pauses.slept
    reactor.close()
