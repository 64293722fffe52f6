"""The work of `mutate`: for every planted bug, runs until one catches it.

Each scenario is played alone first, because its expectations hold only then: a failover within
seconds, a standby that is cloned in time. Then all of them get random faults on top.

In: bugs and a bound on the seeds. Out: a `Catch` for each. A bug's seeds are played in their
order and by one worker at a time, so how many were needed does not depend on the number of
workers; several bugs are hunted at once. A run that fails without the bug as well is no catch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sim.swarm.campaign import Plan
from sim.swarm.job import Job, Outcome

BATCH = 10
CAUGHT_SHARE_MIN = 0.9
"""Fewer bugs caught than this, and the checkers are not good enough."""


@dataclass(slots=True)
class Catch:
    """How a planted bug fared."""

    mutation: str
    played: int = 0  # runs
    caught: int = 0  # runs that caught it
    cpu_ns: int = 0  # up to the first catch, or of all
    needed: int | None = None  # seeds up to the first catch, that one included
    seed: int | None = None  # the first that caught it
    alone: bool = False  # it was played without random faults
    scenario: str | None = None
    check: str | None = None  # what the first catch broke
    text: str = ""
    checks: dict[str, int] = field(default_factory=dict)  # check → catches by it
    unrelated: int = 0  # runs that failed without the bug too


@dataclass(slots=True)
class _Quarry:
    catch: Catch
    next_seed: int
    end_seed: int
    busy: int = 0  # given out, without an outcome so far


class Hunt:
    """Gives out the runs of every bug."""

    def __init__(
        self,
        mutations: Sequence[str],
        plan: Plan,
        *,
        first_seed: int,
        count: int,
        every_seed: bool = False,
        on_done: Callable[[Catch], None] = lambda catch: None,
    ) -> None:
        """Prepare a hunt.

        Args:
            count: seeds to play of a bug, at most.
            every_seed: go on after the first catch, to count them.
            on_done: told when a bug's hunt is over.
        """
        self.over = False
        self._plan = plan
        self._first_seed = first_seed
        self._every_seed = every_seed
        self._on_done = on_done
        self._quarries = {
            name: _Quarry(Catch(name), first_seed, first_seed + count) for name in mutations
        }

    @property
    def catches(self) -> list[Catch]:
        """How every bug fares, in the order of the bugs."""
        return [quarry.catch for quarry in self._quarries.values()]

    def take(self) -> Sequence[Job]:
        """Return a batch of a bug that nobody hunts just now, one that was hunted least."""
        free = [
            (quarry.next_seed, name)
            for name, quarry in self._quarries.items()
            if not quarry.busy and quarry.next_seed < quarry.end_seed
        ]
        if not free:
            return ()
        # The first of those in the order of the bugs; most are caught early, and then the table
        # of an interrupted hunt tells the most.
        begin, name = min(free, key=lambda each: each[0])
        quarry = self._quarries[name]
        quarry.next_seed = min(begin + BATCH, quarry.end_seed)
        quarry.busy = quarry.next_seed - begin
        return [self._job(name, seed) for seed in range(begin, quarry.next_seed)]

    def put(self, outcome: Outcome) -> None:
        """Count a run."""
        name = outcome.job.mutation
        assert name is not None
        quarry = self._quarries[name]
        catch = quarry.catch
        quarry.busy -= 1
        catch.played += 1
        if catch.needed is None:
            catch.cpu_ns += outcome.cpu_ns
        if outcome.caught:
            self._caught(catch, outcome)
        elif not outcome.ok:
            catch.unrelated += 1
        if outcome.ends_batch:
            quarry.busy, quarry.next_seed = 0, quarry.end_seed
        if not quarry.busy and quarry.next_seed >= quarry.end_seed:
            self._on_done(catch)

    def _job(self, mutation: str, seed: int) -> Job:
        job = replace(self._plan, mutation=mutation).job(seed)
        alone = seed - self._first_seed < len(self._plan.scenarios)
        return replace(
            job,
            extra_faults=job.extra_faults and not alone,
            control=True,
            last_if_caught=not self._every_seed,
        )

    def _caught(self, catch: Catch, outcome: Outcome) -> None:
        violation = outcome.result.violation
        assert violation is not None
        catch.caught += 1
        catch.checks[violation.check] = catch.checks.get(violation.check, 0) + 1
        # Outcomes of a bug arrive in the order of its seeds, but for those whose worker ended
        # before it began them: the smallest seed is the first.
        if catch.seed is None or outcome.job.seed < catch.seed:
            catch.seed, catch.scenario = outcome.job.seed, outcome.job.scenario
            catch.check, catch.text = violation.check, violation.text
            catch.alone = not outcome.job.extra_faults
            catch.needed = outcome.job.seed - self._first_seed + 1
