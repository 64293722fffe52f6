"""Run many sequences, a few at a time; leave nothing behind when that is interrupted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from differential.compare import Report, compare
from differential.programs import Programs
from differential.vocabulary import Command

JOBS = min(4, (os.cpu_count() or 1) + 1)
"""The servers wait for each other more than they work, so more than one sequence a core."""


def compare_all(
    programs: Programs, sequences: Iterable[tuple[int, tuple[Command, ...]]]
) -> list[Report]:
    """Compare each sequence, given with its seed; return the reports in the same order.

    If interrupted, the sequences under way are ended and cleaned up before this returns.
    """
    with ThreadPoolExecutor(JOBS) as pool:
        futures = [pool.submit(compare, programs, *sequence) for sequence in sequences]
        try:
            return [future.result() for future in futures]
        except BaseException:
            programs.stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
