"""What is wrong with a configuration, where it stands, and how that is told.

Input: problems found by anyone, and pydantic's errors. Output: the lines
`FILE:LINE: path.to.key: what is wrong; hint`, all of them together in one ConfigError. Invariant:
the value of a key that may hold a secret is never part of a text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""

SECRET_WORDS = ("password", "key", "secret")
SHOWN_CHARACTERS_MAX = 40


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct."""

    path: Path
    message: str
    hint: str = ""
    line: int | None = None  # None: the line of `path`

    def text(self, file: str, line: int) -> str:
        """Return the line that is shown to the operator."""
        where = f"{dotted(self.path)}: " if self.path else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{file}:{line}: {where}{self.message}{hint}"


def dotted(path: Path) -> str:
    """Return a path as people write it: `cluster.members[1].host`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def is_secret(name: str) -> bool:
    """Return whether a value of this name must not be shown."""
    return any(word in name.lower() for word in SECRET_WORDS)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `word` was probably meant to be; None if none is near."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def shown(path: Path, value: object) -> str:
    """Return a value for an error text, shortened, or a stand-in for a secret."""
    if any(isinstance(part, str) and is_secret(part) for part in path):
        return "the value"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = repr(value)
    if len(text) > SHOWN_CHARACTERS_MAX:
        text = text[: SHOWN_CHARACTERS_MAX - 1] + "…"
    return text


def from_pydantic(
    errors: Sequence[ErrorDetails], keys_at: Mapping[tuple[str, ...], Sequence[str]]
) -> list[Problem]:
    """Translate pydantic's errors into the operator's language.

    Args:
        errors: as `ValidationError.errors()` returns them.
        keys_at: the keys that are known below a path; list positions are left out of the path.
    """
    return [_translate(error, keys_at) for error in errors]


def _translate(error: ErrorDetails, keys_at: Mapping[tuple[str, ...], Sequence[str]]) -> Problem:
    path: Path = error["loc"]
    value = error["input"]
    context = error.get("ctx", {})
    if value is None and error["type"] not in ("missing", "extra_forbidden"):
        return Problem(path, "has no value", "write one, or remove the key")
    match error["type"]:
        case "missing":
            hint = "write at least 'node: {name: n1}'" if path == ("node",) else ""
            return Problem(path, "is missing", hint)
        case "extra_forbidden":
            return _unknown(path, keys_at)
        case "int_type" | "int_parsing" | "int_from_float" | "float_type" | "float_parsing":
            quoted = isinstance(value, str) and value.strip().lstrip("+-").isdigit()
            hint = "write it without quotes" if quoted else ""
            return Problem(path, f"{shown(path, value)} is not a number", hint)
        case "string_type":
            scalar = isinstance(value, int | float)
            message = "is not a text" if scalar else f"{shown(path, value)} is not a text"
            return Problem(path, message, "put it in quotes" if scalar else "")
        case "bool_type" | "bool_parsing":
            return Problem(path, f"{shown(path, value)} is not true or false")
        case "list_type" | "tuple_type":
            return Problem(path, "is not a list", "begin each element with '- '")
        case "model_type" | "dict_type" | "model_attributes_type":
            return Problem(path, "is not a mapping", "indent its keys below it")
        case "enum" | "literal_error":
            return _not_allowed(path, value, str(context.get("expected", "")))
        case "greater_than_equal":
            return Problem(path, f"{shown(path, value)} is less than {context['ge']}")
        case "less_than_equal":
            return Problem(path, f"{shown(path, value)} is more than {context['le']}")
        case "value_error":
            message, _, hint = str(context["error"]).partition("; ")
            return Problem(path, message, hint)
        case _:
            return Problem(path, error["msg"])


def _unknown(path: Path, keys_at: Mapping[tuple[str, ...], Sequence[str]]) -> Problem:
    around = tuple(part for part in path[:-1] if isinstance(part, str))
    name = str(path[-1])
    known = keys_at.get(around, ())
    guess = nearest(name, known)
    if guess is not None:
        return Problem(path, "unknown key", f"did you mean '{guess}'?")
    for other, keys in keys_at.items():
        if name in keys:
            place = dotted((*other, name))
            return Problem(path, "unknown key here", f"it is known as '{place}'")
    return Problem(path, "unknown key", f"known here: {', '.join(known)}")


def _not_allowed(path: Path, value: object, expected: str) -> Problem:
    choices = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
    guess = nearest(str(value), choices)
    hint = f"did you mean '{guess}'?" if guess else ""
    return Problem(path, f"{shown(path, value)} is not one of {', '.join(choices)}", hint)
