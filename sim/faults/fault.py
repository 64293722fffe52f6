"""One concrete fault: when, what, to whom, and how strong, as plain frozen values.

In: numbers, names and texts. Out: a `Fault`, its JSON form and back. Nothing in a fault is left
open: no selector, no range, no relative time. That is why a list of faults can be replayed on a
changed program, and made smaller one by one. It knows no kind by name: `sim.faults.registry` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | None"
"""What an argument may be. Durations are whole nanoseconds; lists are tuples."""

FOR = "for"
"""The argument that every lasting kind has: after this time the fault is undone."""

DEPTH_MAX = 4


class FaultError(ValueError):
    """A fault cannot be read; the text says what is wrong. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A disturbance or a cure, at one moment of virtual time."""

    at_ns: int
    do: str  # name of a kind
    args: tuple[tuple[str, Value], ...] = ()  # sorted by name, each once

    @classmethod
    def make(cls, at_ns: int, do: str, args: Mapping[str, Value] | None = None) -> Fault:
        """Return a fault with its arguments in the one order that equal faults share."""
        return cls(at_ns, do, tuple(sorted((args or {}).items(), key=lambda item: item[0])))

    def get(self, name: str, default: Value = None) -> Value:
        """Return an argument, or `default` if the fault does not carry it."""
        for key, value in self.args:
            if key == name:
                return value
        return default

    @property
    def for_ns(self) -> int | None:
        """How long the fault lasts; None: until something else ends it, or to the end."""
        value = self.get(FOR)
        return value if isinstance(value, int) else None

    def changed(self, **args: Value) -> Fault:
        """Return the fault with other values for some arguments; None removes one."""
        merged = {**dict(self.args), **args}
        return Fault.make(self.at_ns, self.do, {k: v for k, v in merged.items() if v is not None})

    def to_json(self) -> dict[str, object]:
        """Return the plain form: equal faults give equal texts."""
        return {
            "at_ns": self.at_ns,
            "do": self.do,
            "args": {name: _plain(value) for name, value in self.args},
        }

    @classmethod
    def from_json(cls, data: object) -> Fault:
        """Return the fault that `to_json` was called on.

        Raises:
            FaultError: the data is no fault. Whether its kind and arguments exist is not looked at.
        """
        if not isinstance(data, dict):
            raise FaultError("a fault is a mapping with at_ns, do and args")
        unknown = sorted(str(key) for key in data.keys() - {"at_ns", "do", "args"})
        if unknown:
            raise FaultError(f"unknown key {unknown[0]!r}; a fault has at_ns, do and args")
        at_ns, do, args = data.get("at_ns"), data.get("do"), data.get("args", {})
        if not isinstance(at_ns, int) or isinstance(at_ns, bool) or at_ns < 0:
            raise FaultError("at_ns is not a whole number of nanoseconds")
        if not isinstance(do, str):
            raise FaultError("do is not the name of a kind of fault")
        if not isinstance(args, dict):
            raise FaultError("args is not a mapping")
        return cls.make(at_ns, do, {str(key): frozen(value) for key, value in args.items()})


def frozen(value: object, depth: int = 0) -> Value:
    """Return a value of JSON or YAML with tuples for lists.

    Raises:
        FaultError: it contains a mapping, or is nested too deeply.
    """
    if isinstance(value, list | tuple):
        if depth >= DEPTH_MAX:
            raise FaultError("lists are nested too deeply")
        return tuple(frozen(item, depth + 1) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FaultError(f"a value of type {type(value).__name__} is no argument")


def _plain(value: Value) -> object:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def names_in(values: Iterable[Value]) -> tuple[str, ...]:
    """Return every text in nested tuples, in order, each once."""
    found: dict[str, None] = {}
    for value in values:
        if isinstance(value, tuple):
            found.update(dict.fromkeys(names_in(value)))
        elif isinstance(value, str):
            found[value] = None
    return tuple(found)
