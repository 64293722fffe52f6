"""Plays runs again, twice, in processes that hash differently, and compares every event.

In: runs with the digests that they had. Out: where two of them part. The first process writes the
trace, the second compares line by line while it plays. The digest of the first time is compared as
well: that run was made without a trace, so a trace that changes what it shows is noticed too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sim.swarm.job import Divergence, Job, Outcome
from sim.swarm.pool import Pool, Workers

HASH_SEEDS = ("1", "2")
"""PYTHONHASHSEED of the process that writes the trace and of the one that compares."""
CHUNK = 20
"""Runs whose traces are on the disk at one time."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A run that was not the same again."""

    seed: int
    scenario: str
    text: str
    divergence: Divergence | None = None  # None if no single event can be named


@dataclass(slots=True)
class Verification:
    """What the comparison came to."""

    runs: int = 0
    differences: list[Difference] = field(default_factory=list)
    stopped_by: int = 0  # signal that ended it early


class Listed:
    """Work that is a list of jobs."""

    def __init__(self, jobs: Sequence[Job], on_outcome: Callable[[], None] = lambda: None) -> None:
        self.outcomes: dict[int, Outcome] = {}  # seed → outcome
        self.over = False
        self._jobs = list(reversed(jobs))
        self._on_outcome = on_outcome

    def take(self) -> Sequence[Job]:
        return [self._jobs.pop()] if self._jobs else ()

    def put(self, outcome: Outcome) -> None:
        self.outcomes[outcome.job.seed] = outcome
        self._on_outcome()


def verify(
    jobs: Sequence[Job],
    digests: Mapping[int, str],
    how: Workers,
    *,
    on_outcome: Callable[[], None] = lambda: None,
    tick: Callable[[], None] = lambda: None,
) -> Verification:
    """Play `jobs` twice and compare.

    Args:
        digests: seed → digest of the run that was made before; a seed that is missing failed to
            make one.
        on_outcome: called when a run was played; there are two for each job.
        tick: called now and then.

    Raises:
        SwarmError: no process can be started, or they die all the time.
    """
    found = Verification()
    first, second = (replace(how, hash_seed=seed) for seed in HASH_SEEDS)
    with (
        tempfile.TemporaryDirectory(prefix="metako-sim-") as directory,
        Pool(first) as writers,
        Pool(second) as comparers,
    ):
        for begin in range(0, len(jobs), CHUNK):
            chunk = jobs[begin : begin + CHUNK]
            paths = {job.seed: str(Path(directory, f"{job.seed}.jsonl")) for job in chunk}
            written = Listed(
                [replace(job, write_trace=paths[job.seed]) for job in chunk], on_outcome
            )
            compared = Listed(
                [replace(job, compare_trace=paths[job.seed]) for job in chunk], on_outcome
            )
            for pool, work in ((writers, written), (comparers, compared)):
                found.stopped_by = pool.run(work, tick=tick)
                if found.stopped_by:
                    return found
            for job in chunk:
                found.runs += 1
                pair = (written.outcomes[job.seed], compared.outcomes[job.seed])
                difference = _difference(job, digests.get(job.seed, ""), *pair)
                if difference is not None:
                    found.differences.append(difference)
                Path(paths[job.seed]).unlink(missing_ok=True)
    return found


def _difference(job: Job, digest: str, first: Outcome, second: Outcome) -> Difference | None:
    divergence = second.divergence
    if divergence is not None:
        text = (
            f"event {divergence.line} differs between PYTHONHASHSEED={HASH_SEEDS[0]} "
            f"and {HASH_SEEDS[1]}"
        )
        return Difference(job.seed, job.scenario, text, divergence)
    if first.result.violation != second.result.violation:
        text = f"one run ended with {_end(first)}, the other with {_end(second)}"
        return Difference(job.seed, job.scenario, text)
    if first.result.digest != second.result.digest:
        text = "the traces are equal and the digests are not"
        return Difference(job.seed, job.scenario, text)
    if digest and digest != first.result.digest:
        text = "a run with a trace has another digest than one without"
        return Difference(job.seed, job.scenario, text)
    return None


def _end(outcome: Outcome) -> str:
    violation = outcome.result.violation
    return "no violation" if violation is None else f"{violation.check}: {violation.text}"
