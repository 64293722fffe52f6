"""What travels between the swarm and its workers: a run to play, and what came of it.

Plain values that can be pickled. The list of concrete faults is sent of failing runs only.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from sim.result import Result, Violation

TIME_LIMIT = "time_limit"
"""Check that a run breaks which uses more CPU time than a seed may."""
EXCEPTION = "exception"
"""Check that a run breaks which ends in an exception of the program."""
WORKER_DIED = "worker_died"
"""Check that a run breaks during which its process ended."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to play."""

    scenario: str  # name or path, as the loader of scenarios takes it
    seed: int
    mutation: str | None = None  # the planted bug; None for the program as it is
    extra_faults: bool = True  # add random faults to those of the scenario
    write_trace: str | None = None  # file that gets the trace
    compare_trace: str | None = None  # file with the trace that the run must repeat
    control: bool = False  # if it fails, play it without the planted bug too
    last_if_caught: bool = False  # the rest of the batch is not wanted if the bug is caught


Player = Callable[[Job, Callable[[str], None] | None], Result]
"""Plays a job, giving the lines of its trace to the second argument."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two traces of the same run part."""

    line: int  # the first line is 1
    expected: str  # "" if the trace had ended
    got: str  # "" likewise


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job."""

    job: Job
    result: Result  # one with a violation if the run did not come to an end of its own
    cpu_ns: int = 0  # user and system time of the worker, all runs of the job together
    divergence: Divergence | None = None  # for a job with `compare_trace`
    control_violation: Violation | None = None  # what the run without the planted bug broke

    @property
    def ok(self) -> bool:
        return self.result.ok

    @property
    def caught(self) -> bool:
        """Whether the run failed for its planted bug, and not without it as well."""
        return not self.result.ok and self.control_violation is None

    @property
    def ends_batch(self) -> bool:
        return self.job.last_if_caught and self.caught


def failed(job: Job, check: str, text: str, *, cpu_ns: int = 0) -> Outcome:
    """Return the outcome of a run that ended otherwise than with a result."""
    result = Result(scenario=job.scenario, seed=job.seed, violation=Violation(check, text, 0))
    return Outcome(job, result, cpu_ns)


def place(error: BaseException, *, without: str = "") -> str:
    """Return where the innermost frame of `error` was, those of a function `without` left out."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if frame.name != without]
    if not inner:
        return "nowhere"
    path = "/".join(inner[-1].filename.split("/")[-3:])
    return f"in {inner[-1].name}, {path}:{inner[-1].lineno}"


def raised(error: Exception) -> str:
    """Return how an exception that ended a run is told."""
    return f"{type(error).__name__}: {error}".rstrip(": ") + f" ({place(error)})"
