"""Plays a job with the real simulator. Loaded by workers, and by them only."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from sim.play import play
from sim.result import Result
from sim.scenario import Scenario, load_scenario
from sim.swarm.job import Job

SCENARIOS_MAX = 256


@lru_cache(maxsize=SCENARIOS_MAX)
def _scenario(name: str) -> Scenario:
    return load_scenario(name)


def play_job(job: Job, trace: Callable[[str], None] | None = None) -> Result:
    """Play `job`; what goes wrong in it is raised."""
    return play(
        _scenario(job.scenario),
        job.seed,
        trace=trace,
        mutation=job.mutation,
        extra_faults=job.extra_faults,
    )
