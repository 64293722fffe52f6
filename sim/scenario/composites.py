"""Composites: faults that come down to several concrete ones, spread over time.

In: the nodes and numbers of a step, a random stream. Out: moments and concrete kinds with their
arguments. Invariant: what a composite begins it ends by itself, so it needs no cure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from sim.faults import Argument, Family, Type, Value
from sim.faults.kind import NODES
from sim.heap import NS_PER_S

Part: TypeAlias = tuple[int, str, Mapping[str, Value]]
"""How long after the step's own time, the kind, its arguments."""
Arguments: TypeAlias = Mapping[str, Value]
Expand: TypeAlias = Callable[[random.Random, Arguments], Sequence[Part]]


@dataclass(frozen=True, slots=True)
class Composite:
    """One entry of the table."""

    name: str
    family: Family
    doc: str
    arguments: tuple[Argument, ...]
    expand: Expand

    def argument(self, name: str) -> Argument | None:
        return next((a for a in self.arguments if a.name == name), None)


def _nodes(arguments: Arguments) -> list[str]:
    nodes = arguments["node"]
    assert isinstance(nodes, tuple), nodes
    return [str(name) for name in nodes]


def _ns(arguments: Arguments, name: str) -> int:
    value = arguments[name]
    assert isinstance(value, int), (name, value)
    return value


def _shuffled(rng: random.Random, names: Sequence[str]) -> list[str]:
    return rng.sample(list(names), len(names))


def _swizzle(rng: random.Random, arguments: Arguments) -> Sequence[Part]:
    nodes = _nodes(arguments)
    chosen = rng.sample(nodes, rng.randint(1, len(nodes)))
    every, hold = _ns(arguments, "every"), _ns(arguments, "hold")
    begun_at = {name: index * every for index, name in enumerate(chosen)}
    released = _shuffled(rng, chosen)
    last = (len(chosen) - 1) * every
    parts: list[Part] = []
    for name in chosen:
        lasts = last + hold + released.index(name) * every - begun_at[name]
        for way in ("from", "to"):
            back = "to" if way == "from" else "from"
            args: dict[str, Value] = {way: (name,), back: "*", "for": lasts}
            parts.append((begun_at[name], "clog", args))
    return parts


def _rolling(rng: random.Random, arguments: Arguments) -> Sequence[Part]:
    nodes = _nodes(arguments)
    order = _shuffled(rng, nodes) if arguments["order"] == "random" else nodes
    every, down = _ns(arguments, "every"), _ns(arguments, "down")
    how = "stop" if arguments["how"] == "stop" else "kill"
    what: dict[str, Value] = {} if how == "stop" else {"what": str(arguments["how"])}
    return [
        (index * every, how, {"node": (name,), "for": down, **what})
        for index, name in enumerate(order)
    ]


def _power_loss(rng: random.Random, arguments: Arguments) -> Sequence[Part]:
    nodes = _nodes(arguments)
    order = _shuffled(rng, nodes)
    down, stagger = _ns(arguments, "down"), _ns(arguments, "stagger")
    return [
        (0, "kill", {"node": (name,), "what": "host", "for": down + index * stagger})
        for index, name in enumerate(order)
    ]


def _flap(_rng: random.Random, arguments: Arguments) -> Sequence[Part]:
    period, times = _ns(arguments, "period"), _ns(arguments, "times")
    args: dict[str, Value] = {
        "node": arguments["node"],
        "direction": arguments["direction"],
        "for": max(1, period // 2),
    }
    return [(index * period, "isolate", args) for index in range(times)]


def _duration(name: str, doc: str, default_s: float) -> Argument:
    return Argument(name, Type.DURATION, doc, default=round(default_s * NS_PER_S), low=1)


COMPOSITES: Mapping[str, Composite] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Composite(
                "swizzle",
                Family.NETWORK,
                "Clog some of the nodes one by one, then unclog them in another order.",
                (
                    NODES,
                    _duration("every", "between two of them", 0.5),
                    _duration("hold", "for which all of them are clogged", 1),
                ),
                _swizzle,
            ),
            Composite(
                "rolling",
                Family.PROCESS,
                "Take the nodes down and up again, one after the other.",
                (
                    NODES,
                    _duration("every", "between two of them", 10),
                    _duration("down", "for which each stays down", 3),
                    Argument(
                        "how",
                        Type.CHOICE,
                        "clean stop, power off, or kill -9 of the agent",
                        default="stop",
                        choices=("stop", "host", "agent"),
                    ),
                    Argument(
                        "order",
                        Type.CHOICE,
                        "as they are listed, or drawn",
                        default="given",
                        choices=("given", "random"),
                    ),
                ),
                _rolling,
            ),
            Composite(
                "power_loss",
                Family.PROCESS,
                "Switch all of the nodes off at once; they return one by one, in a drawn order.",
                (
                    NODES,
                    _duration("down", "until the first one returns", 5),
                    _duration("stagger", "between two of them", 2),
                ),
                _power_loss,
            ),
            Composite(
                "flap",
                Family.NETWORK,
                "Cut nodes off and let them in again, over and over.",
                (
                    NODES,
                    _duration("period", "of one cut and one pause together", 2),
                    Argument("times", Type.COUNT, "how often", default=5, low=1, high=1000),
                    Argument(
                        "direction",
                        Type.CHOICE,
                        "both; out: nothing leaves; in: nothing arrives",
                        default="both",
                        choices=("both", "out", "in"),
                    ),
                ),
                _flap,
            ),
        )
    }
)
PICK_ARGUMENTS = (Argument("node", Type.NODES, "what is chosen", required=True),)
PICK = "pick"
"""Not a fault: a step that only chooses nodes and gives them a name."""
