"""From the lease and the roster to a table that a proxy can follow. Pure.

The primary of a table is the one whose heartbeats said that it admits applications, and only for
as long as its lease can run. Gossip only contributes addresses and the list of replicas.
"""

from __future__ import annotations

from collections.abc import Sequence

from metako.election.election import Election
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.model.member import Member, MemberState, ServerRole, ServerState
from metako.model.postgres import ProcessState
from metako.model.routing import Peer, RouteTarget, RoutingTable


def current_primary(election: Election, now: Instant) -> tuple[NodeId | None, int]:
    """Return who takes writes as far as this node knows, and until when (CLOCK_BOOTTIME, ns)."""
    leader = election.leader
    core = election.core
    if leader is not None:
        serving = (
            leader.active
            and not leader.ending
            and core.observed.process is ProcessState.RUNNING
            and core.observed.in_recovery is False
            and leader.lease.valid(now)
        )
        return (core.node if serving else None), leader.lease.until_boot_ns
    voter = election.voter
    beat, at = voter.heartbeat, voter.heartbeat_at
    if beat is None or at is None or not beat.active or not voter.hold.active(now):
        return None, 0
    if beat.term < core.hard.promised_term:
        return None, 0
    until = at.boot_ns + milliseconds(core.settings.lease_ms(beat.hold_ms))
    return (voter.leader, until) if now.boot_ns < until else (None, 0)


class Replicas:
    """The standbys that serve reads.

    While a large cluster starts, every message tells of somebody's new state: a route is made again
    only when its member has changed.
    """

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._roster: Sequence[Member | None] = ()  # that the routes below were made from
        self._by_place: list[RouteTarget | None] = []  # in the roster; None: serves no reads
        self._routes: tuple[RouteTarget, ...] = ()

    def among(self, roster: tuple[Member, ...]) -> tuple[RouteTarget, ...]:
        """Return the routes to those members that serve reads, in order of their names.

        Args:
            roster: in order of names; a member that has not changed is the same object as before.

        Returns:
            The same object as before while all the routes are the same.
        """
        before, self._roster = self._roster, roster
        if before is roster:
            return self._routes
        routes, changed = self._by_place, False
        if len(before) != len(roster):
            before, changed = [None] * len(roster), True
            routes[:] = [None] * len(roster)
        for place, member in enumerate(roster):
            if member is before[place]:
                continue
            route = _target(member, self._me) if _serves_reads(member) else None
            if route != routes[place]:
                routes[place], changed = route, True
        if changed:
            self._routes = tuple([route for route in routes if route is not None])
        return self._routes


class Router:
    """Makes tables. With every heartbeat they hold for longer, and mostly lead where they did."""

    def __init__(self, me: NodeId) -> None:
        self._replicas = Replicas(me)
        self._made_from: tuple[NodeId | None, object, object] | None = None
        self._others: tuple[object, NodeId | None, tuple[RouteTarget, ...]] = (None, None, ())
        self._table = RoutingTable(Term(0), None, (), 0)

    def table(
        self,
        election: Election,
        standing: tuple[Member, ...],
        primary: NodeId | None,
        until: int,
    ) -> RoutingTable:
        """Return the routes to `primary` and to the replicas; the same object if nothing changed.

        Args:
            election: of this node.
            standing: the roster, the same object while nobody changed in more than positions.
            primary: who takes writes, as `current_primary` names it.
            until: and until when.
        """
        core = election.core
        document, known, made_from = core.document, self._table, self._made_from
        if (
            made_from is None
            or made_from[1] is not standing
            or made_from[2] is not document
            or made_from[0] != primary
        ):
            self._made_from = (primary, standing, document)
            target = _target(core.members.get(primary), core.node) if primary is not None else None
            # The term in which the present timeline was begun, not the newest one: proxies cut
            # sessions when it rises. A vote for somebody who then fails deposes nobody, and a
            # primary that is elected again in a higher term is still the server that the sessions
            # are connected to.
            term = document.timelines[-1].term if document and document.timelines else Term(0)
            replicas = self._without(primary, self._replicas.among(standing))
            peers = _peers(standing, core.node)
            wish = document.switchover if document is not None else None
            hold = wish.order_id if wish is not None else ""
        else:
            term, target, replicas, _, peers, hold = known
        until = until if target is not None else 0
        table = RoutingTable(term, target, replicas, until, peers, hold)
        if table != known:
            self._table = table
        return self._table

    def _without(
        self, primary: NodeId | None, replicas: tuple[RouteTarget, ...]
    ) -> tuple[RouteTarget, ...]:
        """Return all replicas but the primary, whose role may not be known everywhere yet."""
        if self._others[0] is not replicas or self._others[1] != primary:
            others = tuple([route for route in replicas if route.node != primary])
            self._others = (replicas, primary, others)
        return self._others[2]


def _serves_reads(member: Member) -> bool:
    meta = member.meta
    return (
        member.state is MemberState.ALIVE
        and meta is not None
        and meta.role is ServerRole.STANDBY
        and meta.state is ServerState.STREAMING
    )


def _peers(standing: tuple[Member, ...], me: NodeId) -> tuple[Peer, ...]:
    """Return the proxies of the others, for what a client asks of the wrong node."""
    return tuple(
        Peer(member.node, member.meta.proxy_address)
        for member in standing
        if member.node != me
        and member.state in (MemberState.ALIVE, MemberState.SUSPECT)
        and member.meta is not None
        and member.meta.proxy_address is not None
    )


def _target(member: Member | None, me: NodeId) -> RouteTarget | None:
    if member is None or member.meta is None or member.meta.postgres_address is None:
        return None
    return RouteTarget(member.node, member.meta.postgres_address, local=member.node == me)
