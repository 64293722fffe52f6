"""A small result, built as a server sends it: columns, rows, and the tag at the end.

Everything is text or a number, and a number travels as text too. For what a proxy answers by
itself; results of servers pass unread.

Source: PostgreSQL documentation, "Message Formats" (RowDescription, DataRow); pg_type.dat.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from metako.pgwire.messages import command_complete, message, string
from metako.pgwire.startup import encode_text

COLUMNS_MAX = 1600  # PostgreSQL's own limit
_TEXT_OID, _INT8_OID = 25, 20
_NULL = struct.pack("!i", -1)
_COLUMN = struct.Struct("!IhIhih")  # table, column, type, its size, its modifier, format
_COUNT = struct.Struct("!h")
_LENGTH = struct.Struct("!i")

Value = str | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """A result. A column is a number if all its values are, and there is at least one."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...] = ()

    def __post_init__(self) -> None:
        assert 0 < len(self.columns) <= COLUMNS_MAX
        assert all(len(row) == len(self.columns) for row in self.rows)


def row_description(table: Table) -> bytes:
    """Build the message that names the columns."""
    body = _COUNT.pack(len(table.columns))
    for index, name in enumerate(table.columns):
        values = [row[index] for row in table.rows]
        is_number = bool(values) and all(isinstance(value, int) for value in values)
        kind, size = (_INT8_OID, 8) if is_number else (_TEXT_OID, -1)
        body += string(encode_text(name)) + _COLUMN.pack(0, 0, kind, size, -1, 0)
    return message(b"T", body)


def data_row(values: Sequence[Value]) -> bytes:
    """Build the message of one row."""
    parts = [_COUNT.pack(len(values))]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            text = encode_text(str(value))
            parts += (_LENGTH.pack(len(text)), text)
    return message(b"D", b"".join(parts))


def result(table: Table, tag: str) -> bytes:
    """Build a whole result, up to its tag; ReadyForQuery is not part of it."""
    rows = b"".join(map(data_row, table.rows))
    return row_description(table) + rows + command_complete(tag)
