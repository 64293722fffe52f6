"""Turn what JSON brought into what a record promises, or raise TypeError with what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


def as_int(found: object) -> int:
    if isinstance(found, bool) or not isinstance(found, int):
        raise TypeError(f"{found!r} is not a whole number")
    return found


def as_float(found: object) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise TypeError(f"{found!r} is not a number")
    return float(found)


def as_str(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{found!r} is not a text")
    return found


def as_bool(found: object) -> bool:
    if not isinstance(found, bool):
        raise TypeError(f"{found!r} is neither true nor false")
    return found


def as_mapping(found: object) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise TypeError(f"{found!r} is not an object")
    return found


def or_none(narrow: Callable[[object], object]) -> Callable[[object], object]:
    return lambda found: None if found is None else narrow(found)


def as_tuple_of(narrow: Callable[[object], object]) -> Callable[[object], object]:
    def narrow_all(found: object) -> tuple[object, ...]:
        if not isinstance(found, list):
            raise TypeError(f"{found!r} is not a list")
        return tuple(narrow(item) for item in found)

    return narrow_all
