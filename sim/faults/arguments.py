"""What an argument of a fault may be, and how people write it.

In: a plain value as YAML or JSON has it. Out: the value that a concrete fault carries, a `Range`
from which one is drawn, or an `ArgumentError` with a hint. Durations are written `250ms` or `5s`
and become nanoseconds, shares `30%` or `0.3`, rates of clocks `500ppm` or `0.5%`.

Who exists is not known here: names of nodes stay texts, and a text that begins with `$` is a
selector, whose meaning is the scenario's business.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TypeAlias

from metako.config.problems import nearest
from metako.config.units import parse_duration_ms
from sim.faults.fault import Value
from sim.heap import NS_PER_MS

_RANGE = re.compile(r"\s*(\S+?)\s*\.\.\s*(\S+)\s*")
_NUMBER = r"([+-]?[0-9]+(?:\.[0-9]+)?)"
_UNITLESS = re.compile(_NUMBER)
EVERYONE = "*"


class ArgumentError(ValueError):
    """An argument's value cannot be used; `hint` says what would do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Type(enum.StrEnum):
    """The types, by the word that the documentation uses."""

    NODE = "node"  # one node
    NODES = "nodes"  # a list of nodes, or one
    GROUPS = "groups"  # a list of lists of nodes and clients
    PLACE = "place"  # one node or client
    PLACES = "places"  # nodes and clients, or * for all of them
    DURATION = "duration"
    SHARE = "share"  # 0 to 1, or a percentage
    RATE = "rate"  # of a clock, in ppm
    FACTOR = "factor"  # 10x
    SECONDS = "seconds"  # a signed duration: how far a clock jumps
    COUNT = "count"  # a whole number
    CHOICE = "choice"
    FLAG = "flag"  # true or false


NAMES = frozenset({Type.NODE, Type.NODES, Type.GROUPS, Type.PLACE, Type.PLACES})
"""Types whose values are names or selectors."""


@dataclass(frozen=True, slots=True)
class Range:
    """Two values of one type; one between them is drawn when the fault is applied."""

    low: int | float
    high: int | float


