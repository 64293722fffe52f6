"""`mutate`: whether the checkers find the bugs that are planted for them.

In: what the options name. Out: one row a bug, and the exit code: 0 if enough bugs were caught. A
run that fails without the bug too is no catch, and is told: that is a bug nobody planted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from metako.cli.output import plain_table, write_json, write_line
from metako.model.errors import UsageError
from sim.cli import catalog, words
from sim.cli.progress import Progress, progress
from sim.cli.swarm import EXIT_SIGNAL_BASE
from sim.cli.verdict import run_command
from sim.swarm.campaign import Plan
from sim.swarm.hunt import CAUGHT_SHARE_MIN, Catch, Hunt
from sim.swarm.job import Outcome
from sim.swarm.ledger import replace_file
from sim.swarm.pool import Pool, Workers
from sim.swarm.version import engine_version

if TYPE_CHECKING:
    from sim.mutations import Mutation


@dataclass(frozen=True, slots=True)
class MutateOptions:
    """What the user asked for."""

    only: tuple[str, ...] = ()
    seeds: int = 500
    first_seed: int = 0
    workers: Workers = field(default_factory=Workers)
    scenarios: tuple[str, ...] = ()
    every_seed: bool = False
    as_json: bool = False
    table: Path | None = None


def mutate(options: MutateOptions) -> int:
    """Hunt every planted bug and tell how each fared."""
    bugs = catalog.mutations(options.only)
    names = options.scenarios or catalog.scenario_names()
    for name in options.scenarios:
        catalog.scenario(name)
    if not bugs or not names:
        raise UsageError("there is nothing to play: no planted bug, or no scenario")
    if options.table is not None and not options.table.parent.is_dir():
        raise UsageError(f"{options.table.parent} is no directory for the table")
    engine = engine_version()
    workers = replace(options.workers, engine=engine)
    with progress() as shown:
        hunt = _Shown(bugs, Plan(names), options, shown)
        with Pool(workers) as pool:
            stopped_by = pool.run(hunt, tick=hunt.tick)
    report = Report({bug.name: bug for bug in bugs}, hunt.catches, options, engine)
    if options.as_json:
        write_json(report.as_json(interrupted=bool(stopped_by)))
    else:
        for line in report.lines(interrupted=bool(stopped_by)):
            write_line(line)
    if options.table is not None:
        table = report.markdown(interrupted=bool(stopped_by))
        replace_file(options.table, "\n".join(table) + "\n")
    if stopped_by:
        return EXIT_SIGNAL_BASE + stopped_by
    return 0 if report.enough else 1


class _Shown(Hunt):
    """A hunt that shows how far it is."""

    def __init__(
        self, bugs: Sequence[Mutation], plan: Plan, options: MutateOptions, shown: Progress
    ) -> None:
        super().__init__(
            [bug.name for bug in bugs],
            plan,
            first_seed=options.first_seed,
            count=options.seeds,
            every_seed=options.every_seed,
            on_done=self._done,
        )
        self._shown = shown
        self._over_count = 0
        self._runs = 0
        shown.begin("planted bugs", len(bugs))

    def put(self, outcome: Outcome) -> None:
        self._runs += 1
        super().put(outcome)

    def tick(self) -> None:
        self._shown.update(self._over_count, words.plural(self._runs, "run"))

    def _done(self, catch: Catch) -> None:
        self._over_count += 1
        if catch.needed is None:
            self._shown.say(f"{catch.mutation}: NOT CAUGHT in {words.plural(catch.played, 'run')}")
        else:
            runs = words.plural(catch.needed, "seed")
            self._shown.say(f"{catch.mutation}: {catch.check} after {runs}")


@dataclass(frozen=True, slots=True)
class Report:
    """How all the bugs fared."""

    bugs: Mapping[str, Mutation]
    catches: Sequence[Catch]
    options: MutateOptions
    engine: str

    @property
    def caught(self) -> int:
        return sum(catch.needed is not None for catch in self.catches)

    @property
    def enough(self) -> bool:
        return self.caught >= CAUGHT_SHARE_MIN * len(self.catches)

    def lines(self, *, interrupted: bool) -> list[str]:
        """Return the report for people."""
        found = plain_table(self._columns(), [self._cells(catch) for catch in self.catches])
        found += ["", f"{self._sum('planted bugs')}, engine {self.engine}"]
        if interrupted:
            found[-1] += "; INTERRUPTED"
        for catch in self.catches:
            if catch.unrelated:
                runs = words.plural(catch.unrelated, "run")
                found.append(f"{catch.mutation}: {runs} failed without it too: see `swarm`")
        missed = [catch.mutation for catch in self.catches if catch.needed is None]
        if missed:
            found.append(f"not caught: {words.wrapped(missed)}")
        first = next((catch for catch in self.catches if catch.seed is not None), None)
        if first is not None and first.scenario is not None and first.seed is not None:
            again = run_command(
                first.scenario,
                first.seed,
                extra_faults=not first.alone,
                mutation=first.mutation,
            )
            found += ["", "see one:", f"  {again} --html run.html"]
        return found

    def markdown(self, *, interrupted: bool) -> list[str]:
        """Return the table for the documentation."""
        titles = (*self._columns(), "what is wrong")
        found = [_row(titles), _row(["---"] * len(titles))]
        for catch in self.catches:
            cells = (*self._cells(catch), self.bugs[catch.mutation].doc)
            found.append(_row([cell.replace("|", "\\|") for cell in cells]))
        end = "; interrupted." if interrupted else "."
        return [*found, "", f"{self._sum('bugs')}; engine {self.engine}{end}"]

    def as_json(self, *, interrupted: bool) -> dict[str, object]:
        """Return the report for programs."""
        bugs = self.bugs
        return {
            "ok": self.enough and not interrupted,
            "interrupted": interrupted,
            "engine": self.engine,
            "first_seed": self.options.first_seed,
            "seeds": self.options.seeds,
            "every_seed": self.options.every_seed,
            "caught": self.caught,
            "bugs": [
                {"rule": bugs[each.mutation].rule, "doc": bugs[each.mutation].doc, **asdict(each)}
                for each in self.catches
            ],
        }

    def _sum(self, what: str) -> str:
        return f"{self.caught} of {len(self.catches)} {what} caught"

    def _columns(self) -> tuple[str, ...]:
        caught = (f"caught of {self.options.seeds}",) if self.options.every_seed else ()
        return ("bug", "rule", "seeds needed", *caught, "CPU", "caught by")

    def _cells(self, catch: Catch) -> tuple[str, ...]:
        caught = (str(catch.caught),) if self.options.every_seed else ()
        needed = str(catch.needed) if catch.needed is not None else f"none of {catch.played}"
        check = catch.check or ("nobody" if catch.played else "not played")
        rule = self.bugs[catch.mutation].rule
        return (catch.mutation, rule, needed, *caught, words.cpu(catch.cpu_ns), check)


def _row(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
