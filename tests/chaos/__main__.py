"""The command `scripts/chaos`: faults on real servers under independent clients, and a verdict.

Exit status: 0 nothing was broken; 1 something was (or a node did not come back); 2 wrong arguments;
3 the rig cannot run here; 130 and 143 after a signal, when everything is cleaned up.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import trio

from chaos import limits
from chaos.rig import RECOVERY_LIMIT_S, SETTLE_S, Rig, RigOptions
from chaos.round import RoundResult
from chaos.verdict import Verdict, judge
from metako.cli.failure import report
from metako.cli.output import write_json, write_line
from metako.config.profiles import TIMING_MS
from metako.model.document import Durability
from metako.model.errors import MetakoError
from metako.model.ids import NodeId
from sim.scenario import (
    Cluster,
    Scenario,
    ScenarioError,
    library_names,
    load_scenario,
    timing_profile,
)

EXIT_SIGNAL_BASE = 128
NODES_MAX = 9
RANDOM = "random-faults"
ROUND_S_MAX = 40
REAL = "real"


def say(text: str) -> None:
    """Print progress where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


def main() -> int:
    """Run the command."""
    options = _parser().parse_args()
    if options.list:
        return _list()
    try:
        wanted = _wanted(options)
        cluster = _cluster(options, wanted)
        scenarios = _playable(wanted, cluster)
    except ScenarioError as error:
        for problem in error.problems:
            say(problem)
        return 3
    if not scenarios:
        say("there is nothing to play: see --list")
        return 2
    directory = options.dir or Path(tempfile.mkdtemp(prefix="metako-chaos-", dir="/tmp"))
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        say(f"{directory} is not empty: choose another --dir")
        return 2
    directory.chmod(0o755)
    rig_options = RigOptions(
        title=_title(options, scenarios),
        seed=options.seed,
        cluster=cluster,
        bindir=options.bindir,
        rate=options.rate,
        recovery_limit_s=options.recover_within,
    )
    run = _Run(rig_options, directory, scenarios, options)
    failed: BaseException | None = None
    try:
        trio.run(run.main)
    except* MetakoError as group:
        failed = group
    except* KeyboardInterrupt:
        say("stopped at once: nothing is judged")
    if failed is not None:
        report(failed)
        # What was seen until then may tell why; without a client nothing was.
        if options.dir is None and not any(directory.glob("client-*")):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"what was recorded is in {directory}")
        return 3
    verdict = run.verdict
    if verdict is None:
        return EXIT_SIGNAL_BASE + run.stopped_by
    if options.json:
        write_json(verdict.as_json())
    else:
        write_line("\n".join(verdict.lines()))
    if run.stopped_by:
        return EXIT_SIGNAL_BASE + run.stopped_by
    return 0 if verdict.ok else 1


