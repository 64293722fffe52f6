"""What there is to play and to look for: scenarios, kinds of faults, marks, checks, planted bugs.

In: names that the user typed. Out: the things with those names, or an error that says what was
meant. Everything is imported when it is asked for: one run needs a small part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metako.config.problems import nearest
from metako.model.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from sim.mutations import Mutation
    from sim.result import Result
    from sim.scenario import SavedRun, Scenario


class BadFileError(ConfigError):
    """A scenario or a saved run cannot be read or is wrong. Nothing was played."""


def scenario(name: str) -> Scenario:
    """Return the scenario with that name or in that file.

    Raises:
        BadFileError: there is none, or it is wrong; the text has file, line and a hint.
    """
    from sim.scenario import ScenarioError, load_scenario

    try:
        return load_scenario(name)
    except ScenarioError as error:
        raise BadFileError(str(error)) from None


def scenario_names() -> tuple[str, ...]:
    """Return the names of the scenarios that come with the program, sorted.

    Raises:
        BadFileError: one of them or more are wrong.
    """
    return tuple(sorted(each.name for each in library()))


def sometimes(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the marks that scenarios expect some of their runs to reach."""
    return {name: tuple(scenario(name).expect.sometimes) for name in names}


def identity(name: str) -> str:
    """Return what a scenario is known by in a tally: a file by its contents too."""
    from sim.swarm.version import hash_of

    path = Path(name)
    return f"{name} {hash_of([path], path.parent)}" if path.is_file() else name


def library() -> Sequence[Scenario]:
    """Return the scenarios that come with the program."""
    from sim.scenario import ScenarioError, all_scenarios

    try:
        return list(all_scenarios())
    except ScenarioError as error:
        raise BadFileError(str(error)) from None


def check_known(what: str, name: str, known: Collection[str], command: str) -> None:
    """Raise UsageError if a name is not known.

    Args:
        what: is called so.
        command: that shows the names.
    """
    if name not in known:
        guess = nearest(name, known)
        hint = f"did you mean {guess!r}?" if guess else f"`{command}` shows them"
        raise UsageError(f"no {what} is called {name!r}; {hint}")


def mutations(names: Iterable[str] = ()) -> list[Mutation]:
    """Return the planted bugs with these names; all of them if none is named.

    Raises:
        UsageError: one does not exist.
    """
    from sim.mutations import MUTATIONS

    chosen = list(dict.fromkeys(names)) or list(MUTATIONS)
    for name in chosen:
        check_known("planted bug", name, MUTATIONS, "list --mutations")
    return [MUTATIONS[name] for name in chosen]


def check_mutation(name: str | None) -> None:
    """Raise UsageError if `name` is that of no planted bug; None is none."""
    if name is not None:
        mutations([name])


def marks() -> dict[str, str]:
    """Return every mark with what it stands for."""
    from sim.marks import MARKS

    return dict(MARKS)


def marks_to_reach() -> dict[str, str]:
    """Return the marks that a swarm which is large enough reaches."""
    from sim.marks import PREVENTED

    return {mark: text for mark, text in marks().items() if mark not in PREVENTED}


def checks() -> dict[str, str]:
    """Return every check with the promise that it watches."""
    from sim.checkers import CHECKS

    return dict(CHECKS)


def fault_kinds() -> dict[str, str]:
    """Return every kind of fault with what it does."""
    from sim.faults import KINDS

    return {name: kind.doc for name, kind in KINDS.items()}


def save_run(
    path: Path, scenario: Scenario, result: Result, *, mutation: str | None, extra_faults: bool
) -> None:
    """Write a run's concrete faults to a file, whole or not at all."""
    from sim.scenario import save_run
    from sim.swarm.ledger import replace_file

    text = save_run(result, scenario, mutation=mutation, extra_faults=extra_faults)
    replace_file(path, text)


def saved_run(path: Path) -> SavedRun:
    """Return the run that was saved in a file.

    Raises:
        BadFileError: it cannot be read, or is wrong; the text has file, line and a hint.
    """
    from sim.scenario import ScenarioError, load_run

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadFileError(f"{path}: is not UTF-8 text, so no saved run") from None
    try:
        return load_run(text, str(path))
    except ScenarioError as error:
        raise BadFileError(str(error)) from None
