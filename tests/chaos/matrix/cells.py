"""The cells of the matrix: which part of which node is hit, how, for how long, and with what else.

In: the shape of a cluster and a seed. Out: cells in a fixed order, pairs of them in an order that
the seed draws, and the scenario that plays one. A cell names roles and not nodes: who is the
primary is known when its turn comes. How long a hit lasts is drawn from the seed and the cell's
name alone, so a cell is the same whether it is played in its row or by itself.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from metako.model.ids import NodeId
from sim.faults.arguments import Open
from sim.faults.process import RESTARTED
from sim.heap import NS_PER_MS
from sim.scenario import Cluster, Scenario, Step
from sim.scenario.model import Anchor, When

PRIMARY, STANDBY, WITNESS = "primary", "standby", "witness"
_CUTS = {"cut": "both", "cut-in": "in", "cut-out": "out"}
_SIGNALS = ("kill", "stop")
WAYS = (*_SIGNALS, *_CUTS)
"""All that can be done to a part, in the order in which it is shown."""
_ALL: Mapping[str, Sequence[str]] = {
    "agent": (*_SIGNALS, "cut"),
    "guard": _SIGNALS,
    "postgres": (*_SIGNALS, "cut"),
    "backend": _SIGNALS,
    "sender": _SIGNALS,
    "receiver": _SIGNALS,
    "startup": _SIGNALS,
    "proxy": (*_SIGNALS, "cut"),
    "host": WAYS,
}
_WITHOUT: Mapping[str, tuple[str, ...]] = {
    PRIMARY: ("receiver", "startup"),
    STANDBY: ("sender",),
    WITNESS: ("guard", "postgres", "backend", "sender", "receiver", "startup"),
}
TRAFFIC: Mapping[str, str] = {
    "agent": "agents",
    "postgres": "replication",
    "proxy": "client",
    "host": "all",
}
"""What a cut of a part cuts: that which the part itself says and hears."""
HARMLESS = frozenset({("proxy", "kill"), ("proxy", "stop"), ("proxy", "cut"), ("backend", "stop")})
"""Hits that leave agent and server of a node as they are."""
_LASTS = (1.0, 2.5)
"""Holds that a hit lasts: from heal before anybody may stand to long after the failover."""
_APART_MAX = 0.5
"""Holds between the two hits of a pair, at most."""
START_NS = 3_000_000_000
"""A round begins at this time of its scenario's clock (`chaos.round.FORMED_S`)."""
_TAIL_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Hit:
    """One part of one node, and what happens to it."""

    role: str  # primary, standby1 …, witness1 …; numbered by the order of the nodes' names
    part: str
    how: str  # kill, stop, cut, cut-in or cut-out

    @property
    def name(self) -> str:
        return f"{self.role}.{self.part}.{self.how}"

    @property
    def lasts(self) -> bool:
        """Return whether somebody has to lift it; whatever else is killed is started again."""
        return self.how != "kill" or self.part in RESTARTED

    @property
    def harmless(self) -> bool:
        return (self.part, self.how) in HARMLESS


@dataclass(frozen=True, slots=True)
class Cell:
    """What is done at once."""

    hits: tuple[Hit, ...]

    @property
    def name(self) -> str:
        return "+".join(hit.name for hit in self.hits)


@dataclass(frozen=True, slots=True)
class Timed:
    """A hit with its times, in nanoseconds since the cell began."""

    hit: Hit
    at_ns: int
    for_ns: int  # 0 for what nobody lifts


def singles(cluster: Cluster) -> tuple[Cell, ...]:
    """Return every hit of every node by itself."""
    return tuple(Cell((hit,)) for hit in _hits(cluster))


def pairs(cluster: Cluster, seed: int, count: int) -> tuple[Cell, ...]:
    """Return `count` pairs of hits, none twice; those of a smaller count come first."""
    found = [Cell(pair) for pair in itertools.combinations(_hits(cluster), 2) if _together(*pair)]
    random.Random(f"{seed}/pairs").shuffle(found)
    return tuple(found[:count])


def chosen(cells: Sequence[Cell], *, only: Sequence[str], first: str | None) -> tuple[Cell, ...]:
    """Return the cells that were named, or all from `first` on.

    Raises:
        ValueError: there is no such cell; the text says which.
    """
    names = {cell.name: number for number, cell in enumerate(cells)}
    if only:
        return tuple(parse(name, names) for name in only)
    if first is None:
        return tuple(cells)
    if first not in names:
        raise ValueError(f"no cell is called {first!r} here; see --matrix --list")
    return tuple(cells[names[first] :])


