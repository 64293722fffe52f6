"""A random run: faults of every kind at random moments, then peace, then the reckoning.

Input: a seed, and the names of the nodes. A run is fixed by its seed. During the faults only the
checkers judge (nothing unsafe may happen); after them the cluster must have a primary within a
bound, every node must be a synchronous standby again, and every acknowledged value must be there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from metako.model.ids import NodeId
from sim.first.checks import ViolationError
from sim.first.world import World

RECOVERY_S = 40.0
REJOIN_S = 15.0
FAULTS = (
    *("kill_server", "kill_node", "kill_agent", "pause_agent", "pause_node"),
    *("partition", "one_way", "loss", "stall", "wait"),
    *("start", "start", "heal", "heal", "resume", "resume"),
)
"""What may happen next, each as likely as the other; cures are named twice."""


@dataclass(slots=True)
class Run:
    """One random run in progress."""

    world: World
    rng: random.Random
    down: set[NodeId] = field(default_factory=set)
    paused: set[NodeId] = field(default_factory=set)

    def disturb(self, fault: str, node: NodeId) -> None:
        """Do one fault or cure; a fault that makes no sense for the node is left out."""
        world, network = self.world, self.world.network
        match fault:
            case "kill_server":
                world.kill_server(node)
            case "kill_node" | "kill_agent" if node not in self.paused:
                (world.kill_node if fault == "kill_node" else world.kill_agent)(node)
                self.down.add(node)
            case "pause_agent" | "pause_node" if node not in self.down:
                world.pause(node, server=fault == "pause_node")
                self.paused.add(node)
            case "partition":
                network.partition([node], [n for n in world.names if n != node])
            case "one_way":
                network.cut.add((node, self.rng.choice([n for n in world.names if n != node])))
            case "loss":
                network.loss = self.rng.choice([0.05, 0.2, 0.4])
            case "stall":
                world.stalled.add(node)
            case "start":
                for name in sorted(self.down):
                    world.start(name)
                self.down.clear()
            case "heal":
                network.heal()
                world.stalled.clear()
            case "resume":
                for name in sorted(self.paused):
                    world.resume(name)
                self.paused.clear()

    def cure(self) -> None:
        """End every fault."""
        for cure in ("heal", "resume", "start"):
            self.disturb(cure, self.world.names[0])


def run(
    seed: int, *, names: str = "abc", witnesses: str = "", acks: int = 1, steps: int = 20
) -> Run:
    """Play one random run to its end.

    Raises:
        ViolationError: a promise was broken, or the cluster did not recover. Same seed, same error.
    """
    rng = random.Random(f"{seed}/swarm")  # noqa: S311 - a simulator is predictable
    world = World(names, seed=seed, witnesses=witnesses, acks=acks)
    play = Run(world, rng)
    world.run_until_primary(15)
    world.run(3)
    for _ in range(steps):
        fault = rng.choice(FAULTS)
        node = rng.choice(world.names)
        primary = world.primary()
        if primary is not None and rng.random() < 0.5:
            node = primary
        play.disturb(fault, node)
        world.write_everywhere(rng.choice([0.2, 0.7, 1.5, 3.0]), per_second=20)
    play.cure()
    _recover(world)
    return play


def _recover(world: World) -> None:
    world.run_until_primary(RECOVERY_S)
    world.write_everywhere(1, per_second=20)
    standbys = len(world.names) - len(world.witnesses) - 1
    for _ in range(round(REJOIN_S * 10)):
        world.run(0.1)
        name = world.primary()
        document = world.nodes[name].hard.document if name is not None else None
        if name is not None and document is not None and len(document.sync.members) == standbys:
            world.check_nothing_lost(name)
            return
    raise ViolationError(f"not every standby is back after {REJOIN_S} s (seed {world.seed})")
