"""What is at a key of the JSON of a node's status, fit to be shown.

In: decoded JSON, possibly from an agent of another version. Out: values of the type that was asked
for; whatever else is there, or nothing, is unknown. Text passes `printable`.

Deliberately unaware of what the keys mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from metako.cli.output import printable

UNKNOWN = "-"

Data = Mapping[str, object]


def text_at(data: Data, key: str) -> str:
    """Return a text or number, fit for a terminal; `-` for anything else."""
    value = data.get(key)
    if isinstance(value, str) and value:
        return printable(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return UNKNOWN


def object_at(data: Data, key: str) -> Data | None:
    """Return an object, None for anything else."""
    value = data.get(key)
    return value if isinstance(value, dict) else None


def names_at(data: Data, key: str) -> list[str]:
    """Return the names of a list, fit for a terminal; empty for anything else."""
    value = data.get(key)
    return [printable(v) for v in value if isinstance(v, str)] if isinstance(value, list) else []


def objects_at(data: Data, key: str) -> list[Data]:
    """Return the objects of a list; empty for anything else."""
    value = data.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
