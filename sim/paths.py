"""All links of the network, and what disturbs them.

Everything that disturbs is a `Disturbance` with a handle of its own. What a link is like is
composed from the base and from all that are in force, in the order in which they began: so
overlapping faults end one by one, in any order, and each leaves the others as they are. Links are
made when they are first used, and what is in force then holds of them too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, TypedDict, Unpack

from sim.heap import Heap
from sim.links import (
    ALL_TRAFFIC,
    LOOPBACK,
    Counters,
    Endpoint,
    Link,
    LinkProperties,
    LinkState,
    Traffic,
)

BURST_GAP_NS = 10_000
"""Between two datagrams of a released clog."""

ANY: Literal["*"] = "*"

Pairs: TypeAlias = Callable[[str, str], bool]
"""Says of two hosts whether the direction from the first to the second is meant."""


class Properties(TypedDict, total=False):
    """Some of the properties of a link; see `LinkProperties`."""

    delay_ms: tuple[float, float]
    tail: float
    tail_ms: float
    loss: float
    duplicate: float
    reorder: float
    reorder_ms: float
    corrupt: float


@dataclass(slots=True, eq=False)
class Disturbance:
    """Something that is wrong with some links until `undo`; the handle of a fault."""

    paths: Paths
    pairs: Pairs
    cut: frozenset[Traffic] = frozenset()
    refuse: bool = False  # those who try to pass the cut are told so
    clog: bool = False
    properties: Properties = field(default_factory=Properties)
    lasting: bool = False  # part of the base: `heal` leaves it
    label: tuple[str, ...] = ()  # by which `uncut` and `unclog` find it again

    def undo(self) -> None:
        """End it; does nothing the second time."""
        self.paths.end(self)

    @property
    def active(self) -> bool:
        """Whether it is in force."""
        return self in self.paths.disturbances


class Paths:
    """The links between all endpoints."""

    def __init__(
        self, heap: Heap, rng: Callable[[str], random.Random], base: LinkProperties
    ) -> None:
        self.heap = heap
        self.disturbances: dict[Disturbance, None] = {}  # in force, in order
        self.counters = Counters()
        self._rng = rng
        self._base = base
        self._links: dict[tuple[Endpoint, Endpoint], Link] = {}
        self._draws: dict[tuple[Endpoint, Endpoint, Traffic], Callable[[], float]] = {}

    def link(self, src: Endpoint, dst: Endpoint) -> Link:
        """Return the direction from one endpoint to another."""
        link = self._links.get((src, dst))
        if link is None:
            rng = self._rng(f"network/{src}/{dst}/datagram")
            link = Link(src, dst, rng, LinkState(self._base))
            link.set(self._compose(link))
            self._links[src, dst] = link
        return link

    def draw(self, src: Endpoint, dst: Endpoint, traffic: Traffic) -> Callable[[], float]:
        """Return the source of random numbers of the connections of a kind in one direction."""
        key = (src, dst, traffic)
        found = self._draws.get(key)
        if found is None:
            found = self._draws[key] = self._rng(f"network/{src}/{dst}/{traffic}").random
        return found

    def is_open(self, src: Endpoint, dst: Endpoint, traffic: Traffic = Traffic.GOSSIP) -> bool:
        """Return the truth about a path: whether what is sent now passes, but for bad luck."""
        return not self.link(src, dst).blocks(traffic)

    # --- disturbances ---

    def cut(
        self, src: str, dst: str, traffic: Traffic | None = None, refuse: bool = False
    ) -> Disturbance:
        """Cut one direction, of one kind of traffic or all; "*" stands for every other host."""
        kinds = ALL_TRAFFIC if traffic is None else frozenset({traffic})
        label = ("cut", src, dst, traffic or "")
        pairs = _between(src, dst)
        return self._begin(Disturbance(self, pairs, cut=kinds, refuse=refuse, label=label))

    def uncut(self, src: str, dst: str, traffic: Traffic | None = None) -> None:
        """End the cuts that `cut` made with these very arguments; None: of whatever traffic."""
        self._end_labelled(("cut", src, dst) if traffic is None else ("cut", src, dst, traffic))

    def clog(self, src: str, dst: str) -> Disturbance:
        """Hold everything in one direction until it is released in a burst, in order."""
        pairs = _between(src, dst)
        return self._begin(Disturbance(self, pairs, clog=True, label=("clog", src, dst)))

    def unclog(self, src: str, dst: str) -> None:
        """Release what `clog` with these very arguments holds."""
        self._end_labelled(("clog", src, dst))

    def partition(
        self, *groups: Iterable[str], traffic: Traffic | None = None, refuse: bool = False
    ) -> Disturbance:
        """Cut both ways between hosts of different groups; one in no group sees all."""
        side: dict[str, int] = {}
        for index, group in enumerate(groups):
            for host in group:
                assert host not in side, f"{host} is in two groups"
                side[host] = index

        def apart(src: str, dst: str) -> bool:
            return src in side and dst in side and side[src] != side[dst]

        return self.cut_pairs(apart, traffic=traffic, refuse=refuse)

    def cut_pairs(
        self, pairs: Pairs, *, traffic: Traffic | None = None, refuse: bool = False
    ) -> Disturbance:
        """Cut every direction of which `pairs` says so: the general form of a cut.

        `pairs` is asked about hosts, once for each link and also about links that are made later;
        it always gives the same answer.
        """
        kinds = ALL_TRAFFIC if traffic is None else frozenset({traffic})
        return self._begin(Disturbance(self, pairs, cut=kinds, refuse=refuse))

    def set_link(self, src: str, dst: str, **properties: Unpack[Properties]) -> Disturbance:
        """Change properties of one direction; "*" stands for every other host.

        Of two that change the same property, the later one holds until it ends.
        """
        return self.set_pairs(_between(src, dst), **properties)

    def set_pairs(self, pairs: Pairs, **properties: Unpack[Properties]) -> Disturbance:
        """Change properties of every direction of which `pairs` says so; see `cut_pairs`."""
        return self._begin(Disturbance(self, pairs, properties=properties))

    def set_base(self, src: str, dst: str, **properties: Unpack[Properties]) -> Disturbance:
        """Change what is normal for a direction, as between two sites; `heal` leaves it."""
        pairs = _between(src, dst)
        return self._begin(Disturbance(self, pairs, properties=properties, lasting=True))

    def heal(self) -> None:
        """End everything that disturbs and release all that is held."""
        self.disturbances = {d: None for d in self.disturbances if d.lasting}
        self._refresh(lambda _src, _dst: True)

    def end(self, disturbance: Disturbance) -> None:
        """End one disturbance, if it is in force."""
        if disturbance in self.disturbances:
            del self.disturbances[disturbance]
            self._refresh(disturbance.pairs)

    def _begin(self, disturbance: Disturbance) -> Disturbance:
        self.disturbances[disturbance] = None
        self._refresh(disturbance.pairs)
        return disturbance

    def _end_labelled(self, prefix: tuple[str, ...]) -> None:
        for disturbance in list(self.disturbances):
            if disturbance.label[: len(prefix)] == prefix:
                self.end(disturbance)

    def _refresh(self, pairs: Pairs) -> None:
        """Bring the links that are meant up to date, in the order in which they were made."""
        for link in self._links.values():
            if link.src_host != link.dst_host and pairs(link.src_host, link.dst_host):
                clogged = link.state.clogged
                link.set(self._compose(link))
                if clogged and not link.state.clogged:
                    self._release(link)

    def _compose(self, link: Link) -> LinkState:
        src, dst = link.src_host, link.dst_host
        if src == dst:
            return LinkState(LOOPBACK)
        state = LinkState(self._base)
        # The base first, whenever it was set: a fault is on top of what is normal.
        for disturbance in sorted(self.disturbances, key=lambda d: not d.lasting):
            if disturbance.pairs(src, dst):
                state.cut |= disturbance.cut
                if disturbance.refuse:
                    state.refused |= disturbance.cut
                state.clogged = state.clogged or disturbance.clog
                if disturbance.properties:
                    state.properties = replace(state.properties, **disturbance.properties)
        return state

    def _release(self, link: Link) -> None:
        """Let what was held in a clog go on its way; what meets a cut there is lost."""
        at = self.heap.now_ns + link.delay_ns(link.random)
        for deliver, traffic in link.held:
            if link.blocks(traffic):
                self.counters.cut += 1  # released into a cut
            else:
                self.heap.at(at, deliver, False)
                at += BURST_GAP_NS
        link.held.clear()
        for way in list(link.waiting):
            way.hurry()


def _between(src: str, dst: str) -> Pairs:
    """Return what says whether a direction is from `src` to `dst`, of which either may be "*"."""

    def meant(a: str, b: str) -> bool:
        return src in (a, ANY) and dst in (b, ANY)

    return meant
