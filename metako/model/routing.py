"""Where a proxy may send whom, and until when it may believe so."""

from __future__ import annotations

from typing import NamedTuple

from metako.model.ids import Address, NodeId, Term
from metako.model.lsn import Lsn


class RouteTarget(NamedTuple):
    """One server that takes connections."""

    node: NodeId
    address: Address
    lsn: Lsn = Lsn(0)  # advisory
    local: bool = False  # runs on the proxy's own host


class Peer(NamedTuple):
    """The proxy of another node."""

    node: NodeId
    address: Address


class RoutingTable(NamedTuple):
    """The routes of one node's proxy; each table replaces the one before it.

    A table whose `valid_until_boot_ns` has passed names no server: the proxy must then refuse
    (bounded waiting allowed), because the primary named here may have lost its lease.
    """

    term: Term
    primary: RouteTarget | None  # None while there is none; new sessions wait
    replicas: tuple[RouteTarget, ...]
    valid_until_boot_ns: int  # CLOCK_BOOTTIME
    peers: tuple[Peer, ...] = ()  # all that have a proxy and are not known to be dead
    hold: str = ""  # the switchover by which the primary is about to hand over; "" for none
