"""The engine's driver: one task owns the engine, gives it inputs and carries out what it wants.

Inputs come from a bounded inbox; when it is empty until the engine's next deadline, the input is
`Tick`. Each `Ready` is carried out in the order of its fields, and completely, before the next
input is taken: a record is durable before any message of the same step leaves.

Invariant: nothing but this task touches the engine, and no await lies between reading the clock
for a step and the step. It does not know what the engine decides, nor how anything is done.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

import trio

from metako.cluster.engine import Engine
from metako.cluster.ready import Input, Ready, StopRequested, Tick
from metako.election.wants import GuardDeadline
from metako.model.durable import HardState
from metako.model.events import Event
from metako.model.instant import NS_PER_MS
from metako.model.orders import Order, OrderAnswer
from metako.model.postgres import PostgresTarget
from metako.model.routing import RoutingTable
from metako.observability.metrics import Sample
from metako.runtime.clock import Clock, seconds_until
from metako.runtime.orders import OrderTable
from metako.wire.messages import Outbound

INBOX_MAX = 1024
"""Inputs that may wait. Datagrams beyond it are dropped by the transport, and counted."""
LONGEST_SLEEP_S = 5.0
LATE_MS = 200
"""A step that comes this much after its deadline is counted as late: the machine is too busy."""


class Effects(Protocol):
    """What a `Ready` is carried out with. Only `persist` may wait."""

    async def persist(self, hard: HardState) -> None: ...

    def send(self, outbound: Outbound) -> None: ...

    def set_target(self, target: PostgresTarget) -> None: ...

    def publish(self, table: RoutingTable) -> None: ...

    def set_deadline(self, deadline: GuardDeadline) -> None: ...

    def report(self, event: Event) -> None: ...


@dataclass(slots=True)
class DriverCounters:
    """For the metrics."""

    steps: int = 0
    late: int = 0  # steps that came more than LATE_MS after their deadline
    latest_ms: int = 0  # how late the worst of them was

    def take_note(self, late_ms: int) -> None:
        """Count a step that came so long after its deadline; before it, if negative."""
        if late_ms > LATE_MS:
            self.late += 1
            self.latest_ms = max(self.latest_ms, late_ms)

    def samples(self) -> tuple[Sample, ...]:
        """Return what the metrics show."""
        return (
            Sample("metako_engine_steps_total", self.steps, "Steps of the engine.", "counter"),
            Sample(
                "metako_engine_late_steps_total",
                self.late,
                f"Steps more than {LATE_MS} ms after their deadline.",
                "counter",
            ),
            Sample(
                "metako_engine_lateness_max_seconds",
                self.latest_ms / 1000,
                "How late the worst of them was since the agent started.",
            ),
        )


class EngineDriver:
    """Runs one engine; see the module's docstring."""

    def __init__(self, engine: Engine, effects: Effects, clock: Clock) -> None:
        self.engine = engine
        self.counters = DriverCounters()
        self.stopped = trio.Event()  # the engine has said that the node has stopped
        self._effects = effects
        self._clock = clock
        self._orders = OrderTable()
        self.inbox, self._receive = trio.open_memory_channel[Input](INBOX_MAX)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the engine until it has stopped or this is cancelled.

        If cancelled, a record that is being written is durable before this returns, and the rest
        of that step is not carried out.

        Raises:
            OSError: the durable record cannot be written. Nothing of that step has left.
        """
        await self._step(Tick())
        task_status.started()
        while not self.stopped.is_set():
            await self._step(await self._next_input())

    async def order(self, order: Order) -> OrderAnswer:
        """Give an operator's order to the cluster and return whether its leader takes it.

        If cancelled, the order may have been given; its answer is dropped.

        Raises:
            OrderNotGivenError: the node is stopping, or too many orders wait. Nothing was given.
            OrderUnansweredError: no answer came in time. The cluster may have taken the order.
        """
        return await self._orders.ask(order, self.inbox)

    async def _next_input(self) -> Input:
        now = self._clock.now()
        due = self.engine.wakeup()
        event: Input = Tick()
        # An input that is there goes before a deadline that has passed, which every step
        # notices anyway: otherwise an overdue engine would never hear anything.
        with contextlib.suppress(trio.WouldBlock):
            event = self._receive.receive_nowait()
            await trio.lowlevel.checkpoint()
            self._note_lateness(due)
            return event
        with trio.move_on_after(seconds_until(now, due, longest_s=LONGEST_SLEEP_S)):
            event = await self._receive.receive()
        self._note_lateness(due)
        return event

    def _note_lateness(self, due_ns: int) -> None:
        self.counters.take_note((self._clock.now().mono_ns - due_ns) // NS_PER_MS)

    async def _step(self, event: Input) -> None:
        self.counters.steps += 1
        if isinstance(event, StopRequested):
            self._orders.close()
        ready = self.engine.step(self._clock.now(), event)
        await self._carry_out(ready)

    async def _carry_out(self, ready: Ready) -> None:
        effects = self._effects
        if ready.persist is not None:
            await effects.persist(ready.persist)
        for outbound in ready.messages:
            effects.send(outbound)
        if ready.guard is not None:
            effects.set_deadline(ready.guard)
        if ready.target is not None:
            effects.set_target(ready.target)
        if ready.routing is not None:
            effects.publish(ready.routing)
        for fact in ready.events:
            effects.report(fact)
        for answer in ready.answers:
            self._orders.answer(answer)
        if ready.stopped:
            self.stopped.set()
            self._orders.wake_all()
