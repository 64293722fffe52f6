"""Scenario files: the only part of the simulator's core that reads them.

In: a path, or the name of a scenario of the library. Out: a `Scenario`, or a `ScenarioError` with
one line `FILE:LINE: key: what is wrong; hint` for everything to correct. Nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from metako.config.problems import Problem, nearest
from metako.config.source import Source, parse
from sim.scenario.fields import ScenarioError
from sim.scenario.model import Scenario
from sim.scenario.parse import parse_scenario

LIBRARY = Path(__file__).resolve().parent.parent / "scenarios"
SUFFIX = ".yaml"
FILE_BYTES_MAX = 1 << 20
PROBLEMS_SHOWN_MAX = 50


def load_scenario(name: str | os.PathLike[str]) -> Scenario:
    """Return the scenario of the library with that name, or the one in that file.

    Raises:
        ScenarioError: there is none, or something in it is wrong; all of it is told.
    """
    text = os.fspath(name)
    if os.sep not in text and not text.endswith((SUFFIX, ".yml")):
        path = LIBRARY / f"{text}{SUFFIX}"
        if not path.is_file():
            raise ScenarioError([_missing(text)])
        return read_scenario(_read(path), str(path), stem=path.stem)
    return read_scenario(_read(Path(text)), text)


def library_names() -> tuple[str, ...]:
    """Return the names of the scenarios that come with the program, sorted."""
    return tuple(sorted(path.stem for path in LIBRARY.glob(f"*{SUFFIX}")))


def all_scenarios() -> tuple[Scenario, ...]:
    """Return the scenarios that come with the program, sorted by name.

    Raises:
        ScenarioError: something is wrong in one of them or more; all of it is told.
    """
    found: list[Scenario] = []
    lines: list[str] = []
    for name in library_names():
        try:
            found.append(load_scenario(name))
        except ScenarioError as error:
            lines += error.problems
    if lines:
        raise ScenarioError(lines)
    return tuple(found)


def read_scenario(text: str, file: str, *, stem: str = "") -> Scenario:
    """Return the scenario that a YAML text describes.

    Args:
        text: the whole file.
        file: what the file is called in errors.
        stem: the name that the scenario must have; "" for any.

    Raises:
        ScenarioError: something in it is wrong; all of it is told.
    """
    source = parse(text)
    problems = list(source.problems)
    if not source.values:
        raise ScenarioError(_lines(source, file, problems or [Problem((), "the file is empty")]))
    scenario, found = parse_scenario(source.values)
    problems += found
    if stem and scenario.name and scenario.name != stem:
        problems.append(
            Problem(("name",), f"the file is called {stem}{SUFFIX}", "use one name for both")
        )
    if problems:
        raise ScenarioError(_lines(source, file, problems))
    return scenario


def _lines(source: Source, file: str, problems: Iterable[Problem]) -> list[str]:
    located = {(p.line or source.line_of(p.path), p): None for p in problems}
    lines = [p.text(file, line) for line, p in sorted(located, key=lambda item: item[0])]
    if len(lines) > PROBLEMS_SHOWN_MAX:
        more = len(lines) - PROBLEMS_SHOWN_MAX
        lines = [*lines[:PROBLEMS_SHOWN_MAX], f"{file}: and {more} more"]
    return lines


def _missing(name: str) -> str:
    names: Sequence[str] = library_names()
    guess = nearest(name, names)
    hint = f"did you mean '{guess}'?" if guess else "name one of the library, or a .yaml file"
    return f"no scenario is called {name!r}; {hint}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ScenarioError([f"{path}: there is no such file"]) from None
    except IsADirectoryError:
        raise ScenarioError([f"{path}: is a directory, not a file"]) from None
    except OSError as error:
        raise ScenarioError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(data) > FILE_BYTES_MAX:
        raise ScenarioError([f"{path}: is larger than {FILE_BYTES_MAX >> 20} MiB"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ScenarioError([f"{path}:{line}: is not UTF-8 text; save it as UTF-8"]) from None
