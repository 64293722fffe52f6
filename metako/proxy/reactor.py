"""Sockets that are served without a task each: a private epoll set inside one trio task.

trio's own way to wait for a socket costs an `epoll_ctl` and a trip through the scheduler for every
wake-up. Sockets that are registered here stay registered; the one thing that trio waits for is the
descriptor of the private epoll set, and one wake-up serves every socket that is ready. All else a
worker does, from logins to timers, stays in ordinary tasks.

In: descriptors with a callback each. Out: synchronous calls of them, with the events of epoll.

Level-triggered: a callback may do a bounded amount of work and return; what it leaves is reported
again. A callback is called in vain now and then, so it must expect `BlockingIOError`.

Fairness: a descriptor is served once a pass; those that move much at a time behind the others, and
only few of them, in turns. After `SLICE_S` at the latest there is a checkpoint, so that nothing in
the worker waits longer for its turn than that and one pass. Between passes the task stays in its
own epoll set for up to `LINGER_S` instead of going back to trio, because under load the next event
comes before the trip through the scheduler would have ended; except while `attentive` says that
somebody is on a slow path, for a moment after `attend`, or after `hurry`.

Invariant: once a descriptor is forgotten, its callback is not called again, not even for an event
of the pass that is under way; nor is that event taken for one of another socket that has got the
same descriptor since.

Deliberately unknown here: what is read and written, and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterator

import trio

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PEER_CLOSED = select.EPOLLRDHUP  # the peer sends no more; there may still be data to read
BROKEN = select.EPOLLERR | select.EPOLLHUP  # always reported

SLICE_S = 0.005
SLICE_ATTENTIVE_S = 0.002  # while somebody is on a slow path
LINGER_S = 0.001  # epoll counts in milliseconds
ATTENTION_S = 0.02  # after `attend`
GATHER_S = 20e-6  # what the kernel makes of it is some 70 microseconds
GATHER_AFTER = 16  # passes in which everybody waited for more
GATHER_AGAINST = 4  # of them, for each in which not everybody did
EVENTS_MAX = 64  # of one pass
BULK_MAX = 1  # of those, who move much at a time: more would push each other out of the caches

Callback = Callable[[int], None]  # gets the events of epoll


class Reactor:
    """See the module's docstring. Everything but `run` is synchronous.

    Args:
        report: told of an exception that a callback raised. Its descriptor was removed before.
    """

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self._epoll = select.epoll()
        self._report = report
        self._callbacks: dict[int, Callback] = {}
        self._events: dict[int, int] = {}  # that are asked for, of the same descriptors
        self._fresh: set[int] = set()  # registered during the present pass
        self._attentive = 0  # how many are on a slow path
        self._hurried = False  # a callback has woken a task
        self._serving = False  # a pass is under way
        # Descriptors whose callbacks move much at a time, and when they were served last.
        self._bulk: dict[int, int] = {}
        self._bulk_turn = 0  # how many of them were served so far
        self._more = 0  # callbacks of this pass that wait for another part of what they have got
        self._gathering = 0  # rises with passes in which all did, and falls with others
        self._later: list[Callable[[], None]] = []  # to be called behind it
        self._attend_until_s = 0.0  # by `time.monotonic`

    def watch(self, descriptor: int, events: int, callback: Callback) -> None:
        """Call `callback` whenever one of `events` holds for `descriptor`, from now on.

        Replaces what was asked for before. Without any events the descriptor is forgotten: it has
        to be before it is closed, and while nothing can be done with it, because the end of a
        connection is reported always, that is again and again.
        """
        if not events:
            self.forget(descriptor)
            return
        before = self._events.get(descriptor)
        if before is None:
            self._epoll.register(descriptor, events)
            self._fresh.add(descriptor)
        elif before != events:
            self._epoll.modify(descriptor, events)
        self._events[descriptor] = events
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Call nobody for `descriptor` any more. Before it is closed; harmless if not watched."""
        if self._events.pop(descriptor, None) is not None:
            del self._callbacks[descriptor]
            self._bulk.pop(descriptor, None)
            self._epoll.unregister(descriptor)

    def later(self, call: Callable[[], None]) -> bool:
        """Call something behind the present pass, and before anybody waits; False without one."""
        if self._serving:
            self._later.append(call)
        return self._serving

    def hurry(self) -> None:
        """Let the tasks that a callback has woken run at once."""
        self._hurried = True

    def note_bulk(self, descriptor: int, *, bulk: bool) -> None:
        """Serve `descriptor` behind the others, and only few of its kind in a pass, or no more so.

        For callbacks that move much at a time, so that others wait for few of them only. Has no
        effect unless the descriptor is watched, and ends when it is forgotten.
        """
        if bulk and descriptor in self._events:
            self._bulk.setdefault(descriptor, self._bulk_turn)
        else:
            self._bulk.pop(descriptor, None)

    def note_more(self) -> None:
        """Let what comes next gather for a moment, if nearly all that is served says this.

        For callbacks that got a part of something, of which the next is about to come: fewer and
        larger parts cost everybody less.
        """
        self._more += 1

    def attend(self) -> None:
        """Keep tasks waiting for nobody's sake for a moment: some are about to have much to do."""
        self._attend_until_s = time.monotonic() + ATTENTION_S

    @contextlib.contextmanager
    def attentive(self) -> Iterator[None]:
        """While inside, tasks are never kept waiting for the sake of efficiency."""
        self._attentive += 1
        try:
            yield
        finally:
            self._attentive -= 1

    async def run(self) -> None:
        """Serve until cancelled. At most one at a time; `close` is for whoever made the reactor."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll)
            # A slice that ran to its end leaves more to do: no wait, but a turn for the others.
            while self._serve_slice():
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Give up the epoll set; the descriptors themselves stay open."""
        trio.lowlevel.notify_closing(self._epoll)
        self._callbacks.clear()
        self._events.clear()
        self._epoll.close()

    def _serve_slice(self) -> bool:
        """Serve what is ready; return whether there may be more."""
        poll = self._epoll.poll
        self._hurried = False
        begin_s = time.monotonic()
        attends = self._attentive or begin_s < self._attend_until_s
        end_s = begin_s + (SLICE_ATTENTIVE_S if attends else SLICE_S)
        wait_s = 0 if attends else LINGER_S
        while True:
            ready = poll(wait_s, EVENTS_MAX)
            if not ready:
                return False
            self._serve(ready)
            if (self._more or self._gathering) and self._gathers(len(ready)) and wait_s:
                time.sleep(GATHER_S)
            if self._hurried or time.monotonic() >= end_s:
                return True

    def _gathers(self, served: int) -> bool:
        """Return whether nearly all passes were of those who wait for more, this one too."""
        waits, self._more = self._more == served, 0
        step = 1 if waits else -GATHER_AGAINST
        self._gathering = min(max(self._gathering + step, 0), 2 * GATHER_AFTER)
        return waits and self._gathering > GATHER_AFTER

    def _choose(self, ready: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return whom to serve of those who are ready, in order. The rest will be told of again.

        Those who move much take turns, since epoll may tell of them in the same order each time.
        """
        bulk = self._bulk
        chosen = [event for event in ready if event[0] not in bulk]
        others = [event for event in ready if event[0] in bulk]
        if len(others) > BULK_MAX:
            others.sort(key=lambda event: bulk[event[0]])
            del others[BULK_MAX:]
        for descriptor, _ in others:
            self._bulk_turn += 1
            bulk[descriptor] = self._bulk_turn
        return chosen + others

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        fresh = self._fresh
        if fresh:
            fresh.clear()
        if self._bulk:
            ready = self._choose(ready)
        callbacks = self._callbacks
        self._serving = True
        for descriptor, events in ready:
            callback = callbacks.get(descriptor)
            if callback is None or (fresh and descriptor in fresh):
                continue  # removed in this pass; or the event is that of a closed namesake
            try:
                callback(events)
            except Exception as error:  # noqa: BLE001 - one session's bug must not end the others
                if callbacks.get(descriptor) is callback:
                    self.watch(descriptor, 0, callback)  # or it would raise again and again
                self._report(error)
        self._serving = False
        while self._later:
            call = self._later.pop(0)
            try:
                call()
            except Exception as error:  # noqa: BLE001 - as above
                self._report(error)
