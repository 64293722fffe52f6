"""Indirect probes that this node makes for others.

In: requests, acks from targets, the clock. Out: whom to answer, with ack or nack.
Invariant: at most `limit` requests are open, each ends by its own deadline, each is nacked at most
once. A late ack is still passed on: it is better news than the nack before it.
Deliberately unaware of whether the target is suspected: the asker draws the conclusions.
"""

from __future__ import annotations

from dataclasses import dataclass

from metako.model.ids import NodeId


@dataclass(slots=True)
class Relay:
    """One open request."""

    origin: NodeId  # who asked
    origin_sequence: int  # sequence of the request, echoed in the answer
    target: NodeId
    nack_ns: int  # when we tell the origin that there was no ack yet
    deadline_ns: int  # when we stop waiting
    nacked: bool = False


class Relays:
    """Open requests by the sequence of our own ping."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, Relay] = {}

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, sequence: int, relay: Relay) -> bool:
        """Open a request; return False, with nothing changed, if there is no room."""
        assert sequence not in self._open
        if len(self._open) >= self._limit:
            return False
        self._open[sequence] = relay
        return True

    def acked(self, sender: NodeId, sequence: int) -> Relay | None:
        """Close and return the request that this ack answers; None if it answers none."""
        relay = self._open.get(sequence)
        if relay is None or relay.target != sender:
            return None
        return self._open.pop(sequence)

    def take_due(self, now_ns: int) -> tuple[Relay, ...]:
        """Return the requests to nack now, and drop those whose time is over."""
        if not self._open:
            return ()
        due = tuple(r for r in self._open.values() if not r.nacked and r.nack_ns <= now_ns)
        for relay in due:
            relay.nacked = True
        if due or any(r.deadline_ns <= now_ns for r in self._open.values()):
            self._open = {s: r for s, r in self._open.items() if r.deadline_ns > now_ns}
        return due

    def wakeup(self) -> int | None:
        if not self._open:
            return None
        times = (r.deadline_ns if r.nacked else r.nack_ns for r in self._open.values())
        return min(times, default=None)
