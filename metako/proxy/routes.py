"""What a worker believes about the primary, and for how long it may.

In: routing tables, the coming and going of the agent, and the time (CLOCK_BOOTTIME, ns). Out:
where a new session may go, and whether a session that exists may stay.

Three rules, and the reason for each:

* Of a table of a lower term than the latest only the list of replicas is taken. It comes from an
  agent that knows less than its predecessor did, as one that has lost its record: following it
  could mean writing to a deposed server. Which standbys are fit to serve reads it does know.
* A connection to a server belongs to `(term, node)`. It ends as soon as a higher term or another
  node is known, also when the same node leads again: its server was restarted or promoted in
  between. (Its client may go on, with another connection.) It does not end because a table says
  "no primary" in the same term, or because tables stop coming: a silent agent is no evidence that
  the server was deposed, and the guard fences the server at the end of its lease without anybody's
  help.
* A table that is past its validity names nobody, and new sessions wait. They are refused, so that
  clients try another node's proxy, when waiting is pointless: a table that named a primary was
  neither renewed nor replaced in time, so our agent is dead or stopped; or the last one named
  nobody and the agent has been away for longer than it needs to restart.

For the second rule a table's `term` must be that of the newest *document*, never of a candidacy:
a candidacy that fails would otherwise cut every session of a healthy primary.

Deliberately unknown here: sockets, sessions, clocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from metako.model.ids import Address, NodeId, Term
from metako.model.instant import NS_PER_S
from metako.model.routing import RouteTarget, RoutingTable

# A table without a primary is valid for no time at all, and the agent may just be restarting.
AGENT_AWAY_MIN_NS = 2 * NS_PER_S

# A live agent renews a table several times before it expires, or replaces it at once.
AGENT_SILENT_NS = NS_PER_S


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
        self._agent_lost_ns: int | None = None  # since when; None while connected or never seen
        # The newest primary of the newest term, also when a later table says "none": sessions to
        # it may still exist. None before the first, and after a higher term without a primary.
        self._last: Route | None = None
        self.replicas: tuple[RouteTarget, ...] = ()  # that serve reads, as last heard

    @property
    def term(self) -> Term:
        return Term(0) if self._table is None else self._table.term

    def receive(self, table: RoutingTable, now_ns: int) -> bool:
        """Replace the table; False if it is of a lower term, of which only the replicas count."""
        self.replicas = table.replicas
        if self._table is not None and table.term < self._table.term:
            return False
        if table.term > self.term:
            self._last = None
        if table.primary is not None:
            self._last = Route(table.term, table.primary.node, table.primary.address)
        self._table = table
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
        table = self._table
        if table is None:
            return False
        if table.primary is not None:
            return now_ns - table.valid_until_boot_ns > AGENT_SILENT_NS
        lost_ns = self._agent_lost_ns
        return lost_ns is not None and now_ns - lost_ns > AGENT_AWAY_MIN_NS
