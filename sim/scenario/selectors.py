"""Selectors: names that stand for nodes until the moment at which they are needed.

In: a selector, the world at that moment, the scenario's random stream. Out: the nodes it stands
for; none, if there is none. Invariant: a selector that chooses does not choose a node that the same
step has chosen already, as long as there is another.

A selector that names one node falls back on what was true last (`$primary` on the primary of the
newest document): between two primaries the scenario goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from metako.model.ids import NodeId
from sim.faults.surface import FaultyWorld

REST = "$rest"


@dataclass(slots=True)
class Choice:
    """The resolution of one step: the world, and what was chosen so far."""

    world: FaultyWorld
    rng: random.Random
    bound: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # `as` of earlier steps
    event_node: NodeId | None = None  # where the event happened that the step waited for
    first_primary: NodeId | None = None
    promoted: NodeId | None = None  # whose promotion was the last
    chosen: dict[str, None] = field(default_factory=dict)  # of this step, in order

    def resolve(self, selector: str) -> tuple[str, ...]:
        """Return what a selector or a plain name stands for now, and count it as chosen."""
        if not selector.startswith("$"):
            found: Sequence[str] = (selector,)
        elif selector[1:] in self.bound:
            found = self.bound[selector[1:]]
        else:
            found = SELECTORS[selector].find(self)
        self.chosen.update(dict.fromkeys(found))
        return tuple(found)

    def primary(self) -> NodeId | None:
        found = self.world.primary()
        if found is None:
            document = self.world.document()
            found = document.primary if document is not None else None
        return found

    def members(self) -> list[NodeId]:
        """Return who is a member by the newest document; before the first one, everybody."""
        document = self.world.document()
        known = document.members() if document is not None else self.world.names
        return [n for n in self.world.names if n in known]

    def data_nodes(self) -> list[NodeId]:
        return [n for n in self.members() if n not in self.world.witnesses]

    def standbys(self) -> list[NodeId]:
        primary = self.primary()
        return [n for n in self.data_nodes() if n != primary]

    def sync_standbys(self) -> list[NodeId]:
        document = self.world.document()
        listed = document.sync.nodes() if document is not None else frozenset()
        return [n for n in self.standbys() if n in listed]

    def one_of(self, nodes: Iterable[str]) -> tuple[str, ...]:
        """Return one of the nodes, none that was chosen already if there is another."""
        every = list(nodes)
        fresh = [n for n in every if n not in self.chosen]
        return (self.rng.choice(fresh or every),) if every else ()

    def side(self, size: int, *, primary: bool) -> tuple[str, ...]:
        """Return `size` nodes, with or without the primary, in the cluster's order."""
        leader = self.primary()
        others = [n for n in self.members() if n != leader]
        inside = [leader] if primary and leader is not None and size else []
        drawn = set(self.rng.sample(others, min(len(others), size - len(inside))))
        drawn.update(inside)
        return tuple(n for n in self.world.names if n in drawn)

    def minority_size(self) -> int:
        return (len(self.members()) - 1) // 2


Find: TypeAlias = Callable[[Choice], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Selector:
    """One entry of the table."""

    doc: str
    find: Find


def _only(node: str | None) -> tuple[str, ...]:
    return (node,) if node is not None else ()


def _leader(choice: Choice) -> tuple[str, ...]:
    now = choice.world.heap.now_ns
    leading = [name for name in choice.world.names if choice.world.nodes[name].leads(now)]
    return _only(leading[-1] if leading else choice.primary())


def _rest(choice: Choice) -> tuple[str, ...]:
    return tuple(n for n in choice.world.names if n not in choice.chosen)


def _clients(choice: Choice) -> tuple[str, ...]:
    return tuple(client.name for client in choice.world.clients)


def _other(choice: Choice) -> tuple[str, ...]:
    primary = choice.primary()
    return choice.one_of(n for n in choice.members() if n != primary)


def _spare(choice: Choice) -> tuple[str, ...]:
    members = choice.members()
    return choice.one_of(n for n in choice.world.names if n not in members)


def _async_standby(choice: Choice) -> tuple[str, ...]:
    listed = choice.sync_standbys()
    return choice.one_of(n for n in choice.standbys() if n not in listed)


SELECTORS: Mapping[str, Selector] = MappingProxyType(
    {
        "$primary": Selector(
            "the primary; between two primaries, the last one", lambda c: _only(c.primary())
        ),
        "$first_primary": Selector(
            "the primary of the beginning", lambda c: _only(c.first_primary or c.primary())
        ),
        "$new_primary": Selector(
            "the node that was promoted last", lambda c: _only(c.promoted or c.primary())
        ),
        "$leader": Selector("the node that holds the lease", _leader),
        "$node": Selector(
            "where the event happened that the step waited for", lambda c: _only(c.event_node)
        ),
        "$standby": Selector("one of the standbys", lambda c: c.one_of(c.standbys())),
        "$standbys": Selector("all standbys", lambda c: c.standbys()),
        "$sync_standby": Selector(
            "one of the listed synchronous standbys", lambda c: c.one_of(c.sync_standbys())
        ),
        "$sync_standbys": Selector("all of those", lambda c: c.sync_standbys()),
        "$async_standby": Selector("a standby that is not listed", _async_standby),
        "$other": Selector("a node that is not the primary, witnesses included", _other),
        "$random": Selector("any node", lambda c: c.one_of(c.world.names)),
        "$all": Selector("all nodes", lambda c: tuple(c.world.names)),
        "$spare": Selector("one of the nodes that are no members", _spare),
        "$data_nodes": Selector("all nodes that hold data", lambda c: c.data_nodes()),
        "$witness": Selector("one of the witnesses", lambda c: c.one_of(c.world.witnesses)),
        "$witnesses": Selector("all witnesses", lambda c: tuple(c.world.witnesses)),
        "$minority": Selector(
            "the largest minority, without the primary",
            lambda c: c.side(c.minority_size(), primary=False),
        ),
        "$primary_minority": Selector(
            "the largest minority that the primary is part of",
            lambda c: c.side(c.minority_size(), primary=True),
        ),
        "$majority": Selector(
            "the smallest majority, with the primary",
            lambda c: c.side(len(c.members()) // 2 + 1, primary=True),
        ),
        "$half": Selector(
            "half of the nodes, rounded down, without the primary",
            lambda c: c.side(len(c.members()) // 2, primary=False),
        ),
        "$primary_half": Selector(
            "half of the nodes, rounded down, with the primary",
            lambda c: c.side(len(c.members()) // 2, primary=True),
        ),
        REST: Selector("every node that the step has not named before", _rest),
        "$client": Selector("one of the clients", lambda c: c.one_of(_clients(c))),
        "$clients": Selector("all clients", _clients),
    }
)

MANY = frozenset(
    {
        *("$standbys", "$sync_standbys", "$all", "$data_nodes", "$witnesses", "$minority"),
        *("$primary_minority", "$majority", "$half", "$primary_half", REST, "$clients"),
    }
)
"""Selectors that can stand for more than one node."""
