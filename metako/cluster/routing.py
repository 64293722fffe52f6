"""From the lease and the roster to a table that a proxy can follow. Pure.

The primary of a table is the one whose heartbeats said that it admits applications, and only for
as long as its lease can run. Gossip only contributes addresses and the list of replicas.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def build_table(
    election: Election, members: Mapping[NodeId, Member], primary: NodeId | None, until: int
) -> RoutingTable:
    """Return the routes to `primary`, as `current_primary` names it, and to the replicas."""
    me = election.core.node
    target = _target(members.get(primary), me) if primary is not None else None
    replicas = [
        route
        for member in members.values()
        if member.node != primary and _serves_reads(member)
        if (route := _target(member, me)) is not None
    ]
    # The term in which the present timeline was begun, not the newest one: proxies cut sessions
    # when it rises. A vote for somebody who then fails deposes nobody, and a primary that is
    # elected again in a higher term is still the server that the sessions are connected to.
    document = election.core.document
    term = document.timelines[-1].term if document and document.timelines else Term(0)
    return RoutingTable(
        term=term,
        primary=target,
        replicas=tuple(sorted(replicas, key=lambda r: r.node)),
        valid_until_boot_ns=until if target is not None else 0,
    )


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
