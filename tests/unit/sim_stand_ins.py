"""Players that stand in for the simulator: what a worker plays in the tests of the swarm.

Seeds decide what happens, so that a test can say what must come out.
"""

import os
import signal
import time
from dataclasses import replace

from sim.result import Result, Violation

S = 1_000_000_000


def steady(job, trace=None):
    """Every run goes well and reaches a mark that depends on the seed."""
    if trace is not None:
        for number in range(5):
            trace(f'{{"i":{number},"seed":{job.seed}}}')
    return Result(
        scenario=job.scenario,
        seed=job.seed,
        virtual_ns=60 * S,
        elections=1 + job.seed % 2,
        failovers=job.seed % 2,
        acknowledged=100,
        marks={"always": 3, f"seed_{job.seed % 3}": 1},
        outages_ms=(100 + job.seed % 50,),
        digest=f"d{job.seed}",
    )


def every_seventh(job, trace=None):
    """Seeds 7, 14, ... break a promise; the smaller the seed, the longer the run takes."""
    time.sleep(0.02 if job.seed % 7 else 0.05)
    return broken(steady(job, trace)) if job.seed % 7 == 0 and job.seed else steady(job, trace)


def broken(result, check="one_acknowledger"):
    from sim.faults import Fault  # loads much, and most runs go well

    violation = Violation(check, "n1 and n2 both acknowledge", 12 * S, ("n1", "n2"))
    fault = Fault.make(2 * S, "kill", {"node": ("n1",), "what": "host"})
    return replace(result, violation=violation, faults=(fault,))


def planted(job, trace=None):
    """Seed 3 catches bug `a`, every fifth bug `b`, nothing `c`; seed 2 fails with or without."""
    result = steady(job, trace)
    caught = (job.mutation == "a" and job.seed == 3) or (job.mutation == "b" and job.seed % 5 == 4)
    return broken(result) if caught or job.seed == 2 else result


def seed_two_never_ends(job, trace=None):
    while job.seed == 2:
        pass
    return steady(job, trace)


def seed_two_sleeps(job, trace=None):
    if job.seed == 2:
        time.sleep(60)
    return steady(job, trace)


def seed_two_dies(job, trace=None):
    if job.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return steady(job, trace)


def seed_two_raises(job, trace=None):
    if job.seed == 2:
        raise AssertionError("too many events wait")
    return steady(job, trace)


def hashes_differ(job, trace=None):
    """The fourth event depends on the seed of the hash function, and so does the digest."""
    result = steady(job)
    for number in range(5):
        trace(f"event {number} {hash('x') if number == 3 and job.seed == 4 else ''}")
    return result


def slow(job, trace=None):
    time.sleep(0.2)
    return steady(job, trace)


def unrepeatable(job, trace=None):
    """As above, also without a trace."""
    return steady(job) if trace is None else hashes_differ(job, trace)


def dies_often(job, trace=None):
    if job.seed > 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return steady(job, trace)