Open: TypeAlias = "Value | Range"
"""A value that may still have to be drawn."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a kind of fault."""

    name: str
    type: Type
    doc: str  # half a sentence, for the documentation
    default: Value = None  # None and not required: the argument may be missing
    required: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None  # in the unit of the concrete value
    high: float | None = None

    def read(self, raw: object) -> Open:
        """Return what a person wrote, as the value that the fault carries or a range of it.

        Raises:
            ArgumentError: it is not of this type, or out of bounds.
        """
        match self.type:
            case Type.NODE | Type.PLACE:
                return _name(raw)
            case Type.NODES | Type.PLACES:
                if raw == EVERYONE and self.type is Type.PLACES:
                    return EVERYONE
                return _names(raw)
            case Type.GROUPS:
                if not isinstance(raw, list | tuple) or not raw:
                    raise ArgumentError("is not a list of groups", "write it like [[n1], [n2, n3]]")
                return tuple(_names(group) for group in raw)
            case Type.CHOICE:
                return self._choice(raw)
            case Type.FLAG:
                if not isinstance(raw, bool):
                    raise ArgumentError(f"{raw!r} is not true or false")
                return raw
            case _:
                return self._quantity(raw)

    def check(self, value: Value) -> None:
        """Refuse a value that no concrete fault of this type carries.

        Raises:
            ArgumentError: so it is.
        """
        match self.type:
            case Type.NODE | Type.PLACE:
                good = isinstance(value, str)
            case Type.NODES:
                good = _is_names(value)
            case Type.PLACES:
                good = value == EVERYONE or _is_names(value)
            case Type.GROUPS:
                good = isinstance(value, tuple) and all(_is_names(group) for group in value)
            case Type.CHOICE:
                good = value in self.choices
            case Type.FLAG:
                good = isinstance(value, bool)
            case Type.SHARE | Type.FACTOR:
                good = isinstance(value, int | float) and not isinstance(value, bool)
            case _:
                good = isinstance(value, int) and not isinstance(value, bool)
        if not good:
            raise ArgumentError(f"{value!r} is no {self.type}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._bounded(value)

    def _choice(self, raw: object) -> str:
        if isinstance(raw, str) and raw in self.choices:
            return raw
        guess = nearest(str(raw), self.choices)
        hint = f"did you mean '{guess}'?" if guess else ""
        raise ArgumentError(f"{raw!r} is not one of {', '.join(self.choices)}", hint)

    def _quantity(self, raw: object) -> int | float | Range:
        match = _RANGE.fullmatch(raw) if isinstance(raw, str) else None
        if match is None:
            return self._bounded(_one(self.type, raw))
        low = self._bounded(_one(self.type, match[1]))
        high = self._bounded(_one(self.type, match[2]))
        if low > high:
            raise ArgumentError(f"{raw!r} ends before it begins", "write the smaller value first")
        return Range(low, high)

    def _bounded(self, value: int | float) -> int | float:
        if self.low is not None and value < self.low:
            raise ArgumentError(f"is less than {show(self.type, self.low)}")
        if self.high is not None and value > self.high:
            raise ArgumentError(f"is more than {show(self.type, self.high)}")
        return value


def _name(raw: object) -> str:
    if not isinstance(raw, str) or not raw:
        raise ArgumentError(f"{raw!r} is no name", "write one node or one selector")
    return raw


def _names(raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        return (_name(raw),)
    if not isinstance(raw, list | tuple) or not raw:
        raise ArgumentError(f"{raw!r} is no list of names", "write it like [n1, n2]")
    return tuple(_name(item) for item in raw)


def _is_names(value: Value) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(v, str) for v in value)


def _one(kind: Type, raw: object) -> int | float:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise ArgumentError(f"{raw!r} is no {kind}", _example(kind))
    match kind:
        case Type.DURATION:
            return duration_ns(raw)
        case Type.SECONDS:
            text = str(raw)
            sign = -1 if text.startswith("-") else 1
            return sign * duration_ns(text.lstrip("+-"))
        case Type.COUNT:
            if isinstance(raw, str):
                raw = _number(kind, raw)
            if not isinstance(raw, int):
                raise ArgumentError(f"{raw!r} is no whole number")
            return raw
        case Type.SHARE:
            return _number(kind, raw, {"%": 0.01})
        case Type.RATE:
            return round(_number(kind, raw, {"ppm": 1, "%": 10_000}))
        case Type.FACTOR:
            return _number(kind, raw, {"x": 1})
        case _:
            raise AssertionError(kind)


def duration_ns(raw: object) -> int:
    """Return a duration in nanoseconds.

    Raises:
        ArgumentError: it has no unit, or is finer than a millisecond.
    """
    if not isinstance(raw, str):
        raise ArgumentError(f"{raw!r} is no duration", _example(Type.DURATION))
    try:
        return parse_duration_ms(raw) * NS_PER_MS
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        raise ArgumentError(message, hint) from None


def _number(kind: Type, raw: str | int | float, units: dict[str, float] | None = None) -> float:
    if not isinstance(raw, str):
        return raw
    for unit, size in (units or {}).items():
        match = re.fullmatch(_NUMBER + re.escape(unit), raw)
        if match is not None:
            return _scaled(match[1], size)
    if _UNITLESS.fullmatch(raw):
        return _scaled(raw, 1)
    raise ArgumentError(f"{raw!r} is no {kind}", _example(kind))


def _scaled(text: str, size: float) -> int | float:
    # Rounded, because 0.29 · 0.01 and its like would print as a row of nines in every report.
    value = round(float(text) * size, 9)
    return int(value) if value == int(value) else value


def _example(kind: Type) -> str:
    examples = {
        Type.DURATION: "write it like 250ms, 10s or 1m30s",
        Type.SECONDS: "write it like 30s or -30s",
        Type.SHARE: "write it like 30% or 0.3",
        Type.RATE: "write it like 500ppm or 0.5%",
        Type.FACTOR: "write it like 10x",
    }
    return examples.get(kind, "")


def show(kind: Type, value: Value | float) -> str:
    """Return a concrete value as a person writes it."""
    if isinstance(value, tuple):
        if kind is Type.GROUPS:
            return " | ".join(show(Type.NODES, group) for group in value)
        return " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        match kind:
            case Type.DURATION | Type.SECONDS:
                return show_duration(int(value))
            case Type.SHARE:
                return f"{round(value * 100, 7):g}%"
            case Type.RATE:
                return f"{value}ppm"
            case Type.FACTOR:
                return f"{value:g}x"
            case _:
                return str(value)
    return str(value)


def show_duration(value_ns: int) -> str:
    """Return a duration that `duration_ns` reads back, if it is whole milliseconds."""
    sign = "-" if value_ns < 0 else ""
    value_ms, rest = divmod(abs(value_ns), NS_PER_MS)
    if rest or value_ms < 1000 or value_ms % 100:
        digits = f"{value_ms}.{rest:06d}".rstrip("0").rstrip(".") if rest else str(value_ms)
        return f"{sign}{digits}ms"
    seconds = f"{value_ms / 1000:.1f}".removesuffix(".0")
    return f"{sign}{seconds}s"