class _Run:
    """One call of the command."""

    def __init__(
        self,
        rig: RigOptions,
        directory: Path,
        scenarios: Sequence[Scenario],
        options: argparse.Namespace,
    ) -> None:
        self.verdict: Verdict | None = None
        self.stopped_by = 0
        self._rig = rig
        self._directory = directory
        self._scenarios = scenarios
        self._options = options

    async def main(self) -> None:
        """Play until everything was played, the time is up, or a signal comes."""
        results: list[RoundResult] = []
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(self._watch_signals, scope)
            async with Rig.open(self._rig, self._directory, say) as rig:
                with scope:
                    await self._play(rig)
                await rig.settle()
                results = rig.results
            rig.merge()
            nursery.cancel_scope.cancel()
        self.verdict = judge(
            self._directory,
            results,
            recovery_limit_s=self._rig.recovery_limit_s,
            settle_s=SETTLE_S,
        )

    async def _watch_signals(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self.stopped_by:
                    raise KeyboardInterrupt
                self.stopped_by = int(number)
                say("stopping: the round is ended, the evidence is collected")
                scope.cancel()

    async def _play(self, rig: Rig) -> None:
        began = time.monotonic()
        for number, (scenario, seed, extra) in enumerate(self._rounds(), 1):
            left_s = self._options.minutes * 60 - (time.monotonic() - began)
            if self._options.minutes and left_s <= 0:
                return
            say(f"{_clock(time.monotonic() - began)} round {number}: {scenario.name}, seed {seed}")
            result = await rig.play(scenario, seed, extra_faults=extra)
            for text in result.faults:
                say(f"        {text}")
            if result.recovered_s is None:
                say("        NOT RECOVERED: the run ends here")
                return
            say(f"        everybody is back {result.recovered_s:.1f} s after the peace")
            if failures := rig.clients.failures():
                raise MetakoError(f"clients have failed: {'; '.join(failures)}")

    def _rounds(self) -> Iterator[tuple[Scenario, int, bool]]:
        """Return what to play: each scenario once, or again and again with random faults too."""
        seed = self._options.seed
        if not self._options.minutes:
            for scenario in self._scenarios:
                yield scenario, seed, self._options.extra_faults
            return
        faults = _shortened(load_scenario(RANDOM))
        while True:
            for scenario in self._scenarios:
                yield scenario, seed, self._options.extra_faults
                yield faults, seed, True
                seed += 1


def _title(options: argparse.Namespace, scenarios: Sequence[Scenario]) -> str:
    """Return what is played, in a few words."""
    what = scenarios[0].name if len(scenarios) == 1 else f"{len(scenarios)} scenarios"
    return f"{what} for {options.minutes:g} minutes" if options.minutes else what


def _shortened(scenario: Scenario) -> Scenario:
    return replace(scenario, duration_ns=min(scenario.duration_ns, ROUND_S_MAX * 10**9))


def _wanted(options: argparse.Namespace) -> list[Scenario]:
    if options.scenario:
        return [load_scenario(name) for name in options.scenario]
    every = [load_scenario(name) for name in library_names()]
    return [scenario for scenario in every if REAL in scenario.tier]


def _cluster(options: argparse.Namespace, wanted: Sequence[Scenario]) -> Cluster:
    """Return the cluster to start: that of the scenarios that were named, or what was asked for."""
    asked = (options.nodes, options.witnesses, options.timing, options.acks, options.durability)
    if options.scenario and all(choice is None for choice in asked):
        return wanted[0].cluster
    nodes, witnesses = options.nodes or 3, options.witnesses or 0
    timing = options.timing or "default"
    names = tuple(NodeId(f"n{number}") for number in range(1, nodes + 1))
    names += tuple(NodeId(f"w{number}") for number in range(1, witnesses + 1))
    return Cluster(
        names=names,
        witnesses=names[nodes:],
        acks=options.acks or 1,
        durability=Durability(options.durability or "quorum"),
        timing=timing,
        election=timing_profile(timing),
    )


def _playable(wanted: Sequence[Scenario], cluster: Cluster) -> list[Scenario]:
    """Return what can be played on a cluster, and say what cannot, with the reasons."""
    found = []
    for scenario in wanted:
        reasons = limits.reasons(scenario) + limits.cluster_reasons(scenario, cluster)
        if reasons:
            say(f"skipped {scenario.name}: {'; '.join(reasons)}")
        else:
            found.append(scenario)
    return found


def _list() -> int:
    for name in library_names():
        scenario = load_scenario(name)
        reasons = limits.reasons(scenario)
        mark = "real" if REAL in scenario.tier else "core"
        write_line(f"{name:45} {mark}  {'; '.join(reasons) or scenario.summary}")
    return 0


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Break a real cluster, node by node in network namespaces, under clients that "
        "write down what they were promised; then check that every promise was kept.",
        epilog="Needs root, on Linux. Everything but the evidence is gone when it ends, also by "
        "Ctrl-C; a second Ctrl-C ends it at once, without a verdict.",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="play this one; may be repeated (default: all of the library that are for real hosts)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=0,
        help="go on for so long, with rounds of random faults between the scenarios",
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument("--extra-faults", action="store_true", help="add random faults to each")
    cluster = parser.add_argument_group(
        "the cluster", "Without any of these the first scenario that is named has its own."
    )
    cluster.add_argument(
        "--nodes",
        type=int,
        choices=range(1, NODES_MAX + 1),
        metavar="N",
        help="with data (default: 3)",
    )
    cluster.add_argument(
        "--witnesses", type=int, choices=range(NODES_MAX), metavar="N", help="besides (default: 0)"
    )
    cluster.add_argument(
        "--acks", type=int, metavar="K", help="standbys that confirm a commit (default: 1)"
    )
    cluster.add_argument("--durability", choices=("quorum", "strict"), help="default: quorum")
    cluster.add_argument(
        "--timing", choices=tuple(TIMING_MS), help="profile of timing (default: default)"
    )
    parser.add_argument("--bindir", default=None, help="PostgreSQL's programs; embedded:18, …")
    parser.add_argument(
        "--rate", type=float, default=10, help="operations of each client in a second"
    )
    parser.add_argument(
        "--recover-within",
        type=float,
        default=RECOVERY_LIMIT_S,
        metavar="SECONDS",
        help="after the peace, until every node streams again",
    )
    parser.add_argument(
        "--dir", type=Path, help="an empty directory for the evidence (default: a new one in /tmp)"
    )
    parser.add_argument("--json", action="store_true", help="the verdict as JSON on stdout")
    parser.add_argument("--list", action="store_true", help="every scenario, and why not")
    return parser


if __name__ == "__main__":
    try:
        STATUS = main()
    except BaseException as error:  # noqa: BLE001  # also argparse's exit, and a reader that is gone
        STATUS = report(error)
    sys.exit(STATUS)
