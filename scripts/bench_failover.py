"""Rounds of faults on a local cluster under a steady writer: how long writes stop, what is lost.

    python scripts/bench_failover.py --rounds 20 [--fault kill-primary] [--seed 1] [--json FILE]

Every round waits until all nodes are healthy, does one fault to the primary's node, waits until
writes are acknowledged again, and repairs. At the end the rows on the new primary are compared with
what was acknowledged. Exit code 0 if nothing was lost, duplicated or left running.

The faults: kill-primary (kill -9 of the postmaster), kill-host (kill -9 of agent, guard, PostgreSQL
and proxy), stop-agent (SIGSTOP of the agent), pause-host (SIGSTOP of all of them), kill-agent,
kill-guard, kill-standby (kill -9 of a standby's host; writes must hardly notice).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

import trio

from metako.demo.cluster import LocalCluster
from metako.demo.command import with_cluster
from metako.demo.layout import plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.demo.processes import Kind, node_by_kind
from metako.demo.view import NodeView
from metako.demo.writer import Writer, compare, longest_gap, rows_on

FAULTS = (
    "kill-primary",
    "kill-host",
    "stop-agent",
    "pause-host",
    "kill-agent",
    "kill-guard",
    "kill-standby",
)
HEALTHY_TIMEOUT_S = 90.0
RECOVERY_TIMEOUT_S = 40.0
SETTLE_S = (0.3, 2.0)
READ_TIMEOUT_S = 30.0
ROWS_AFTER = 10


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


class Rounds:
    """The experiment: one cluster, one writer, many faults."""

    def __init__(self, cluster: LocalCluster, arguments: argparse.Namespace) -> None:
        self.cluster = cluster
        self.arguments = arguments
        self.rng = random.Random(arguments.seed)  # noqa: S311 - repeatable
        self.outages: dict[str, list[float]] = {}
        self.verdict: dict[str, object] = {}

    async def run(self) -> None:
        cluster = self.cluster
        await cluster.start()
        writer = Writer(cluster.layout, rows_per_second=self.arguments.rows_per_second)
        await writer.create_table(timeout_s=READ_TIMEOUT_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            for number in range(1, self.arguments.rounds + 1):
                await self._round(number, writer)
            primary = await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
            writer.stop()
            await writer.finished.wait()
            nursery.cancel_scope.cancel()
        rows = await rows_on(
            cluster.layout, cluster.node(primary.node), writer.table, timeout_s=READ_TIMEOUT_S
        )
        result = compare(rows, writer.record.acknowledged, writer.record.unknown)
        self.verdict = {
            "acknowledged": len(writer.record.acknowledged),
            "unknown": len(writer.record.unknown),
            "errors": writer.record.errors,
            "lost": len(result.lost),
            "duplicated": len(result.duplicated),
            "surplus": len(result.surplus),
        }

    async def _round(self, number: int, writer: Writer) -> None:
        primary = await self.cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
        await trio.sleep(self.rng.uniform(*SETTLE_S))
        fault = self.arguments.fault or self.rng.choice(FAULTS)
        at_s = time.monotonic()
        victim = await self._inject(fault, primary)
        if fault != "kill-standby":
            await self.cluster.wait_primary(
                timeout_s=RECOVERY_TIMEOUT_S, above_timeline=primary.timeline
            )
        since_s = time.monotonic()
        with trio.fail_after(RECOVERY_TIMEOUT_S):
            while writer.record.count_after(since_s) < ROWS_AFTER:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.02)
        gap = longest_gap(list(writer.record.acknowledged.values()), at_s)
        assert gap is not None
        outage_s = gap[1] - gap[0]
        self.outages.setdefault(fault, []).append(outage_s)
        say(f"round {number}: {fault} on {victim}: writes stopped for {outage_s:.3f} s")
        if fault in ("stop-agent", "pause-host"):
            await trio.sleep(self.rng.uniform(0, 2))
            self.cluster.resume(victim)
        for name in self.cluster.dead_nodes():
            self.cluster.start_agent(name)

    async def _inject(self, fault: str, primary: NodeView) -> str:
        cluster, node = self.cluster, primary.node
        match fault:
            case "kill-primary":
                cluster.kill_postmaster(node)
            case "kill-host":
                await cluster.kill_host(node)
            case "stop-agent":
                cluster.stop_agent(node)
            case "pause-host":
                await cluster.pause_host(node)
            case "kill-agent" | "kill-guard":
                kind = Kind.AGENT if fault == "kill-agent" else Kind.GUARD
                for process in node_by_kind(cluster.node(node))[kind]:
                    os.kill(process.pid, signal.SIGKILL)
            case "kill-standby":
                node = self.rng.choice(sorted(primary.sync))
                await cluster.kill_host(node)
            case _:
                raise AssertionError(fault)
        return node


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--fault", choices=FAULTS, default=None, help="default: a random one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows-per-second", type=float, default=100)
    parser.add_argument("--timing", choices=("default", "fast", "wan"), default="default")
    parser.add_argument("--bindir", default=None, help="PostgreSQL's programs; embedded:18 …")
    parser.add_argument("--json", type=Path, default=None, help="also write the result here")
    parser.add_argument("--keep", action="store_true", help="keep the cluster's directory")
    arguments = parser.parse_args()
    directory = make_directory()
    layout = plan_layout(
        directory,
        bindir=arguments.bindir,
        os_user=ensure_os_user(say),
        timing=arguments.timing,
    )
    cluster = LocalCluster(layout, say=lambda _: None)
    rounds = Rounds(cluster, arguments)
    cluster.write_files()
    try:
        trio.run(with_cluster, cluster, rounds.run)
    finally:
        if not arguments.keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"kept {directory}")
    table = {
        fault: {
            "rounds": len(values),
            "min_s": round(min(values), 3),
            "median_s": round(statistics.median(values), 3),
            "max_s": round(max(values), 3),
        }
        for fault, values in sorted(rounds.outages.items())
    }
    result = {"timing": arguments.timing, "outages": table, **rounds.verdict}
    print(json.dumps(result, indent=2))  # noqa: T201 - the result of a command
    if arguments.json:
        arguments.json.write_text(json.dumps(result) + "\n")
    good = not any(rounds.verdict.get(k) for k in ("lost", "duplicated", "surplus"))
    return 0 if good and rounds.verdict else 1


if __name__ == "__main__":
    sys.exit(main())
