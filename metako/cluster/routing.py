"""From the lease and the roster to a table that a proxy can follow. Pure.

The primary of a table is the one whose heartbeats said that it admits applications, and only for
as long as its lease can run. Gossip only contributes addresses and the list of replicas.
"""

from __future__ import annotations

from metako.election.election import Election
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.model.member import Member, MemberState, ServerRole, ServerState
from metako.model.postgres import ProcessState
from metako.model.routing import RouteTarget, RoutingTable


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

    While a large cluster starts, every message tells of somebody's new state: the routes are made
    again only when a member changed in what a route depends on.
    """

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._roster: tuple[Member, ...] = ()  # that the routes below were made from
        self._routes: tuple[RouteTarget, ...] = ()

    def among(self, roster: tuple[Member, ...]) -> tuple[RouteTarget, ...]:
        """Return the routes to those members that serve reads, in order of their names.

        Args:
            roster: in order of names; a member that has not changed is the same object as before.
        """
        before, self._roster = self._roster, roster
        if not _lead_alike(before, roster):
            routes = (_target(member, self._me) for member in roster if _serves_reads(member))
            self._routes = tuple(route for route in routes if route is not None)
        return self._routes


def build_table(
    election: Election, replicas: tuple[RouteTarget, ...], primary: NodeId | None, until: int
) -> RoutingTable:
    """Return the routes to `primary`, as `current_primary` names it, and to the replicas."""
    core = election.core
    target = _target(core.members.get(primary), core.node) if primary is not None else None
    # The term in which the present timeline was begun, not the newest one: proxies cut sessions
    # when it rises. A vote for somebody who then fails deposes nobody, and a primary that is
    # elected again in a higher term is still the server that the sessions are connected to.
    document = core.document
    term = document.timelines[-1].term if document and document.timelines else Term(0)
    return RoutingTable(
        term=term,
        primary=target,
        replicas=tuple(route for route in replicas if route.node != primary),
        valid_until_boot_ns=until if target is not None else 0,
    )


def _lead_alike(before: tuple[Member, ...], now: tuple[Member, ...]) -> bool:
    """Return whether two rosters differ in nothing that a route depends on."""
    if before is now:
        return True
    if len(before) != len(now):
        return False
    for old, new in zip(before, now, strict=True):
        if old is not new and _leads(old) != _leads(new):
            return False
    return True


def _leads(member: Member) -> tuple[object, ...]:
    meta = member.meta
    if meta is None:
        return (member.node,)
    return (member.node, _serves_reads(member), meta.postgres_address)


def _serves_reads(member: Member) -> bool:
    meta = member.meta
    return (
        member.state is MemberState.ALIVE
        and meta is not None
        and meta.role is ServerRole.STANDBY
        and meta.state is ServerState.STREAMING
    )


def _target(member: Member | None, me: NodeId) -> RouteTarget | None:
    if member is None or member.meta is None or member.meta.postgres_address is None:
        return None
    return RouteTarget(member.node, member.meta.postgres_address, local=member.node == me)
