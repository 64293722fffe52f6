"""What a worker believes about the primary, and for how long it may.

In: routing tables, the coming and going of the agent, and the time (CLOCK_BOOTTIME, ns). Out:
where a new session may go, and whether a session that exists may stay.

Three rules, and the reason for each:

* A table of a lower term than the latest is ignored. It comes from an agent that knows less than
  its predecessor did, and following it could mean writing to a deposed server.
* A session belongs to `(term, node)`. It ends as soon as a higher term or another node is known,
  also when the same node leads again: its server was restarted or promoted in between. It does
  not end because a table says "no primary" in the same term, or because tables stop coming: a
  silent agent is no evidence that the server was deposed, and the guard fences the server at the
  end of its lease without anybody's help.
* A table that is past its validity names nobody. New sessions wait; once the agent has been away
  for longer than a table is valid, and than an agent needs to restart, waiting is pointless and
  new sessions are refused.

For the second rule a table's `term` must be that of the newest *document*, never of a candidacy:
a candidacy that fails would otherwise cut every session of a healthy primary.

Deliberately unknown here: sockets, sessions, clocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from metako.model.ids import Address, NodeId, Term
from metako.model.instant import NS_PER_S
from metako.model.routing import RoutingTable

# A table without a primary is valid for no time at all, and the agent may just be restarting.
AGENT_AWAY_MIN_NS = 2 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Route:
    """A server as it was known when somebody decided to use it."""

    term: Term
    node: NodeId
    address: Address


class Routes:
    """The latest table and its age. Transitions are synchronous; nothing here waits."""

    def __init__(self) -> None:
        self._table: RoutingTable | None = None  # None before the first
        self._validity_ns = 0  # how long the latest table was valid when it came
        self._agent_lost_ns: int | None = None  # since when; None while connected or never seen
        # The newest primary of the newest term, also when a later table says "none": sessions to
        # it may still exist. None before the first, and after a higher term without a primary.
        self._last: Route | None = None

    @property
    def term(self) -> Term:
        return Term(0) if self._table is None else self._table.term

    def receive(self, table: RoutingTable, now_ns: int) -> bool:
        """Replace the table; return False if `table` is of a lower term and was ignored."""
        if self._table is not None and table.term < self._table.term:
            return False
        if table.term > self.term:
            self._last = None
        if table.primary is not None:
            self._last = Route(table.term, table.primary.node, table.primary.address)
        self._table = table
        self._validity_ns = max(table.valid_until_boot_ns - now_ns, 0)
        return True

    def agent_came(self) -> None:
        """Note that an agent is connected."""
        self._agent_lost_ns = None

    def agent_went(self, now_ns: int) -> None:
        """Note that no agent is connected; a repetition does not restart the count."""
        if self._agent_lost_ns is None:
            self._agent_lost_ns = now_ns

    def current(self, now_ns: int) -> Route | None:
        """Return where a new session may go, or None while nobody may be named."""
        table = self._table
        if table is None or table.primary is None or now_ns >= table.valid_until_boot_ns:
            return None
        return self._last

    def last(self) -> Route | None:
        """Return the server that existing sessions are connected to, valid or not."""
        return self._last

    def keeps(self, route: Route) -> bool:
        """Return whether a session that took `route` may go on."""
        if self.term > route.term:
            return False
        return self._last is None or self._last.node == route.node

    def refuses(self, now_ns: int) -> bool:
        """Return whether a new session is better refused at once than made to wait."""
        if self._table is None or self._agent_lost_ns is None:
            return False
        expired = now_ns >= self._table.valid_until_boot_ns
        patience_ns = max(self._validity_ns, AGENT_AWAY_MIN_NS)
        return expired and now_ns - self._agent_lost_ns > patience_ns
