"""An engine, effects and a clock for the engine's driver that a test has in its hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import trio

from metako.cluster.engine import Engine
from metako.cluster.ready import Input, Ready
from metako.election.wants import GuardDeadline
from metako.model.durable import HardState
from metako.model.events import Event
from metako.model.instant import NS_PER_S, Instant
from metako.model.postgres import PostgresTarget
from metako.model.routing import RoutingTable
from metako.runtime.driver import EngineDriver
from metako.wire.messages import Outbound


class VirtualClock:
    """Both clocks follow trio's."""

    def now(self) -> Instant:
        ns = round(trio.current_time() * NS_PER_S)
        return Instant(ns, ns)


class FakeEngine:
    """Answers each input by a function, and wants to be woken at `wake_at`."""

    def __init__(self, answer: Callable[[Input], Ready]) -> None:
        self.steps: list[tuple[float, Input]] = []
        self.wake_at: Callable[[Instant], int] = lambda now: now.mono_ns + 3600 * NS_PER_S
        self._answer = answer
        self._now = Instant(0, 0)

    def step(self, now: Instant, given: Input) -> Ready:
        self._now = now
        self.steps.append((trio.current_time(), given))
        return self._answer(given)

    def wakeup(self) -> int:
        return self.wake_at(self._now)


@dataclass
class FakeEffects:
    """Writes down what it is asked to do, and when."""

    persist_s: float = 0.0
    error: OSError | None = None
    done: list[tuple[str, object]] = field(default_factory=list)

    async def persist(self, hard: HardState) -> None:
        self.done.append(("persist begins", hard))
        if self.error is not None:
            raise self.error
        # The store promises that a record under way is durable before a cancellation is felt.
        with trio.CancelScope(shield=True):
            await trio.sleep(self.persist_s)
        self.done.append(("persist", hard))
        await trio.lowlevel.checkpoint_if_cancelled()

    def send(self, outbound: Outbound) -> None:
        self.done.append(("send", outbound))

    def set_target(self, target: PostgresTarget) -> None:
        self.done.append(("target", target))

    def publish(self, table: RoutingTable) -> None:
        self.done.append(("routing", table))

    def set_deadline(self, deadline: GuardDeadline) -> None:
        self.done.append(("guard", deadline))

    def report(self, fact: Event) -> None:
        self.done.append(("event", fact))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.done]


def driver_of(engine: FakeEngine, effects: FakeEffects) -> EngineDriver:
    return EngineDriver(cast("Engine", engine), effects, VirtualClock())
