"""Routing tables: no longer than the lease, never to a deposed server, reads only where it streams.

The tables are those of running nodes in the simulator: they follow from what engines really know.
"""

from __future__ import annotations

import pytest

from metako.model.ids import NodeId
from metako.model.instant import NS_PER_MS
from metako.model.routing import RoutingTable
from sim.first.scenario import document, others, outage, primary, settled, until
from sim.first.world import World


def table(world: World, node: NodeId) -> RoutingTable:
    routing = world.nodes[node].routing
    assert routing is not None
    return routing


def named(world: World, node: NodeId) -> NodeId | None:
    """Return the primary that this node's proxy may use now."""
    routes = table(world, node)
    valid = world.heap.now_ns < routes.valid_until_boot_ns
    return routes.primary.node if routes.primary is not None and valid else None


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
    world = World()
    until(
        world,
        lambda: any(n.server.writable for n in world.nodes.values()),
        limit_s=10,
    )
    assert not any(n.server.config.admit and n.server.writable for n in world.nodes.values())
    assert [named(world, node) for node in world.names] == [None, None, None]


def test_no_table_is_valid_beyond_the_lease_of_the_primary() -> None:
    world = settled()
    name = primary(world)
    for _ in range(40):
        world.run(0.05)
        leader = world.nodes[name].engine
        assert leader is not None
        remaining = leader.status(world.heap.instant()).lease_remaining_ms
        lease_until = world.heap.now_ns + (remaining + 1) * NS_PER_MS
        assert table(world, name).valid_until_boot_ns <= lease_until
        for node in others(world, name):
            # A follower counts from receipt, so it is later by at most a message's delay.
            slack = round(2 * world.network.delay_ms[1] * NS_PER_MS)
            heartbeat = world.election.heartbeat_ms * NS_PER_MS
            assert table(world, node).valid_until_boot_ns <= lease_until + slack + heartbeat


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
    world.kill_server(old)
    voter = others(world, old)[1]
    until(world, lambda: world.nodes[voter].hard.promised_term > before, limit_s=1)
    assert table(world, voter).term == before
    outage(world, other_than=old)
    world.run(0.3)
    assert table(world, voter).term > before


def test_standby_that_does_not_stream_takes_no_reads() -> None:
    world = settled()
    name = primary(world)
    standby, other = others(world, name)
    world.kill_server(standby)
    world.nodes[standby].server.durations_ms["Start"] = 10_000_000
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
    world.kill_node(standby)
    until(
        world,
        lambda: {r.node for r in table(world, name).replicas} == {other},
        limit_s=6,
    )
    assert named(world, other) == name
