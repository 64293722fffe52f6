"""Reading one mapping of a scenario file: typed values, and a problem for each that is wrong.

In: plain values and where they stand. Out: values of the wanted type, or the default after a
problem was noted, so that one reading finds everything that is wrong. Knows no key by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from metako.config.problems import Path, Problem, nearest, shown
from sim.faults import Argument, ArgumentError, Range, Type
from sim.faults.arguments import Open

CHOICES_SHOWN_MAX = 30


class ScenarioError(Exception):
    """A scenario or a saved run cannot be used; one line for each thing to correct."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.problems = tuple(lines)
        super().__init__("\n".join(self.problems))


class Reader:
    """One mapping. Keys that were not asked for are told by `done`."""

    def __init__(self, values: object, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self.problems = problems
        self._values: Mapping[str, object] = {}
        self._known: dict[str, None] = {}
        if isinstance(values, Mapping):
            self._values = values
        elif values is not None:
            self.problem("", "is not a mapping", "indent its keys below it")

    def problem(self, key: str, message: str, hint: str = "") -> None:
        path = (*self.path, key) if key else self.path
        self.problems.append(Problem(path, message, hint))

    def has(self, key: str) -> bool:
        """Return whether the key is there; it counts as known from now on."""
        self._known[key] = None
        return key in self._values

    def raw(self, key: str) -> object:
        """Return the plain value; None if the key is missing."""
        self._known[key] = None
        return self._values.get(key)

    @property
    def given(self) -> tuple[str, ...]:
        """Return every key that is there."""
        return tuple(self._values)

    def section(self, key: str) -> Reader:
        """Return a reader of a mapping below this one, empty if the key is missing."""
        return Reader(self.raw(key), (*self.path, key), self.problems)

    def items(self, key: str) -> list[tuple[Path, object]]:
        """Return the elements of a list with their paths."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.problem(key, "is not a list", "begin each element with '- '")
            return []
        return [((*self.path, key, number), item) for number, item in enumerate(value)]

    def argument(self, key: str, argument: Argument) -> Open:
        """Return a value of an argument's type; its default if the key is missing or wrong."""
        if not self.has(key):
            if argument.required:
                self.problem(key, "is missing")
            return argument.default
        try:
            return argument.read(self._values[key])
        except ArgumentError as error:
            self.problem(key, str(error), error.hint)
            return argument.default

    def text(self, key: str, default: str | None = "") -> str:
        """Return a text; one that has no default must be there."""
        value = self.raw(key)
        if value is None and default is None:
            self.problem(key, "is missing")
        elif isinstance(value, str) and value.strip():
            return value.strip()
        elif value is not None:
            hint = "put it in quotes" if isinstance(value, int | float) else ""
            self.problem(key, f"{shown((key,), value)} is not a text", hint)
        return default or ""

    def whole(self, key: str, default: int, *, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        value = self.argument(key, Argument(key, Type.COUNT, "", default, low=low, high=high))
        return self._single(key, value, default)

    def _single(self, key: str, value: Open, default: int) -> int:
        if isinstance(value, Range):
            self.problem(key, "is a range", "write one value")
            return default
        return value if isinstance(value, int) else default

    def duration(self, key: str, default: int, *, low: int = 1, high: int | None = None) -> int:
        """Return a duration in nanoseconds."""
        value = self.argument(key, Argument(key, Type.DURATION, "", default, low=low, high=high))
        return self._single(key, value, default)

    def duration_or_none(self, key: str) -> int | None:
        return self.duration(key, 0) if self.has(key) else None

    def flag(self, key: str, *, default: bool = False) -> bool:
        return self.argument(key, Argument(key, Type.FLAG, "", default)) is True

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        wanted = Argument(key, Type.CHOICE, "", default, choices=tuple(choices))
        return str(self.argument(key, wanted))

    def names(self, key: str, allowed: Sequence[str], what: str) -> tuple[str, ...]:
        """Return a list of words out of `allowed`; a single word is a list of one."""
        value = self.raw(key)
        if value is None:
            return ()
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
            self.problem(key, "is not a list of words", "write it like [a, b]")
            return ()
        good = []
        for word in words:
            if word in allowed:
                good.append(word)
            else:
                self.problem(key, *unknown(what, word, allowed))
        return tuple(dict.fromkeys(good))

    def weights(self, key: str, allowed: Sequence[str], what: str) -> dict[str, float]:
        """Return a mapping of words to weights; a single word, or a list, weighs the same."""
        value = self.raw(key)
        if not isinstance(value, Mapping):
            return dict.fromkeys(self.names(key, allowed, what), 1.0)
        found: dict[str, float] = {}
        section = self.section(key)
        for word in value:
            weight = section.argument(str(word), Argument(str(word), Type.SHARE, "", 1.0, low=0))
            if word not in allowed:
                section.problem(str(word), *unknown(what, str(word), allowed))
            elif isinstance(weight, int | float):
                found[str(word)] = float(weight)
        if found and not any(found.values()):
            self.problem(key, "every weight is 0")
        return found

    def done(self) -> None:
        """Note a problem for each key that nobody asked for."""
        for key in self._values:
            if key not in self._known:
                known = list(self._known)
                guess = nearest(key, known)
                hint = f"did you mean '{guess}'?" if guess else f"known here: {', '.join(known)}"
                self.problem(key, "unknown key", hint)


def unknown(what: str, word: str, allowed: Iterable[str]) -> tuple[str, str]:
    """Return message and hint for a word that is none of those that are allowed."""
    choices = list(allowed)
    guess = nearest(word, choices)
    if guess:
        hint = f"did you mean '{guess}'?"
    elif len(choices) <= CHOICES_SHOWN_MAX:
        hint = f"there are {', '.join(choices)}"
    else:
        hint = "`python -m sim list` shows what there is"
    return f"unknown {what} {word!r}", hint
