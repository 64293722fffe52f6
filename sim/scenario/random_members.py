"""Operators who change who is a member, now and then, in a swarm.

In: a scenario, a seed. Out: orders through the injector, to whichever node. Invariant: no order
makes a run hopeless: three voters stay, and standbys enough for the acknowledgements that are asked
for.
What an order comes to is the engine's business; one that is refused is as good as another.

It draws from a stream of its own, so that a seed's other random faults are what they would be
without it. Only some of the seeds have such operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from metako.model.document import ClusterDocument, Durability, Phase
from metako.model.ids import NodeId
from sim.faults import Fault, Injector, Value
from sim.faults.kind import Family
from sim.faults.surface import FaultyWorld
from sim.heap import NS_PER_S, Heap
from sim.scenario.model import Scenario
from sim.standing import is_member
from sim.streams import stream

PART = 0.4
"""Of the seeds, those with such operators."""
CALM_NS = 6 * NS_PER_S
"""A new cluster gets this long to form."""
VOTERS_MIN = 3
CHANGES_MAX = 40
LEARNER_SHARE = 0.2
"""Of those that are taken in, the part that is to have no vote."""


class RandomMembers:
    """See the module's docstring. A `Script`."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._rng = rng = stream(seed, scenario.name, "random members")
        conditions = scenario.random
        wanted = str(Family.OPERATOR) in conditions.faults
        without = set(conditions.without)
        kinds = ("add_member", "remove_member")
        allowed = [k for k in kinds if wanted or k in conditions.faults]
        off = str(Family.OPERATOR) in without
        self.kinds = tuple(k for k in allowed if not off and k not in without)
        self._some = rng.random() < PART
        self._gap_ns = round(rng.uniform(3, 12) * NS_PER_S)  # between two orders, on average
        self._left = CHANGES_MAX
        self._over = False
        self._injector: Injector  # from `begin` on, and so is the heap
        self._heap: Heap

    def begin(self, injector: Injector) -> None:
        """See `sim.scenario.plan.Script`."""
        self._injector, self._heap = injector, injector.world.heap
        if self.kinds and self._some:
            self._heap.after(CALM_NS + self._next_ns(), self._turn)

    def end(self) -> None:
        """See `sim.scenario.plan.Script`."""
        self._over = True

    def on_event(self, name: str, node: str) -> None:
        """See `sim.scenario.plan.Script`. Operators wait for nothing."""

    def on_mark(self, name: str, node: str) -> None:
        """See `sim.scenario.plan.Script`. Operators wait for nothing."""

    def _next_ns(self) -> int:
        return round(self._rng.expovariate(1 / self._gap_ns))

    def _turn(self) -> None:
        if self._over or not self._left:
            return
        self._left -= 1
        world = self._injector.world
        document = world.document()
        if document is not None and document.phase is Phase.ACTIVE:
            orders = [o for o in self._sensible(world, document) if o[0] in self.kinds]
            if orders:
                self._give(world, *self._rng.choice(orders))
        self._heap.after(self._next_ns(), self._turn)

    def _give(self, world: FaultyWorld, kind: str, args: dict[str, Value]) -> None:
        # One that it is about may not count in the cluster, and then refuses.
        asked = self._rng.choice([n for n in world.names if n != args["member"]])
        self._injector.apply(Fault.make(self._heap.now_ns, kind, {"node": asked, **args}))

    def _sensible(
        self, world: FaultyWorld, document: ClusterDocument
    ) -> Iterable[tuple[str, dict[str, Value]]]:
        for name in world.names:
            node = world.nodes[name]
            if not is_member(document, name):
                learner = not node.witness and self._rng.random() < LEARNER_SHARE
                if node.agent_up:
                    yield "add_member", {"member": name, "learner": learner}
                continue
            forgetful = node.agent_up and node.lost and not node.taken_in_again
            learner = name in document.learners and name not in document.joining
            if forgetful or learner:
                yield "add_member", {"member": name}
            if name == document.primary or name in document.leaving:
                continue
            if _can_go(world, document, name):
                yield "remove_member", {"member": name}
                if name in document.voters and not node.witness:
                    yield "add_member", {"member": name, "learner": True}


def _can_go(world: FaultyWorld, document: ClusterDocument, name: NodeId) -> bool:
    """Return whether the cluster is a useful one without a member."""
    staying = [n for n in document.members() if n not in document.leaving and n != name]
    voters = [n for n in staying if n in document.voters]
    if name in document.voters and len(voters) < VOTERS_MIN:
        return False
    return len(_with_data(world, staying)) > _copies(document)


def _with_data(world: FaultyWorld, names: Sequence[NodeId]) -> list[NodeId]:
    return [n for n in names if not world.nodes[n].witness]


def _copies(document: ClusterDocument) -> int:
    """Return on how many standbys a commit has to be, and one more where that is for ever."""
    strict = document.durability is Durability.STRICT
    return document.sync.k + 1 if strict else max(1, document.sync.k)
