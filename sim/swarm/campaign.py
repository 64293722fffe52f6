"""The work of `swarm`: seed after seed, each with the scenario that is its turn.

In: seeds, ascending, and scenarios. Out: outcomes, handed on in the order of the seeds whatever
the order in which workers finish, so that what is shown and where a fail-fast campaign ends do not
depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sim.streams import stream
from sim.swarm.job import Job, Outcome

BATCH_MAX = 20
"""Runs that a worker gets at once: enough to keep it busy, few enough to end with the others."""
WINDOW = 5000
"""Seeds that the others may be ahead of a slow one: bounds what waits for its turn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play with each seed."""

    scenarios: tuple[str, ...]
    mutation: str | None = None
    extra_faults: bool = True

    def scenario(self, seed: int) -> str:
        """Return the scenario that a seed plays: every one gets its turn."""
        return self.scenarios[seed % len(self.scenarios)]

    def job(self, seed: int) -> Job:
        """Return the run of a seed."""
        return Job(self.scenario(seed), seed, self.mutation, self.extra_faults)


class Campaign:
    """Gives out the seeds of a plan and hands on their outcomes in order."""

    def __init__(
        self,
        plan: Plan,
        seeds: Iterator[int],
        count: int,
        *,
        workers: int,
        handle: Callable[[Outcome], None],
        fail_fast: bool = False,
    ) -> None:
        self.received = 0  # outcomes, handed on or not
        self.over = False  # the failure after which nothing counts was handed on
        self._plan = plan
        self._seeds = seeds
        self._left = count  # seeds to give out
        self._workers = workers
        self._handle = handle
        self._fail_fast = fail_fast
        self._order: dict[int, Outcome | None] = {}  # given out and not handed on, in order

    def take(self) -> Sequence[Job]:
        """Return the next seeds; smaller batches towards the end, so that all end together."""
        room = min(self._left, WINDOW - len(self._order))
        if self.over or room <= 0:
            return ()
        size = max(1, min(BATCH_MAX, room, self._left // (self._workers * 4)))
        seeds = [next(self._seeds) for _ in range(size)]
        self._left -= size
        self._order.update(dict.fromkeys(seeds))
        return [self._plan.job(seed) for seed in seeds]

    def put(self, outcome: Outcome) -> None:
        """Take an outcome; hand it on, and those that waited for it, when it is its turn."""
        self.received += 1
        self._order[outcome.job.seed] = outcome
        if outcome.result.violation is not None and self._fail_fast:
            self._left = 0  # the seeds below it are all given out, and those above do not matter
        while self._order and not self.over:
            seed, first = next(iter(self._order.items()))
            if first is None:
                return
            del self._order[seed]
            self._hand_on(first)

    def flush(self) -> None:
        """Hand on what was played although something before it was not: the user interrupted."""
        if not self.over:
            for outcome in [each for each in self._order.values() if each is not None]:
                self._hand_on(outcome)
        self._order.clear()

    def _hand_on(self, outcome: Outcome) -> None:
        self.over = self._fail_fast and not outcome.ok
        self._handle(outcome)


def wants_verification(seed: int, fraction: float) -> bool:
    """Return whether a seed is of the `fraction` that is repeated: always the same ones."""
    return stream(seed, "verify").random() < fraction
