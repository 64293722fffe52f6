"""How many virtual seconds the simulator plays in a second of CPU time, all checkers on.

    python scripts/bench_sim.py [--seconds 60] [--rounds 3]

Plays clusters of several sizes, calm and under random faults, and prints the best of the rounds:
on a busy machine the best is nearest to what the program costs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from dataclasses import replace

from metako.model.ids import NodeId
from sim.heap import NS_PER_S
from sim.play import play
from sim.scenario import Cluster, Scenario, Workload

CASES = ((3, False), (5, False), (5, True), (15, False), (50, False))
"""Nodes, and whether random faults are added."""


def scenario_of(nodes: int, seconds: float) -> Scenario:
    """Return a cluster with twenty operations a second and nothing wrong with it."""
    names = tuple(NodeId(f"n{i + 1}") for i in range(nodes))
    return Scenario(
        name=f"bench-{nodes}",
        summary="",
        cluster=Cluster(names=names),
        workload=Workload(clients=4, rate=5),
        duration_ns=round(seconds * NS_PER_S),
    )


def measure(nodes: int, *, faults: bool, seconds: float, rounds: int) -> float:
    """Return virtual seconds for each CPU second, in the best round."""
    best = 0.0
    for seed in range(rounds):
        scenario = scenario_of(nodes, seconds)
        if nodes > 15:
            scenario = replace(scenario, duration_ns=scenario.duration_ns // 3)
        begun = time.process_time()
        result = play(scenario, seed, extra_faults=faults)
        spent = time.process_time() - begun
        if result.violation is not None:
            sys.exit(f"{nodes} nodes, seed {seed}: {result.violation}")
        best = max(best, result.virtual_ns / NS_PER_S / spent)
    return best


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual seconds a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs a case")
    options = parser.parse_args()
    gc.disable()
    for nodes, faults in CASES:
        ratio = measure(nodes, faults=faults, seconds=options.seconds, rounds=options.rounds)
        kind = "random faults" if faults else "calm"
        sys.stdout.write(f"{nodes:3} nodes, {kind:14} {ratio:8.1f} virtual s / CPU s\n")
        sys.stdout.flush()
        gc.collect()


if __name__ == "__main__":
    main()
