"""One incarnation of an agent process: the production engine and a driver for it on the heap.

In: inputs (messages, observations, time). Out: what `Ready` asks for, carried out in the order of
its fields and completely before the next input is taken, as `metako.runtime.driver` does it: while
the record is being made durable, inputs wait and nothing of that step has left.

Invariant: an agent that was killed never acts again, whatever was scheduled in its name. Does not
know how messages travel or what PostgreSQL is: the node carries that out.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from metako.cluster.engine import Engine
from metako.cluster.ready import Input, Ready, Tick
from metako.model.durable import HardState
from metako.model.postgres import PostgresObserved
from metako.wire.messages import Received
from sim.clock import NodeClock
from sim.heap import NS_PER_MS, Entry, Heap
from sim.watch import ViolationError

INBOX_MAX = 1024
"""Inputs that may wait; as in the production driver, datagrams beyond it are dropped."""
LOCAL_MAX = 16
"""Inputs of the node itself that may wait beyond it: in production their senders wait."""
SOCKET_DATAGRAMS_MAX = 256
"""Datagrams that the kernel keeps for a process that does not read."""
WAKE_LATE_NS = NS_PER_MS // 5
"""How much after its deadline a healthy agent wakes."""
NEVER = 2**62


class AgentHost(Protocol):
    """What an agent needs of its node."""

    def persist(self, agent: SimAgent, hard: HardState) -> None:
        """Make the record durable, then call `agent.persisted`."""
        ...

    def carry_out(self, agent: SimAgent, ready: Ready) -> None:
        """Do everything but `persist` of a step."""
        ...

    def engine_failed(self, agent: SimAgent, error: Exception) -> None:
        """The engine raised: a bug, reported as a violation."""
        ...


class SimAgent:
    """A running agent. `alive` is False for ever once it was killed."""

    def __init__(
        self, heap: Heap, clock: NodeClock, host: AgentHost, engine: Engine, boot_epoch: int
    ) -> None:
        self.engine = engine
        self.boot_epoch = boot_epoch
        self.alive = True
        self.paused = False  # SIGSTOP or a suspended host
        self.step_ns = 0  # how long a step takes; more than 0 for a starved process
        self.dropped = 0  # inputs that found the inbox full
        self.longest_inbox = 0
        self.epochs: dict[str, int] = {}  # highest boot epoch heard, by sender
        self._heap = heap
        self._clock = clock
        self._host = host
        self._inbox: deque[Input] = deque()
        self._busy = False  # a step is being carried out
        self._pending: Ready | None = None  # waits for the record to be durable
        self._timer: Entry | None = None
        self._timer_at = NEVER
        self._timer_due = NEVER  # on CLOCK_MONOTONIC, the deadline that the timer is for

    # ------------------------------------------------------------ inputs

    @property
    def waiting(self) -> int:
        """How many inputs wait until the agent can take them."""
        return len(self._inbox)

    def give(self, event: Input) -> None:
        """Take an input now, or keep it until the agent can."""
        if not self.alive:
            return
        if self._busy or self.paused or self._inbox:
            limit = SOCKET_DATAGRAMS_MAX if self.paused else INBOX_MAX
            if len(self._inbox) >= limit and isinstance(event, Received):
                self.dropped += 1
                return
            if isinstance(event, PostgresObserved) and len(self._inbox) > INBOX_MAX:
                self._forget_last_picture()
            self._inbox.append(event)
            if len(self._inbox) > self.longest_inbox:
                self.longest_inbox = len(self._inbox)
            return
        self._step(event)

    def _forget_last_picture(self) -> None:
        """Make room for a newer one, as the supervisor does while nobody takes what it has."""
        for place in range(len(self._inbox) - 1, -1, -1):
            if isinstance(self._inbox[place], PostgresObserved):
                del self._inbox[place]
                return

    def begin(self) -> None:
        """Take the first step."""
        self._step(Tick())

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Go on: first what waited, then the deadlines that have passed."""
        if not self.alive or not self.paused:
            return
        self.paused = False
        self._drain()
        if not self._busy and not self._inbox:
            self._step(Tick())

    def kill(self) -> None:
        self.alive = False
        self._inbox.clear()
        self._pending = None
        Heap.cancel(self._timer)

    def clock_changed(self) -> None:
        """The clock's rate changed or the host was suspended: the deadline is elsewhere."""
        self._timer_at = self._timer_due = NEVER
        Heap.cancel(self._timer)
        if self.alive:
            self._arm()

    # ------------------------------------------------------------ steps

    def _step(self, event: Input) -> None:
        now = self._clock.instant(self._heap.now_ns)
        try:
            ready = self.engine.step(now, event)
            if ready.persist is not None:
                self._busy, self._pending = True, ready
                self._host.persist(self, ready.persist)
                return
        except ViolationError:
            raise  # a checker's, by way of a bug that was planted in the engine
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the engine's
            self.alive = False
            self._host.engine_failed(self, error)
            return
        self._finish(ready)

    def persisted(self) -> None:
        """The record of the step under way is durable."""
        ready, self._pending = self._pending, None
        if not self.alive or ready is None:
            return
        if self.paused:
            # The write has ended, the process that asked for it does not run.
            self._pending = ready
            self._heap.after(NS_PER_MS, self.persisted)
            return
        self._busy = False
        self._finish(ready)
        self._drain()

    def _finish(self, ready: Ready) -> None:
        self._host.carry_out(self, ready)
        if not self.alive:
            return
        if self.step_ns:
            self._busy = True
            self._heap.after(self.step_ns, self._rested)
        self._arm()

    def _rested(self) -> None:
        self._busy = False
        if self.alive and not self.paused:
            self._drain()
            if not self._busy:
                self._arm()  # a deadline that came meanwhile was let pass

    def _drain(self) -> None:
        while self._inbox and self.alive and not self._busy and not self.paused:
            self._step(self._inbox.popleft())

    # ------------------------------------------------------------ deadlines

    def _arm(self) -> None:
        due = self.engine.wakeup()
        if due >= NEVER or due >= self._timer_due:
            return  # the timer looks in time, and finds that it is too early
        at = self._clock.true_at_mono(due, self._heap.now_ns) + WAKE_LATE_NS
        if at >= self._timer_at or at >= NEVER:
            return
        Heap.cancel(self._timer)
        self._timer_at, self._timer_due = at, due
        self._timer = self._heap.at(at, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at, self._timer_due = None, NEVER, NEVER
        if not self.alive or self.paused:
            return
        if self._busy:
            return  # the end of the step under way arms it again
        if self._clock.instant(self._heap.now_ns).mono_ns >= self.engine.wakeup():
            self._step(Tick())
        else:
            self._arm()
