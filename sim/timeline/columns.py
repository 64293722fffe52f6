"""Turn the lines of a trace into columns: what the page's script reads. Pure.

In: lines of JSON, each an object with `e` (its kind), `t` (ns of virtual time) and `i` (running
number). Out: a `Trace`, whose `document` is a JSON value of one table a kind and one array a
column. A hundred thousand objects would be parsed slowly by a browser and repeat every key; the
arrays are a fifth of the size, and the script searches them as they are.

Encodings, by the code that the table names beside each column:

  "d"  number, as the difference to the row above (running numbers, times, ids: small differences)
  "n"  number or null
  "a"  time, as the difference to the row's own `t`, or null
  "s"  text, as an index into `strings`, or null
  "b"  true, false or null, as 1, 0 or null
  "j"  any JSON value, as text like "s": parsed only when somebody looks at it

Invariant: everything that a known kind's row says under a known key is in the document, or is null
there (0 in a "d" column) because it was no value of the column's type. A hostile or torn line can
make the page poorer and never makes it fail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

NUMBER_MAX = 2**52
"""Larger numbers lose their last digits in a browser, and so would differences of them."""

Scalar = str | int | float | bool | None
Cell = int | float | None

STATE_KINDS = ("node", "pg")
"""Kinds that tell of one node on change: a key that such a line leaves out keeps its value."""


def _columns(text: str) -> dict[str, str]:
    """Read `name:code name:code`."""
    return dict(pair.split(":") for pair in text.split())


KINDS: dict[str, dict[str, str]] = {
    "node": _columns("n:s agent:s host:s guard:s role:s term:n promised:n leader:s armed:n"),
    "lease": _columns("n:s until:n"),
    "hold": _columns("n:s until:n for:s"),
    "pg": _columns(
        "n:s process:s recovery:b frozen:b tli:n branch:s lsn:n "
        "upstream:s sync:j k:n admit:b data:s"
    ),
    "msg": _columns("id:d from:s to:s kind:s term:n at:a fate:s says:s"),
    "log": _columns("n:s name:s level:s text:s fields:j"),
    "step": _columns("n:s step:s begin:a end:a ok:b error:s"),
    "op": _columns("id:d c:s kind:s key:s value:s via:s n:s begin:a end:a result:s why:s"),
    "ack": _columns("n:s tli:n branch:s lsn:n value:s"),
    "fault": _columns("id:n do:s text:s nodes:j args:j"),
    "fault_end": _columns("id:n"),
    "mark": _columns("n:s name:s text:s"),
    "phase": _columns("name:s"),
    "violation": _columns("check:s text:s nodes:j causes:j notes:j"),
}
"""Every kind that has a table, with its columns besides `i` and `t`."""

SINGLE_KINDS = ("run", "end")
"""Kinds of which there is one line; kept as they are."""


@dataclass(slots=True)
class Table:
    """The rows of one kind."""

    codes: dict[str, str]  # column → encoding, in the order of the document
    columns: dict[str, list[Cell]]
    above: dict[str, int | float]  # columns written as differences: the value of the last row

    @classmethod
    def empty(cls, columns: dict[str, str]) -> Table:
        codes = {"i": "d", "t": "d", **columns}
        return cls(codes, {name: [] for name in codes}, {})


@dataclass(slots=True)
class Trace:
    """What was read, growing line by line."""

    single: dict[str, dict[str, object]] = field(default_factory=dict)  # by kind: run, end
    tables: dict[str, Table] = field(
        default_factory=lambda: {kind: Table.empty(columns) for kind, columns in KINDS.items()}
    )
    strings: dict[str, int] = field(default_factory=dict)  # text → index, in order of appearance
    state: dict[tuple[str, object], dict[str, object]] = field(default_factory=dict)
    lines: int = 0  # read, blank ones left out
    unread: int = 0  # no JSON object with a kind and a time: torn or foreign
    unknown: dict[str, int] = field(default_factory=dict)  # kinds without a table → lines
    last_ns: int = 0  # the latest `t`

    def add(self, line: str) -> None:
        """Take in one line; one that cannot be read is counted and changes nothing else."""
        if not line or line.isspace():
            return
        self.lines += 1
        row = _parse(line)
        kind = row.get("e")
        t = _number(row.get("t"))
        if not isinstance(kind, str) or not isinstance(t, int):
            self.unread += 1
            return
        self.last_ns = max(self.last_ns, t)
        if kind in SINGLE_KINDS:
            self.single[kind] = {str(key): _harmless(value) for key, value in row.items()}
            return
        table = self.tables.get(kind)
        if table is None:
            self.unknown[kind] = self.unknown.get(kind, 0) + 1
            return
        if kind in STATE_KINDS:
            row = self._filled(kind, row)
        if not isinstance(_number(row.get("i")), int):
            row["i"] = self.lines - 1
        self._append(table, row, t)

    def document(self) -> dict[str, object]:
        """Return everything as one JSON value."""
        return {
            "run": self.single.get("run"),
            "end": self.single.get("end"),
            "lines": self.lines,
            "unread": self.unread,
            "unknown": self.unknown,
            "last": self.last_ns,
            "strings": list(self.strings),
            "tables": {
                kind: {"codes": table.codes, "columns": table.columns}
                for kind, table in self.tables.items()
                if table.columns["t"]
            },
        }

    def _filled(self, kind: str, row: dict[str, object]) -> dict[str, object]:
        node = row.get("n")
        key = (kind, node if isinstance(node, str) else None)
        known = self.state[key] = {**self.state.get(key, {}), "i": None, **row}
        return dict(known)

    def _append(self, table: Table, row: dict[str, object], t: int) -> None:
        for name, code in table.codes.items():
            value = row.get(name)
            cell: Cell
            match code:
                case "s":
                    cell = self._text(value)
                case "d":
                    cell = _number(value) or 0
                    table.above[name], cell = cell, cell - table.above.get(name, 0)
                case "n":
                    cell = _number(value)
                case "a":
                    cell = _number(value)
                    cell = None if cell is None else cell - t
                case "b":
                    cell = int(value) if isinstance(value, bool) else None
                case _:
                    cell = None if value is None else self._text(_harmless_json(value))
            table.columns[name].append(cell)

    def _text(self, value: object) -> int | None:
        if value is None:
            return None
        text = value if isinstance(value, str) else _harmless_json(value)
        return self.strings.setdefault(text, len(self.strings))


def read(lines: Iterable[str]) -> Trace:
    """Read a trace, in one pass and in time proportional to its length."""
    trace = Trace()
    for line in lines:
        trace.add(line)
    return trace


def _parse(line: str) -> dict[str, object]:
    """Return the object that the line is, or an empty one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -NUMBER_MAX <= value <= NUMBER_MAX else None


def _harmless(value: object) -> object:
    """Return the value without numbers that JSON cannot say; deep inside they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list):
        parsed: object = json.loads(_harmless_json(value))
        return parsed
    return value


def _harmless_json(value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return json.dumps(str(value))
