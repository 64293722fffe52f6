"""The simulated network: whether, when and how often what one endpoint sends reaches another.

In: datagrams and connections of the endpoints; disturbances of the faults (`sim.paths`, and the
usual shapes of them in `sim.shapes`). Out: calls on the heap. The truth about a path is to be had
from `is_open`. It knows no host: whether one is up and what listens there is asked through
`listening`, and a datagram to a dead host is delivered to a callee who ignores it.

A cut stops what is sent from then on. A datagram that has left is delivered, as it would be by a
real network; a segment of a connection that meets a cut on its way is sent again after it.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import NamedTuple

from sim.connections import Connection, Dial, OnResult
from sim.heap import NS_PER_S, Heap
from sim.links import Counters, Deliver, Endpoint, Link, LinkProperties, Traffic, host_of
from sim.paths import Disturbance, Paths, Properties

__all__ = [
    "Connection",
    "Counters",
    "Dial",
    "Disturbance",
    "Endpoint",
    "Fate",
    "FateKind",
    "Link",
    "LinkProperties",
    "Network",
    "Properties",
    "Traffic",
    "host_of",
]

HELD_MAX = 10_000
"""Datagrams in the clog of one link: a router's queue is no longer, what comes then is lost."""


class FateKind(enum.StrEnum):
    """What becomes of a datagram."""

    DELIVERED = "delivered"
    LOST = "lost"  # bad luck
    CUT = "cut"
    CLOGGED = "clogged"  # held; it arrives when the clog is released
    CORRUPT = "corrupt"  # arrives with changed bytes, which the receiver refuses


class Fate(NamedTuple):
    """What becomes of a datagram, known when it is sent."""

    kind: FateKind
    arrivals: tuple[int, ...]  # times in ns; () if it does not arrive or nobody knows when


_LOST = Fate(FateKind.LOST, ())
_CUT = Fate(FateKind.CUT, ())
_CLOGGED = Fate(FateKind.CLOGGED, ())
_DELIVERED, _CORRUPT = FateKind.DELIVERED, FateKind.CORRUPT


class Network(Paths):
    """All links, and what disturbs them."""

    def __init__(
        self,
        heap: Heap,
        rng: Callable[[str], random.Random],
        *,
        base: LinkProperties = LinkProperties(),  # noqa: B008 - frozen
    ) -> None:
        """Make a network in which everything works.

        Args:
            heap: of the virtual time.
            rng: makes the random stream of a name. Each ordered pair has streams of its own, so
                that one packet more on a link shifts nothing elsewhere.
            base: what links are like that nobody disturbs, but for loopbacks.
        """
        super().__init__(heap, rng, base)
        self.listening: Callable[[Endpoint, Traffic], bool | None] = lambda _endpoint, _kind: True
        self.connect_timeout_ns = 3 * NS_PER_S
        # The longest interval between two attempts to send a segment again. Linux goes up to 120 s;
        # a scenario that is about that raises it.
        self.retransmit_max_ns = 2 * NS_PER_S
        self._connections: dict[Connection, None] = {}
        self._dials: dict[Dial, None] = {}

    # --- datagrams ---

    def datagram(
        self,
        src: Endpoint,
        dst: Endpoint,
        deliver: Deliver,
        traffic: Traffic = Traffic.GOSSIP,
    ) -> Fate:
        """Send a datagram: `deliver` is called with False when it arrives, 0 to 2 times.

        It is called with True if the bytes were changed on the way: the receiver's seal refuses it.
        """
        self.counters.sent += 1
        link = self._links.get((src, dst)) or self.link(src, dst)
        if link.plain:
            heap = self.heap
            at = heap.now_ns + link.low_ns + int(link.random() * link.span_ns)
            heap.at(at, deliver, False)
            return Fate(_DELIVERED, (at,))
        return self._disturbed(link, deliver, traffic)

    def packet(self, src: Endpoint, dst: Endpoint, deliver: Deliver, traffic: Traffic) -> None:
        """Send a datagram whose fate nobody asks for."""
        link = self._links.get((src, dst)) or self.link(src, dst)
        if link.plain:
            self.counters.sent += 1
            heap = self.heap
            heap.at(heap.now_ns + link.low_ns + int(link.random() * link.span_ns), deliver, False)
        else:
            self.datagram(src, dst, deliver, traffic)

    def _disturbed(self, link: Link, deliver: Deliver, traffic: Traffic) -> Fate:
        """Send a datagram over a link of which something can be expected."""
        heap, draw, p, counters = self.heap, link.random, link.properties, self.counters
        if traffic in link.state.cut:
            counters.cut += 1
            return _CUT
        if p.loss and draw() < p.loss:
            counters.lost += 1
            return _LOST
        if link.state.clogged:
            if len(link.held) >= HELD_MAX:
                counters.lost += 1
                return _LOST
            counters.clogged += 1
            link.held.append((deliver, traffic))
            return _CLOGGED
        corrupt = bool(p.corrupt and draw() < p.corrupt)
        counters.corrupted += corrupt
        at = heap.now_ns + link.delay_ns(draw)
        heap.at(at, deliver, corrupt)
        kind = _CORRUPT if corrupt else _DELIVERED
        if not (p.duplicate and draw() < p.duplicate):
            return Fate(kind, (at,))
        counters.duplicated += 1
        again = heap.now_ns + link.delay_ns(draw)
        heap.at(again, deliver, corrupt)
        return Fate(kind, (at, again))

    # --- connections ---

    def connect(
        self,
        src: Endpoint,
        dst: Endpoint,
        traffic: Traffic,
        on_result: OnResult,
        *,
        timeout_ns: int | None = None,
    ) -> Dial:
        """Open a connection and call `on_result` with it and "", or with None and why not.

        "refused": the host is up and nothing listens, or a cut refuses. "timeout": nobody answered
        within `timeout_ns`, by default `connect_timeout_ns`. It is never called from within.
        """
        dial = Dial(
            self, src, dst, traffic, on_result, timeout_ns=timeout_ns or self.connect_timeout_ns
        )
        self._dials[dial] = None
        return dial

    def close_all(self, end: Endpoint, traffic: Traffic | None = None) -> None:
        """Close every connection of an endpoint, whose process ended, and its attempts."""
        for connection in self._connections_of(end, traffic):
            connection.close(end)
        self._cancel_dials(end, traffic)

    def abandon_all(self, host: str) -> None:
        """Lose every connection of a host and of its parts: it lost power. Nobody is told."""
        for connection in list(self._connections):
            for end in (connection.src, connection.dst):
                if host_of(end) == host:
                    connection.abandon(end)
        for dial in list(self._dials):
            if host_of(dial.src) == host:
                dial.cancel()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections of which an end is left, oldest first."""
        return tuple(self._connections)

    def remember(self, connection: Connection) -> None:
        """Take a connection among those that `close_all` and `abandon_all` find."""
        self._connections[connection] = None

    def forget(self, connection: Connection) -> None:
        """Both ends of a connection have gone."""
        self._connections.pop(connection, None)

    def forget_dial(self, dial: Dial) -> None:
        """An attempt to connect is over."""
        self._dials.pop(dial, None)

    def _connections_of(self, end: Endpoint, traffic: Traffic | None) -> list[Connection]:
        return [
            connection
            for connection in self._connections
            if end in (connection.src, connection.dst) and traffic in (None, connection.traffic)
        ]

    def _cancel_dials(self, end: Endpoint, traffic: Traffic | None) -> None:
        for dial in list(self._dials):
            if dial.src == end and traffic in (None, dial.traffic):
                dial.cancel()
