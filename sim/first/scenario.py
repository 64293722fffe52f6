"""What scenarios share: a cluster that has settled, waiting, outages, and the end of every run.

Knows the simulator only. A scenario changes the world by faults and reads ground truth from it.
What does not come in its time is a `ViolationError`, like everything else that was promised.
"""

from __future__ import annotations

from collections.abc import Callable

from metako.election.settings import ElectionSettings
from metako.model.document import ClusterDocument, Durability
from metako.model.events import EventName
from metako.model.ids import NodeId
from sim.first.checks import ViolationError
from sim.first.world import World

STEP_S = 0.001
CALM = 0.0
"""Slowness of a world whose standbys lag only where a scenario says so."""


def settled(
    names: str = "abc",
    *,
    seed: int = 0,
    witnesses: str = "",
    acks: int = 1,
    durability: Durability = Durability.QUORUM,
    election: ElectionSettings | None = None,
    slowness: float = CALM,
) -> World:
    """Return a cluster with a primary, every data node in the sync set, and some writes."""
    world = World(
        names,
        seed=seed,
        witnesses=witnesses,
        acks=acks,
        durability=durability,
        election=election,
    )
    world.slowness = slowness
    world.run_until_primary(10)
    standbys = len(names) - len(witnesses) - 1
    until(world, lambda: len(document(world).sync.members) == standbys, limit_s=10)
    world.write_everywhere(0.3)
    assert world.acked
    return world


def until(world: World, condition: Callable[[], bool], *, limit_s: float) -> float:
    """Run in steps of a millisecond until the condition holds; return how long it took."""
    began = world.heap.now_ns
    while not condition():
        if world.heap.now_ns - began >= limit_s * 1e9:
            raise ViolationError(f"not within {limit_s} s\n{world.log()}")
        world.run(STEP_S)
    return (world.heap.now_ns - began) / 1e9


def primary(world: World) -> NodeId:
    name = world.primary()
    assert name is not None, world.log()
    return name


def others(world: World, *names: str) -> list[NodeId]:
    return [n for n in world.names if n not in names]


def document(world: World) -> ClusterDocument:
    """Return the newest document that any node has made durable."""
    documents = [node.hard.document for node in world.nodes.values()]
    return max((d for d in documents if d is not None), key=lambda d: d.ref)


def writes(world: World) -> bool:
    """Return whether a write to the current primary is acknowledged within two pumps."""
    name = world.primary()
    before = len(world.acked)
    if name is None or world.write(name) is None:
        return False
    world.run(0.01)
    return len(world.acked) > before


def outage(world: World, *, other_than: str = "", limit_s: float = 10) -> float:
    """Return the virtual seconds until writes are acknowledged (by another node) again."""

    def back() -> bool:
        name = world.primary()
        if name is None or name == other_than:
            return False
        before = len(world.acked)
        world.write(name)
        world.run(0.01)
        return any(ack.node == name for ack in world.acked[before:])

    return until(world, back, limit_s=limit_s)


def happened(world: World, name: EventName, *nodes: str) -> list[NodeId]:
    """Return who reported events of that name, in order; of `nodes` only, if any are given."""
    return [n for _, n, event in world.events if event.name is name and (not nodes or n in nodes)]


def finish(world: World) -> NodeId:
    """Write on, let everybody settle, and check that nothing acknowledged is missing anywhere."""
    world.write_everywhere(0.5)
    name = world.run_until_primary(10)
    world.run(1)
    world.check_nothing_lost(name)
    return name