def parse(name: str, singles_or_pairs: Iterable[str]) -> Cell:
    """Return the cell of a name: one of these, or a pair of what they are made of.

    Raises:
        ValueError: there is no such cell.
    """
    known = {part for each in singles_or_pairs for part in each.split("+")}
    parts = name.split("+")
    for part in parts:
        if part not in known:
            raise ValueError(f"no cell is called {part!r} here; see --matrix --list")
    return Cell(tuple(Hit(*part.split(".")) for part in parts))


def timed(cell: Cell, seed: int, hold_ms: int) -> tuple[Timed, ...]:
    """Return when each hit of a cell comes and how long it lasts."""
    rng = random.Random(f"{seed}/{cell.name}")
    found = []
    for index, hit in enumerate(cell.hits):
        lasts_ms, after_ms = rng.uniform(*_LASTS) * hold_ms, rng.uniform(0, _APART_MAX) * hold_ms
        at_ns = round(after_ms) * NS_PER_MS if index else 0
        found.append(Timed(hit, at_ns, round(lasts_ms) * NS_PER_MS if hit.lasts else 0))
    return tuple(found)


def scenario(cell: Cell, times: Sequence[Timed], nodes: Mapping[str, str]) -> Scenario:
    """Return the scenario of a cell in which `nodes` have the roles."""
    ends_ns = max(each.at_ns + each.for_ns for each in times)
    return Scenario(
        name=cell.name,
        summary="A cell of the matrix.",
        timeline=tuple(_step(each, nodes[each.hit.role]) for each in times),
        duration_ns=START_NS + ends_ns + _TAIL_NS,
        tier=("real",),
    )


def roles(cluster: Cluster, primary: str) -> dict[str, str]:
    """Return who plays which role."""
    standbys = [name for name in cluster.data_nodes if name != primary]
    found = {PRIMARY: primary}
    found |= {f"{STANDBY}{number}": str(name) for number, name in enumerate(standbys, 1)}
    found |= {f"{WITNESS}{number}": str(n) for number, n in enumerate(cluster.witnesses, 1)}
    return found


def quorums_left(cell: Cell, cluster: Cluster, nodes: Mapping[str, str]) -> bool:
    """Return whether those that are not hit can elect and have every acknowledged commit.

    A majority of all votes, and so many nodes with data that each commit, which the primary and k
    standbys have, is on one of them. A sync set that has shrunk asks for fewer: this is the number
    that always suffices.
    """
    hit = {nodes[each.role] for each in cell.hits if not each.harmless}
    voters = [name for name in cluster.names if name not in cluster.learners]
    votes = sum(name not in hit for name in voters)
    data = [name for name in cluster.data_nodes if name in voters]
    with_data = sum(name not in hit for name in data)
    return votes > len(voters) // 2 and with_data >= max(1, len(data) - cluster.acks)


def _hits(cluster: Cluster) -> list[Hit]:
    standbys, witnesses = len(cluster.data_nodes) - 1, len(cluster.witnesses)
    names = [(PRIMARY, PRIMARY)]
    names += [(STANDBY, f"{STANDBY}{number + 1}") for number in range(standbys)]
    names += [(WITNESS, f"{WITNESS}{number + 1}") for number in range(witnesses)]
    return [
        Hit(role, part, how)
        for kind, role in names
        for part, ways in _ALL.items()
        if part not in _WITHOUT[kind]
        for how in ways
    ]


def _together(one: Hit, other: Hit) -> bool:
    """Return whether two hits differ: no part twice, nor a host as a whole and its part."""
    if one.role != other.role:
        return True
    whole = ("host", "kill"), ("host", "stop")
    return one.part != other.part and not any((h.part, h.how) in whole for h in (one, other))


def _step(each: Timed, node: str) -> Step:
    hit = each.hit
    args: dict[str, Open] = {"node": (NodeId(node),)}
    if hit.how == "kill":
        do = "kill"
        args["what"] = hit.part
    elif hit.how == "stop":
        # The simulator calls these two by what they do to the stream and to replay.
        do = {"receiver": "stall_standby", "startup": "pause_replay"}.get(hit.part, "pause")
        if do == "pause":
            args["what"] = hit.part
    else:
        do = "isolate"
        args |= {"direction": _CUTS[hit.how], "traffic": TRAFFIC[hit.part]}
        # A cable that is cut takes the clients elsewhere along; those on the host still reach it.
        args["clients"] = hit.part in ("host", "proxy")
    if each.for_ns:
        args["for"] = each.for_ns
    at_ns = START_NS + each.at_ns
    return Step(When(Anchor.START, at_ns, at_ns), do, tuple(sorted(args.items())))
