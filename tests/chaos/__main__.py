"""The command `scripts/chaos`: faults on real servers under independent clients, and a verdict.

Exit status: 0 nothing was broken; 1 something was (or a node did not come back); 2 wrong arguments;
3 the rig cannot run here; 130 and 143 after a signal, when everything is cleaned up.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import trio

from chaos import limits
from chaos.burn import Burn
from chaos.matrix import cells
from chaos.matrix.play import Matrix
from chaos.options import BURN_MINUTES, parser
from chaos.rig import Rig, RigOptions
from chaos.session import Session
from chaos.verdict import Verdict
from metako.cli.failure import report
from metako.cli.output import write_json, write_line
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
RANDOM = "random-faults"
ROUND_S_MAX = 40
REAL = "real"


def say(text: str) -> None:
    """Print progress where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


class Outcome(Protocol):
    """What came of a job: a verdict, a matrix, a burn."""

    @property
    def ok(self) -> bool: ...
    def as_json(self) -> dict[str, object]: ...
    def lines(self) -> list[str]: ...


class Job(Protocol):
    """One call of the command, in a directory of its own."""

    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def stopped_by(self) -> int: ...
    async def main(self) -> None: ...


Start = Callable[[RigOptions, Path], Job]


def main() -> int:
    """Run the command."""
    options = parser().parse_args()
    if sum(map(bool, (options.scenario, options.matrix, options.burn))) > 1:
        say("choose one of --scenario, --matrix and --burn")
        return 2
    try:
        if options.matrix:
            chosen = _matrix(options)
        elif options.list:
            return _list()
        elif options.burn:
            chosen = _burn(options)
        else:
            chosen = _scenarios(options)
    except ScenarioError as error:
        for problem in error.problems:
            say(problem)
        return 3
    except ValueError as error:
        say(str(error))
        return 2
    if chosen is None:
        return 0
    title, cluster, start = chosen
    directory = options.dir or Path(tempfile.mkdtemp(prefix="metako-chaos-", dir="/tmp"))
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        say(f"{directory} is not empty: choose another --dir")
        return 2
    directory.chmod(0o755)
    rig_options = RigOptions(
        title=title,
        seed=options.seed,
        cluster=cluster,
        bindir=options.bindir,
        rate=options.rate,
        recovery_limit_s=options.recover_within,
    )
    return _run(start(rig_options, directory), directory, options)


def _run(job: Job, directory: Path, options: argparse.Namespace) -> int:
    """Do a job and tell what came of it; return the exit status."""
    failed: BaseException | None = None
    try:
        trio.run(job.main)
    except* MetakoError as group:
        failed = group
    except* KeyboardInterrupt:
        say("stopped at once: nothing is judged")
    if failed is not None:
        report(failed)
        # What was seen until then may tell why; without a client nothing was.
        if options.dir is None and not any(directory.rglob("client-*")):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"what was recorded is in {directory}")
        return 3
    outcome = job.outcome
    if outcome is None:
        return EXIT_SIGNAL_BASE + job.stopped_by
    if options.json:
        write_json(outcome.as_json())
    else:
        write_line("\n".join(outcome.lines()))
    if job.stopped_by:
        return EXIT_SIGNAL_BASE + job.stopped_by
    return 0 if outcome.ok else 1


def _scenarios(options: argparse.Namespace) -> tuple[str, Cluster, Start]:
    """Return the title, the cluster and the job of a run of scenarios.

    Raises:
        ScenarioError: one cannot be read.
        ValueError: none can be played.
    """
    wanted = _wanted(options)
    cluster = _cluster(options, wanted)
    scenarios = _playable(wanted, cluster)
    if not scenarios:
        raise ValueError("there is nothing to play: see --list")

    def start(rig: RigOptions, directory: Path) -> Job:
        return _Run(rig, directory, scenarios, options)

    return _title(options, scenarios), cluster, start


def _matrix(options: argparse.Namespace) -> tuple[str, Cluster, Start] | None:
    """Return the same of the matrix; None when its cells were only to be listed.

    Raises:
        ValueError: a cell was named that there is not.
    """
    cluster, seed = _cluster(options, ()), options.seed
    singles = cells.singles(cluster)
    found = cells.pairs(cluster, seed, options.pairs) if options.pairs else singles
    known = (*singles, *found) if options.only else found
    found = cells.chosen(known, only=options.only, first=options.first)
    if options.list:
        write_line("\n".join(cell.name for cell in found))
        return None
    again = f"scripts/chaos --matrix {_shape(options)}--seed {seed}"

    def start(rig: RigOptions, directory: Path) -> Job:
        minutes = options.minutes
        return Matrix(found, rig, directory, minutes=minutes, again=again, say=say)

    return f"a matrix of {len(found)} cells", cluster, start


def _burn(options: argparse.Namespace) -> tuple[str, Cluster, Start]:
    """Return the same of a run with every core busy."""
    minutes = options.minutes or BURN_MINUTES

    def start(rig: RigOptions, directory: Path) -> Job:
        return Burn(rig, directory, minutes=minutes, per_core=options.per_core, say=say)

    return f"every core busy for {minutes:g} minutes", _cluster(options, ()), start


def _shape(options: argparse.Namespace) -> str:
    """Return the options that describe the cluster, as they were given."""
    names = ("nodes", "witnesses", "acks", "durability", "timing")
    given = [(name, getattr(options, name)) for name in names]
    return "".join(f"--{name} {value} " for name, value in given if value is not None)


class _Run:
    """Scenarios, each once or again and again."""

    def __init__(
        self,
        rig: RigOptions,
        directory: Path,
        scenarios: Sequence[Scenario],
        options: argparse.Namespace,
    ) -> None:
        self.outcome: Verdict | None = None
        self.stopped_by = 0
        self._session = Session(rig, directory, say)
        self._scenarios = scenarios
        self._options = options

    async def main(self) -> None:
        """Play until everything was played, the time is up, or a signal comes."""
        verdict = await self._session.run(self._play)
        self.stopped_by = self._session.stopped_by
        self.outcome = verdict

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


if __name__ == "__main__":
    try:
        STATUS = main()
    except BaseException as error:  # noqa: BLE001  # also argparse's exit, and a reader that is gone
        STATUS = report(error)
    sys.exit(STATUS)
