"""Own sections to which those of a pg-metako file are added, and where each value came from.

Input: facts and settings with the keys under which an operator wrote them. Output: one set of own
values, the origin of each translated one (so that a later error names the key that was written),
remarks, and contradictions.

What a pg-metako file means is not known here. So this serves a file that has none of it too,
without the schema of such files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from metako.config.hosts import same_host
from metako.config.problems import Path, Problem, dotted
from metako.config.units import format_duration_ms

PG_METAKO_SECTIONS = frozenset(
    (
        *("identity", "local_db", "cluster_members", "coordination", "health_check"),
        *("load_balancer", "security"),
    )
)
"""The sections of a pg-metako file. Named here as well as in their schema, because that takes long
to load and a file without any of them needs it for nothing."""


class Translation:
    """The own sections as they grow, and what was found on the way."""

    def __init__(self, own: Mapping[str, object]) -> None:
        self.values: dict[str, object] = copy.deepcopy(dict(own))
        self.origins: dict[Path, Path] = {}  # own path → path in the pg-metako sections
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def origin_of(self, path: Path) -> Path:
        """Return the path under which the operator wrote `path`."""
        for length in range(len(path), 0, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                return (*origin, *path[length:])
        return path

    def get(self, *path: str) -> object:
        """Return an own value; None if it is not there."""
        value: object = self.values
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def fact(self, path: tuple[str, ...], value: object, origin: Path) -> None:
        """Set a value that must agree with what the own sections say, if they say anything."""
        if value is None:
            return
        current = self.get(*path)
        if current is not None and not same_host(current, value):
            known = self.origin_of(path)
            self.problems.append(
                Problem(origin, f"contradicts '{dotted(known)}'", "remove one of the two")
            )
        elif current is None:
            self._set(path, value, origin)

    def setting(self, path: tuple[str, ...], value: object, origin: Path) -> None:
        """Set a value unless the own sections set it."""
        if value is None:
            return
        current = self.get(*path)
        if current is None:
            self._set(path, value, origin)
        elif current != value:
            self.notes.append(f"{dotted(origin)}: {dotted(path)} is set as well and wins")

    def bound(
        self, path: tuple[str, ...], value_ms: int | None, origin: Path, default_ms: int
    ) -> None:
        """Shorten a duration to a bound; say which of the two is in force."""
        if value_ms is None:
            return
        written = format_duration_ms(value_ms)
        if self.get(*path) is not None:
            self.notes.append(f"{dotted(origin)} {written}: {dotted(path)} is set as well and wins")
        elif value_ms < default_ms:
            self._set(path, written, origin)
            self.notes.append(
                f"{dotted(origin)} {written}: is shorter than the "
                f"{format_duration_ms(default_ms)} of {dotted(path)} and wins"
            )
        elif value_ms > default_ms:
            owner = "the timing profile's" if path[0] in ("timing", "gossip") else "metako's"
            self.notes.append(
                f"{dotted(origin)} {written}: {owner} {format_duration_ms(default_ms)} "
                f"({dotted(path)}) is shorter and wins"
            )

    def _set(self, path: tuple[str, ...], value: object, origin: Path) -> None:
        at = self.values
        for key in path[:-1]:
            inner = at.setdefault(key, {})
            if not isinstance(inner, dict):
                return  # the wrong shape is reported when the own sections are validated
            at = inner
        at[path[-1]] = value
        self.origins[path] = origin
