"""One direction between two endpoints: how long a packet takes, and what can befall it.

In: the properties that hold at the moment, as `sim.paths` composes them from the base and from
every disturbance in force. Out: delays in nanoseconds and answers to "does it pass". A link decides
nothing of its own accord and changes only through `Link.set`.

An endpoint is a node, a client, or a part of a node named `node/part`: the network joins *hosts*,
so whatever is done to n1 is done to `n1/proxy` too, and between two parts of one host there is only
a loopback, which nothing disturbs.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sim.heap import NS_PER_MS

if TYPE_CHECKING:
    from sim.connections import Way

Endpoint: TypeAlias = str
"""A node's id, a client's name, or `host/part`."""

Deliver: TypeAlias = Callable[[bool], None]
"""Takes a datagram that has arrived; the argument says whether its bytes were changed."""

RETRANSMIT_FIRST_NS = 200 * NS_PER_MS
"""Until a lost segment is sent again for the first time; doubled each further time."""

SEGMENT_LOSSES_MAX = 10
"""Times in a row that one segment is lost to bad luck, as opposed to a cut."""


class Traffic(enum.StrEnum):
    """What a packet is for; a firewall can tell these apart by port."""

    GOSSIP = "gossip"  # datagrams between agents
    STREAM = "stream"  # TCP between agents
    REPLICATION = "replication"  # between PostgreSQL servers: WAL, rewind, base backup
    CLIENT = "client"  # between a client and a proxy or a server
    PROXY = "proxy"  # between a proxy and a server


ALL_TRAFFIC = frozenset(Traffic)


@dataclass(frozen=True, slots=True)
class LinkProperties:
    """What is normal for a link. Probabilities are per packet, in 0..1."""

    delay_ms: tuple[float, float] = (0.2, 1.5)  # one way, uniform between the two
    tail: float = 0.0  # probability that a packet is late
    tail_ms: float = 50.0  # by up to this much, mostly by little
    loss: float = 0.0  # on a connection: a delay until it is sent again
    duplicate: float = 0.0  # of a datagram
    reorder: float = 0.0  # probability of an extra delay that lets later ones overtake
    reorder_ms: float = 20.0  # at most
    corrupt: float = 0.0  # bytes changed below the seal; on a connection the same as loss

    def __post_init__(self) -> None:
        low, high = self.delay_ms
        assert 0 <= low <= high, self.delay_ms
        for chance in (self.tail, self.loss, self.duplicate, self.reorder, self.corrupt):
            assert 0 <= chance <= 1, self
        assert self.tail_ms >= 0, self
        assert self.reorder_ms >= 0, self


LOOPBACK = LinkProperties(delay_ms=(0.02, 0.08))


def host_of(endpoint: Endpoint) -> str:
    """Return the host that an endpoint is on."""
    return endpoint.partition("/")[0]


class Counters:
    """Datagrams so far."""

    __slots__ = ("clogged", "corrupted", "cut", "duplicated", "lost", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.lost = 0
        self.cut = 0
        self.duplicated = 0
        self.corrupted = 0
        self.clogged = 0


@dataclass(slots=True)
class LinkState:
    """What a link is like now."""

    properties: LinkProperties
    cut: frozenset[Traffic] = frozenset()  # does not pass
    refused: frozenset[Traffic] = frozenset()  # of those: whoever tries is told so
    clogged: bool = False  # nothing passes now, all of it later


class Link:
    """One direction between two endpoints. Attributes are read-only outside of `sim.paths`."""

    __slots__ = (
        *("clear", "dst", "dst_host", "held", "low_ns", "plain", "properties", "random", "span_ns"),
        *("src", "src_host", "state", "uneven", "waiting"),
    )

    def __init__(self, src: Endpoint, dst: Endpoint, rng: random.Random, state: LinkState) -> None:
        self.src = src
        self.dst = dst
        self.src_host = host_of(src)
        self.dst_host = host_of(dst)
        self.random = rng.random  # for datagrams; every kind of connection has a stream of its own
        self.held: deque[tuple[Deliver, Traffic]] = deque()  # datagrams in the clog, oldest first
        self.waiting: dict[Way, None] = {}  # directions of connections that could not pass
        self.set(state)

    def set(self, state: LinkState) -> None:
        """Replace the state, and what is computed from it so that a packet costs little."""
        p = state.properties
        self.state = state
        self.properties = p
        self.clear = not state.cut and not state.clogged  # everything passes
        self.low_ns = round(p.delay_ms[0] * NS_PER_MS)
        self.span_ns = round(p.delay_ms[1] * NS_PER_MS) - self.low_ns + 1
        self.uneven = bool(p.tail or p.reorder)  # more than the uniform delay
        luck = p.loss or p.duplicate or p.corrupt
        self.plain = self.clear and not self.uneven and not luck  # a uniform delay, nothing else

    def blocks(self, traffic: Traffic) -> bool:
        """Return whether a packet sent now does not pass now."""
        return not self.clear and (self.state.clogged or traffic in self.state.cut)

    def refuses(self, traffic: Traffic) -> bool:
        """Return whether the sender of a packet is told that it does not pass."""
        return not self.clear and traffic in self.state.refused

    def delay_ns(self, draw: Callable[[], float]) -> int:
        """Return how long one packet takes."""
        delay = self.low_ns + int(draw() * self.span_ns)
        if self.uneven:
            p = self.properties
            if p.tail and draw() < p.tail:
                # The square makes most late packets a little late and a few very late.
                share = draw()
                delay += int(share * share * p.tail_ms * NS_PER_MS)
            if p.reorder and draw() < p.reorder:
                delay += int(draw() * p.reorder_ms * NS_PER_MS)
        return delay

    def loses(self, draw: Callable[[], float]) -> bool:
        """Return whether one packet does not arrive whole, by bad luck."""
        p = self.properties
        return bool(p.loss and draw() < p.loss) or bool(p.corrupt and draw() < p.corrupt)

    def segment_ns(self, draw: Callable[[], float], retransmit_max_ns: int) -> int:
        """Return how long a segment of a connection takes, sent again as often as it is lost."""
        if self.plain:
            return self.low_ns + int(draw() * self.span_ns)
        delay = self.delay_ns(draw)
        again = RETRANSMIT_FIRST_NS
        for _ in range(SEGMENT_LOSSES_MAX):
            if not self.loses(draw):
                break
            delay += again
            again = min(2 * again, retransmit_max_ns)
        return delay
