"""`swarm`: many seeds, summed up.

In: what the options name. Out: the progress on stderr, the summary on stdout, a saved run for each
failure, the tally in its file, and the exit code: 0 if no run failed and all were repeatable, 1
otherwise, 128 and the signal's number after an interrupt, which ends the workers and still sums up
what was played.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from metako.cli.output import write_json, write_line
from metako.model.errors import UsageError
from sim.cli import catalog, swarm_text
from sim.cli.progress import Progress, progress
from sim.swarm.campaign import Campaign, Plan, wants_verification
from sim.swarm.job import Outcome
from sim.swarm.ledger import Entry, Ledger
from sim.swarm.pool import Pool, SwarmError, Workers
from sim.swarm.tally import Tally, failure_of
from sim.swarm.verify import Verification, verify
from sim.swarm.version import engine_version

SAVE_INTERVAL_S = 5.0
EXIT_SIGNAL_BASE = 128


@dataclass(frozen=True, slots=True)
class SwarmOptions:
    """What the user asked for."""

    seeds: int = 1000
    first_seed: int = 0
    workers: Workers = field(default_factory=Workers)
    scenarios: tuple[str, ...] = ()  # names or paths; () for all that come with the program
    mutation: str | None = None
    extra_faults: bool = True
    resume: Path | None = None
    save_dir: Path | None = None
    fail_fast: bool = False
    verify: float = 0.0  # fraction of the runs
    as_json: bool = False
    verbose: bool = False


def swarm(options: SwarmOptions) -> int:
    """Play many seeds and tell what they came to."""
    names = options.scenarios or catalog.scenario_names()
    for name in options.scenarios:
        catalog.scenario(name)
    catalog.check_mutation(options.mutation)
    if options.save_dir is not None:
        options.save_dir.mkdir(parents=True, exist_ok=True)
    if not names:
        raise UsageError("there is no scenario to play")
    plan = Plan(names, options.mutation, options.extra_faults)
    with progress() as shown:
        run = _Run(plan, options, shown)
        run.go()
    if options.as_json:
        write_json(run.as_json())
    else:
        for line in run.lines():
            write_line(line)
    if run.trouble is not None:
        raise run.trouble  # the summary of what was played before is told all the same
    if run.stopped_by:
        return EXIT_SIGNAL_BASE + run.stopped_by
    return 1 if run.failed else 0


class _Run:
    """One call of the command."""

    def __init__(self, plan: Plan, options: SwarmOptions, shown: Progress) -> None:
        self.tally = Tally()  # of this call
        self.verification: Verification | None = None  # None if none was wanted, or possible
        self.stopped_by = 0  # signal that ended it early
        self.trouble: SwarmError | None = None  # what ended it early
        self._plan = plan
        self._options = options
        self._engine = engine_version()
        self._workers = replace(options.workers, engine=self._engine)
        self._shown = shown
        self._digests: dict[int, str] = {}  # of the runs that are to be verified
        self._ledger: Ledger | None = None
        self._entry: Entry | None = None
        self._saved_s = time.monotonic()
        if options.resume is not None:
            self._ledger = Ledger(options.resume)
            scenarios = tuple(catalog.identity(name) for name in plan.scenarios)
            wanted = Entry(self._engine, scenarios, plan.mutation, plan.extra_faults)
            self._entry = self._ledger.entry(wanted)
            # A file that cannot be written is told before the work, not after it.
            self._ledger.save()

    @property
    def failed(self) -> bool:
        """Whether a run failed, or was not the same when it was repeated."""
        verification = self.verification
        differs = verification is not None and bool(verification.differences)
        return bool(self.tally.total().failures) or differs

    def go(self) -> None:
        """Play, and repeat what is to be repeated.

        Raises:
            SwarmError: nothing could be played.
        """
        try:
            self.stopped_by = self._play()
            if self._options.verify > 0 and not self.stopped_by:
                self.verification = self._verify()
                self.stopped_by = self.verification.stopped_by
        except SwarmError as error:
            if not self.tally.rows:
                raise
            self.trouble = error

    def _play(self) -> int:
        """Play the seeds; return the signal that ended it early, or 0."""
        options = self._options
        seeds: Iterator[int] = count(options.first_seed)
        if self._entry is not None:
            seeds = self._entry.done.missing(options.first_seed)
        campaign = Campaign(
            self._plan,
            seeds,
            options.seeds,
            workers=self._workers.count,
            handle=self._handle,
            fail_fast=options.fail_fast,
        )
        self._shown.begin("seeds", options.seeds)
        try:
            with Pool(self._workers) as pool:
                stopped_by = pool.run(campaign, tick=lambda: self._tick(campaign))
        finally:
            campaign.flush()
            if self._ledger is not None:
                self._ledger.save()
        return stopped_by

    def _verify(self) -> Verification:
        """Repeat some of the runs and compare."""
        jobs = [self._plan.job(seed) for seed in sorted(self._digests)]
        self._shown.begin("repeating", 2 * len(jobs))
        played = count(1)
        return verify(
            jobs,
            self._digests,
            self._workers,
            on_outcome=lambda: self._shown.update(next(played)),
        )

    def _handle(self, outcome: Outcome) -> None:
        seed = outcome.job.seed
        first = not self.tally.rows
        file = None
        if not outcome.ok:
            file = self._save(outcome)
            self._shown.say(swarm_text.short(swarm_text.failure_line(failure_of(outcome))))
        self.tally.add(outcome, file)
        if self._entry is not None:
            self._entry.tally.add(outcome, file)
            self._entry.done.add(seed)
        if wants_verification(seed, self._options.verify) or (first and self._options.verify):
            self._digests[seed] = outcome.result.digest

    def _save(self, outcome: Outcome) -> str | None:
        directory = self._options.save_dir
        # A run that ended in an exception or with its process has no list of faults to save.
        if directory is None or not outcome.result.faults:
            return None
        path = directory / f"{Path(outcome.job.scenario).stem}-{outcome.job.seed}.json"
        job, scenario = outcome.job, catalog.scenario(outcome.job.scenario)
        catalog.save_run(
            path, scenario, outcome.result, mutation=job.mutation, extra_faults=job.extra_faults
        )
        return str(path)

    def _missed(self) -> dict[str, tuple[str, ...]]:
        # What earlier calls reached counts too.
        tally = self.tally if self._entry is None else self._entry.tally
        return swarm_text.missed_marks(tally, catalog.sometimes(tally.rows))

    def _tick(self, campaign: Campaign) -> None:
        failures = sum(row.failures for row in self.tally.rows.values())
        self._shown.update(campaign.received, f"{failures} failed" if failures else "")
        now_s = time.monotonic()
        if self._ledger is not None and now_s - self._saved_s > SAVE_INTERVAL_S:
            self._saved_s = now_s
            self._ledger.save()

    def lines(self) -> list[str]:
        """Return the result for people."""
        options, total = self._options, self.tally.total()
        planted = f" with {options.mutation} planted" if options.mutation else ""
        found = [f"swarm of {options.seeds} seeds{planted}, engine {self._engine}"]
        if self.stopped_by or self.trouble:
            found[0] += f": INTERRUPTED after {total.runs}"
        marks = catalog.marks_to_reach()
        found += swarm_text.lines(self.tally, marks, verbose=options.verbose)
        if missed := self._missed():
            found += swarm_text.missed_lines(missed)
        if self.verification is not None:
            found += swarm_text.verification_lines(self.verification)
        found += swarm_text.failure_lines(
            self.tally.failures,
            total.failures,
            mutation=options.mutation,
            extra_faults=options.extra_faults,
        )
        if self._entry is not None:
            title = f"{options.resume}: {len(self._entry.done)} seeds of this engine in all"
            found += ["", title, *swarm_text.lines(self._entry.tally, marks, verbose=False)]
            known = [each for each in self._entry.tally.failures if each not in self.tally.failures]
            found += swarm_text.earlier_lines(known)
        return found

    def as_json(self) -> dict[str, object]:
        """Return the result for programs."""
        options, marks = self._options, catalog.marks_to_reach()
        found: dict[str, object] = {
            "ok": not (self.failed or self.stopped_by or self.trouble),
            "interrupted": bool(self.stopped_by),
            "error": None if self.trouble is None else str(self.trouble),
            "engine": self._engine,
            "python": platform.python_version(),
            "first_seed": options.first_seed,
            "seeds": options.seeds,
            "mutation": options.mutation,
            "extra_faults": options.extra_faults,
            **swarm_text.tally_json(self.tally, marks),
            "marks_missed": {name: list(missed) for name, missed in self._missed().items()},
            "verification": None,
            "tally": None,
        }
        if self.verification is not None:
            found["verification"] = swarm_text.verification_json(self.verification)
        if self._entry is not None:
            done = [list(each) for each in self._entry.done.ranges]
            found["tally"] = {"done": done, **swarm_text.tally_json(self._entry.tally, marks)}
        return found
