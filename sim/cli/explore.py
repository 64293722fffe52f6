"""`explore`: every interleaving of the agreement protocol within small bounds.

In: what the options name. Out: how many states there are and whether a promise is broken in one of
them, with the shortest way there as numbered steps; and the exit code.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from metako.cli.output import printable, write_json, write_line
from sim.cli import catalog, words
from sim.cli.progress import PlainProgress
from sim.explorer.config import CONFIGS, FULL
from sim.explorer.rules import RULES
from sim.explorer.search import Explored, Search

PROGRESS_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class ExploreOptions:
    """What the user asked for."""

    configs: tuple[str, ...] = ()
    full: bool = False
    without: tuple[str, ...] = ()
    as_json: bool = False


def show_choices(*, as_json: bool) -> int:
    """List the configurations and the rules that can be left out."""
    configs = {name: config.about for name, config in CONFIGS.items()}
    if as_json:
        write_json({"configs": configs, "rules": RULES})
        return 0
    for number, (title, entries) in enumerate((("configurations", configs), ("rules", RULES))):
        if number:
            write_line()
        write_line(f"{title}:")
        width = max(map(len, entries))
        for name, text in entries.items():
            write_line(printable(f"{name:<{width}}  {text}"))
    return 0


def explore(options: ExploreOptions) -> int:
    """Explore the configurations one after the other; 1 if a promise is broken in one."""
    names = options.configs or (next(iter(CONFIGS)),)
    for name in names:
        catalog.check_known("configuration", name, CONFIGS, "explore --list")
    for rule in options.without:
        catalog.check_known("rule", rule, RULES, "explore --list")
    results = []
    for name in names:
        explored, cpu_s = _explore(name, options)
        results.append((explored, cpu_s))
        if not options.as_json:
            for line in _lines(explored, cpu_s):
                write_line(printable(line))
    ok = all(explored.ok for explored, _ in results)
    if options.as_json:
        shown = [{**asdict(e), "ok": e.ok, "cpu_s": round(cpu_s, 1)} for e, cpu_s in results]
        write_json({"ok": ok, "full": options.full, "explored": shown})
    return 0 if ok else 1


def _explore(name: str, options: ExploreOptions) -> tuple[Explored, float]:
    config = (FULL if options.full else CONFIGS)[name]
    shown = _Shown(name)
    began_s = time.process_time()
    explored = Search(config, options.without).run(shown.tell)
    return explored, time.process_time() - began_s


class _Shown:
    """A line on stderr now and then."""

    def __init__(self, name: str) -> None:
        self._progress = PlainProgress(PROGRESS_INTERVAL_S)
        self._name = name
        self._told_s = time.monotonic()

    def tell(self, explored: int, known: int, depth: int) -> None:
        if time.monotonic() - self._told_s >= PROGRESS_INTERVAL_S:
            self._told_s = time.monotonic()
            so_far = f"{explored} of {known} known states explored, {depth} steps deep"
            self._progress.say(f"{self._name}: {so_far}")


def _lines(explored: Explored, cpu_s: float) -> list[str]:
    found = explored.found
    without = f" without {', '.join(explored.without)}" if explored.without else ""
    verdict = "no promise is broken" if explored.complete else "NOT EXPLORED TO THE END"
    if found is not None:
        verdict = f"BROKEN: {found.check}"
    lines = [
        f"{explored.config}{without}: {verdict}",
        *words.facts(
            [
                ("states", str(explored.states)),
                ("transitions", str(explored.transitions)),
                ("depth", words.plural(explored.depth, "step")),
                ("CPU", f"{cpu_s:.1f} s"),
            ]
        ),
    ]
    if found is not None:
        width = len(str(len(found.steps)))
        lines += [f"  {number:>{width}}. {step}" for number, step in enumerate(found.steps, 1)]
        lines.append(f"  Then {found.text}.")
    return lines
