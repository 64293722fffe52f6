"""The names of all keys, taken from the schemas, for hints about misspelt ones."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from metako.config.schema import Section


def known_keys(*models: type[Section]) -> dict[tuple[str, ...], list[str]]:
    """Return the keys below each path; list positions are not part of a path."""
    result: dict[tuple[str, ...], list[str]] = {}
    for model in models:
        _collect(model, (), result)
    return result


def _collect(
    model: type[Section], path: tuple[str, ...], result: dict[tuple[str, ...], list[str]]
) -> None:
    result.setdefault(path, []).extend(model.model_fields)
    for name, field in model.model_fields.items():
        for inner in _sections_in(field.annotation):
            _collect(inner, (*path, name), result)


def _sections_in(annotation: object) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _sections_in(argument)
