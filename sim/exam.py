"""The exam after the peace: whatever happened before, a cluster that is whole works like a new one.

In: a world whose core has just become whole. Out: nothing, or a violation. The primary is lost once
more, in one of a few plain ways and with nothing else wrong; another one has to take writes within
the time that a failover takes, and when the lost one is back the core has to become whole again.
It brings out what a fault left behind that shows only at the next one: a trust that is never
regained, a mark that is never taken back, a request that is never repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from metako.model.document import ClusterDocument, Durability
from metako.model.ids import NodeId, Term
from sim.faults import Fault, Injector
from sim.faults.fault import Value
from sim.heap import NS_PER_S
from sim.standing import counts, has_majority
from sim.streams import stream
from sim.watch import ViolationError
from sim.world import World

TAKEN = 1 / 3
"""Of the runs with random faults, the part that takes the exam: it costs as much as they do."""
FAILOVER_S = 3.0
"""Within this, and two holds, another one takes writes: the first to stand may not be the best."""
BACK_AFTER_S = 4.0
"""The lost one stays away for a while after that, so that it has something to catch up with."""


class Loss(enum.StrEnum):
    """How the primary is lost."""

    HOST = "its host is gone"
    POSTGRES = "its server crashed"  # the agent is well, and may start it again
    CUT_OFF = "it is cut off"  # from all other nodes and from clients


def take_exam(
    seed: int, world: World, first_number: int, core: Sequence[NodeId], whole: Callable[[], None]
) -> None:
    """Lose the primary, and demand a failover in time and a whole core after it.

    Args:
        first_number: a number that no fault of the run has; the exam is no part of its faults, so
            that a replay takes it as well.
        core: those who are whole; who is not among them is down.
        whole: demands that they are whole again; raises if it takes too long.

    Raises:
        ViolationError: it takes too long.
    """
    rng = stream(seed, "exam")
    document, primary = world.document(), world.primary()
    if rng.random() >= TAKEN or document is None or primary is None:
        return
    if not _can_be_replaced(world, document, primary, core):
        return
    loss = rng.choice(list(Loss))
    injector = Injector(world, _Numbered(world, first_number))
    injector.apply(_fault(world, primary, loss))
    limit_s = FAILOVER_S + 2 * world.election.hold_ms / 1000
    old = document.term
    began_ns = world.heap.now_ns
    if not world.run_until(lambda: _replaced(world, old), limit_s=limit_s, step_ms=100):
        raise ViolationError(
            "slow_failover",
            f"{primary} was lost ({loss}) with nothing else wrong, and nobody takes writes after "
            f"{limit_s:g} s",
            (primary,),
        )
    took_s = (world.heap.now_ns - began_ns) / NS_PER_S
    world.note(primary, "exam_passed", f"{loss}, {took_s:.1f} s")
    world.run(BACK_AFTER_S)
    injector.end_all()
    whole()


def _replaced(world: World, old: Term) -> bool:
    """Return whether somebody takes writes in a later term."""
    document, primary = world.document(), world.primary()
    return document is not None and document.term > old and document.primary == primary


def _can_be_replaced(
    world: World, document: ClusterDocument, primary: NodeId, core: Sequence[NodeId]
) -> bool:
    """Return whether the others of the core have both quorums, and commits would return there."""
    others = [name for name in core if name != primary and world.nodes[name].agent_up]
    standbys = [
        name
        for name in others
        if not world.nodes[name].witness and counts(world.nodes[name], document)
    ]
    listed = document.sync.nodes() & set(standbys)
    return (
        document.durability is not Durability.ASYNC
        and not document.paused
        and has_majority(world, document, others)
        and any(name in document.voters for name in standbys)
        and bool(listed)
        and len(listed) >= document.sync.read_quorum
        and (document.durability is not Durability.STRICT or len(standbys) > document.sync.k)
    )


def _fault(world: World, primary: NodeId, loss: Loss) -> Fault:
    args: dict[str, Value]
    match loss:
        case Loss.HOST:
            do, args = "kill", {"what": "host"}
        case Loss.POSTGRES:
            do, args = "kill", {"what": "postgres"}
        case Loss.CUT_OFF:
            do, args = "isolate", {"clients": True}
    return Fault.make(world.heap.now_ns, do, {**args, "node": (primary,)})


class _Numbered:
    """Tells the watchers of the faults of an exam, with numbers of their own."""

    def __init__(self, world: World, first: int) -> None:
        self._watch = world.watch
        self._first = first

    def fault_began(self, number: int, fault: Fault, text: str, nodes: tuple[str, ...]) -> None:
        self._watch.fault_began(self._first + number, fault, f"exam: {text}", nodes)

    def fault_ended(self, number: int) -> None:
        self._watch.fault_ended(self._first + number)
