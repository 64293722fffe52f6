"""What goes into the engine and what comes out of it.

Runtime and simulator interpret the same `Ready`, and carry it out in the order of its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from metako.election.wants import GuardDeadline
from metako.model.durable import HardState
from metako.model.events import Event
from metako.model.orders import Order, OrderAnswer
from metako.model.postgres import PostgresObserved, PostgresTarget
from metako.model.routing import RoutingTable
from metako.wire.messages import Outbound, Received


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: a deadline that `Engine.wakeup` named may be due."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Stop this node: PostgreSQL first, then the lease, then say goodbye."""


@dataclass(frozen=True, slots=True)
class ProxyLoad:
    """How many client sessions the local proxy has."""

    sessions: int


Input = Received | Tick | PostgresObserved | StopRequested | ProxyLoad | Order


class Ready(NamedTuple):
    """Carry the fields out in this order. (A named tuple: see `Instant`.)"""

    persist: HardState | None = None  # durable before any message leaves
    messages: tuple[Outbound, ...] = ()  # best effort; loss is normal
    # Before the target: whoever promotes looks first whether the guard is armed.
    guard: GuardDeadline | None = None  # renew or withdraw the right to be writable
    target: PostgresTarget | None = None  # level-triggered: replaces any earlier target
    routing: RoutingTable | None = None  # replaces any earlier table
    events: tuple[Event, ...] = ()  # for log, metrics, history, checkers
    answers: tuple[OrderAnswer, ...] = ()  # to orders that were given to this node, each once
    stopped: bool = False  # the node has stopped: nothing more will come
