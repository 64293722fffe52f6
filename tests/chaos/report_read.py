"""What the report reads: the lines of a run's history and the checker's verdict.

In: the directory of a run. Out: a `History`, everything in it of the type that it says, and the
verdict as a plain object. `rows` is the only place that knows the file; whoever has the rows
already gives them to `History.of`.

A run that was killed leaves a torn last line, and a later version may write kinds and fields that
are not known here. Both make the report poorer and never make it fail: such lines are counted. Only
a history without a first line that says `run` is none.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

HISTORY = "history.jsonl"
VERDICT = "verdict.json"
VERDICT_BYTES_MAX = 64 << 20
TEXT_MAX = 300
TIME_S_MAX = 30 * 86400.0
"""A time beyond is taken as damage: it would stretch the axis until nothing is seen on it."""

Row: TypeAlias = dict[str, object]


class HistoryError(Exception):
    """The history or the verdict cannot be read; nothing was written."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a client. Times in seconds since the run's start, as everywhere here."""

    client: str
    via: str  # proxy:n1 or direct:n2
    kind: str  # append, read, txn
    keys: tuple[str, ...]
    values: tuple[str, ...]  # empty for a read
    begin: float
    end: float
    outcome: str  # ok, failed, unknown
    error: str  # "" if there was none
    warning: str
    server: str  # address; "" when it is not known
    timeline: int

    @property
    def writes(self) -> bool:
        return self.kind != "read"

    @property
    def proxied(self) -> bool:
        return self.via.startswith("proxy")


@dataclass(slots=True)
class History:
    """A run as it was recorded; lists are in the order of the file unless said otherwise."""

    run: Row
    ops: list[Op] = field(default_factory=list)
    faults: list[Row] = field(default_factory=list)
    fault_ends: dict[int, float] = field(default_factory=dict)  # id → when it was over
    rows: dict[str, list[Row]] = field(default_factory=dict)  # the other kinds; each with a `t`
    begin: float = 0.0  # the earliest time said anywhere, at most 0
    end: float = 0.0  # the latest
    unread: int = 0  # lines that are no JSON object with a kind and a time
    unknown: dict[str, int] = field(default_factory=dict)  # kinds that have no place → lines

    @classmethod
    def of(cls, rows: Iterable[Row | None]) -> History:
        """Take in all rows; None stands for a line that could not be read.

        Raises:
            HistoryError: the first row is not the run's.
        """
        rows = iter(rows)
        first = next(rows, None)
        if first is None or first.get("e") != "run":
            raise HistoryError("the first line is not that of a run")
        history = cls(first)
        for row in rows:
            history._add(row)
        return history

    def _add(self, row: Row | None) -> None:
        t = None if row is None else number(row, "t")
        if row is None or t is None or not isinstance(row.get("e"), str):
            self.unread += 1
            return
        kind = text(row, "e")
        match kind:
            case "op":
                op = _op(row, t)
                self.ops.append(op)
                self.begin = min(self.begin, op.begin)
            case "fault":
                self.faults.append(row)
            case "fault_end":
                self.fault_ends[int(number(row, "id") or 0)] = t
            case "node" | "log" | "probe" | "phase" | "final" | "left" | "recovered" | "skipped":
                self.rows.setdefault(kind, []).append(row)
            case _:
                self.unknown[kind] = self.unknown.get(kind, 0) + 1
                return
        self.begin = min(self.begin, t)
        self.end = max(self.end, t)

    def of_kind(self, kind: str) -> list[Row]:
        """Return the rows of a kind in the order of time."""
        return sorted(self.rows.get(kind, []), key=time_of)

    def nodes(self) -> list[str]:
        """Return the names of all nodes: those the run names first, then any other."""
        named = texts(self.run, "nodes")
        seen = (
            text(row, "n") for kind in ("node", "log", "probe") for row in self.rows.get(kind, ())
        )
        return list(dict.fromkeys([*named, *sorted(set(seen) - {""})]))


def rows(path: Path) -> Iterator[Row | None]:
    """Read the lines of a history one by one; None for one that is not an object.

    Raises:
        HistoryError: the file cannot be opened or read.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.strip():
                    yield _object(line)
    except OSError as error:
        raise HistoryError(f"cannot read {path}: {error.strerror}") from error


def read_history(path: Path) -> History:
    """Read a whole history.

    Raises:
        HistoryError: see `rows` and `History.of`; the message names the file.
    """
    try:
        return History.of(rows(path))
    except HistoryError as error:
        said = str(error)
        raise HistoryError(said if str(path) in said else f"cannot read {path}: {said}") from error


def read_verdict(path: Path) -> Row | None:
    """Return the checker's verdict, or None if there is no such file.

    Raises:
        HistoryError: it is there and is no verdict. A report must not look as if nobody had
            checked when somebody has.
    """
    try:
        if path.stat().st_size > VERDICT_BYTES_MAX:
            raise HistoryError(f"cannot read {path}: larger than {VERDICT_BYTES_MAX >> 20} MiB")
        verdict = _object(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HistoryError(f"cannot read {path}: {error.strerror}") from error
    if verdict is None or not isinstance(verdict.get("ok"), bool):
        raise HistoryError(f"cannot read {path}: no JSON object with `ok`")
    return verdict


def _object(line: str) -> Row | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _op(row: Row, t: float) -> Op:
    begin = number(row, "begin")
    end = number(row, "end")
    end = t if end is None else end
    return Op(
        client=sys.intern(text(row, "client")),
        via=sys.intern(text(row, "via")),
        kind=sys.intern(text(row, "kind")),
        keys=texts(row, "keys") or texts(row, "key"),
        values=texts(row, "values"),
        begin=end if begin is None else min(begin, end),
        end=end,
        outcome=sys.intern(text(row, "outcome")),
        error=text(row, "error"),
        warning=text(row, "warning"),
        server=sys.intern(text(row, "server")),
        timeline=int(number(row, "timeline") or 0),
    )


def text(row: Row, key: str) -> str:
    """Return a field as text: "" if it is missing or null, JSON if it is no text."""
    value = row.get(key)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number(row: Row, key: str) -> float | None:
    """Return a field if it is a number that can be a time or a count, else None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    limit = TIME_S_MAX if key in ("t", "begin", "end", "asked", "answered") else 2.0**52
    return value if math.isfinite(value) and abs(value) <= limit else None


def texts(row: Row, key: str) -> tuple[str, ...]:
    """Return a field that is a list as texts; a single value counts as a list of one."""
    value = row.get(key)
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(each if isinstance(each, str) else json.dumps(each) for each in items)


def time_of(row: Row) -> float:
    """Return the row's time; every row in a `History` but the run's has one."""
    return number(row, "t") or 0.0


def seconds(t: float) -> float:
    """Return a time as the page has it: to the millisecond."""
    return round(t, 3)


def clip(said: str) -> str:
    """Return a text cut to `TEXT_MAX` characters."""
    return said if len(said) <= TEXT_MAX else said[: TEXT_MAX - 1] + "…"
