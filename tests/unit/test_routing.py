"""Routing tables: no longer than the lease, never to a deposed server, reads only where it streams.

The tables are those of running nodes in the simulator: they follow from what engines really know.
"""

from __future__ import annotations

import pytest

from metako.model.ids import NodeId, Term
from metako.model.instant import NS_PER_MS
from metako.model.routing import RoutingTable
from sim.settled import (
    Stage,
    document,
    keep_down,
    others,
    outage,
    primary,
    settled,
    status,
    until,
)


def table(world: Stage, node: NodeId) -> RoutingTable:
    routing = world.nodes[node].routing
    assert routing is not None
    return routing


def named(world: Stage, node: NodeId) -> NodeId | None:
    """Return the primary that this node's table leads to now."""
    routes = table(world, node)
    return routes.primary.node if routes.primary is not None and valid_ns(world, node) > 0 else None


def valid_ns(world: Stage, node: NodeId) -> int:
    """Return for how long this node's table is valid, by its own clock."""
    now = world.nodes[node].clock.instant(world.heap.now_ns)
    return table(world, node).valid_until_boot_ns - now.boot_ns


def promised(world: Stage, node: NodeId) -> Term:
    hard = world.nodes[node].hard
    assert hard is not None
    return hard.promised_term


def test_every_node_routes_to_the_primary_and_reads_to_the_others() -> None:
    world = settled()
    name = primary(world)
    for node in world.names:
        routes = table(world, node)
        assert named(world, node) == name
        assert {r.node for r in routes.replicas} == set(others(world, name))
        assert routes.term == document(world).term


def test_only_the_node_itself_is_local() -> None:
    world = settled()
    for node in world.names:
        routes = table(world, node)
        assert routes.primary is not None
        targets = (routes.primary, *routes.replicas)
        assert [t.node for t in targets if t.local] == [node]


def test_nobody_routes_before_applications_are_admitted() -> None:
    world = Stage()
    until(
        world,
        lambda: any(n.server.writable for n in world.nodes.values()),
        limit_s=10,
    )
    assert not any(n.server.admitting and n.server.writable for n in world.nodes.values())
    assert [named(world, node) for node in world.names] == [None, None, None]


def test_no_table_is_valid_beyond_the_lease_of_the_primary() -> None:
    world = settled()
    name = primary(world)
    for _ in range(40):
        world.run(0.05)
        lease_ns = (status(world, name).lease_remaining_ms + 1) * NS_PER_MS
        assert valid_ns(world, name) <= lease_ns
        for node in others(world, name):
            # A follower counts from receipt, so it is later by at most a message's delay.
            delay_ms = world.network.link(name, node).properties.delay_ms
            slack = round(2 * delay_ms[1] * NS_PER_MS)
            heartbeat = world.election.heartbeat_ms * NS_PER_MS
            assert valid_ns(world, node) <= lease_ns + slack + heartbeat


@pytest.mark.parametrize("seed", range(3))
def test_followers_stop_routing_to_a_partitioned_primary_before_the_next_one_is_named(
    seed: int,
) -> None:
    world = settled(seed=seed)
    old = primary(world)
    world.network.partition([old], others(world, old))
    seen: list[NodeId | None] = [old]

    def next_one_is_named() -> bool:
        names = {named(world, node) for node in others(world, old)} - {None}
        assert len(names) <= 1  # never the old one here and the new one there
        current = names.pop() if names else None
        if current != seen[-1]:
            seen.append(current)
        return current not in (None, old)

    until(world, next_one_is_named, limit_s=4)
    assert seen == [old, None, primary(world)]
    assert named(world, old) is None


def test_term_of_the_table_rises_with_a_failover_and_not_with_a_mere_vote() -> None:
    world = settled()
    old = primary(world)
    before = table(world, others(world, old)[1]).term
    world.nodes[old].kill_postgres()
    voter = others(world, old)[1]
    until(world, lambda: promised(world, voter) > before, limit_s=1)
    assert table(world, voter).term == before
    outage(world, other_than=old)
    world.run(0.3)
    assert table(world, voter).term > before


def test_standby_that_does_not_stream_takes_no_reads() -> None:
    world = settled()
    name = primary(world)
    standby, other = others(world, name)
    keep_down(world, standby)
    until(
        world,
        lambda: all({r.node for r in table(world, n).replicas} == {other} for n in world.names),
        limit_s=2,
    )
    assert named(world, standby) == name  # its proxy still leads to the primary


def test_dead_node_leaves_the_table_of_replicas() -> None:
    world = settled()
    name = primary(world)
    standby, other = others(world, name)
    world.nodes[standby].kill_host()
    until(
        world,
        lambda: {r.node for r in table(world, name).replicas} == {other},
        limit_s=6,
    )
    assert named(world, other) == name
