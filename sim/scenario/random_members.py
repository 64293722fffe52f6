"""Operators who change who is a member, now and then, in a swarm.

In: a scenario, a seed. Out: orders through the injector, to whichever node. Invariant: no order
makes a run hopeless: three voters stay, and standbys enough for the acknowledgements that are asked
for.
What an order comes to is the engine's business; one that is refused is as good as another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from metako.model.document import ClusterDocument, Durability, Phase
from metako.model.ids import NodeId
from sim.faults import Value
from sim.faults.surface import FaultyWorld
from sim.scenario.model import Scenario
from sim.scenario.operators import RandomOperators
from sim.standing import is_member

PART = 0.4
"""Of the seeds, those with such operators."""
VOTERS_MIN = 3
CHANGES_MAX = 40
LEARNER_SHARE = 0.2
"""Of those that are taken in, the part that is to have no vote."""


class RandomMembers(RandomOperators):
    """See the module's docstring. A `Script`."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        super().__init__(
            scenario,
            seed,
            purpose="random members",
            kinds=("add_member", "remove_member"),
            part=PART,
            gap_max_s=12,
            orders_max=CHANGES_MAX,
        )

    def _act(self) -> None:
        world = self._injector.world
        document = world.document()
        if document is not None and document.phase is Phase.ACTIVE:
            orders = [o for o in self._sensible(world, document) if o[0] in self.kinds]
            if orders:
                kind, args = self._rng.choice(orders)
                # One that it is about may not count in the cluster, and then refuses.
                self._give(kind, args, not_to=args["member"])

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
