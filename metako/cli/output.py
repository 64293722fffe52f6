"""Writing results to stdout: text or JSON, and control over what reaches a terminal.

In: plain values and lines. Out: bytes on stdout, flushed a line at a time, so that a reader of a
pipe sees them at once.

Invariant: text that came from elsewhere - another node, a log file - passes `printable` before it
is shown, so that it cannot move the cursor or recolour the operator's terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence


def write_line(text: str = "") -> None:
    """Write one line."""
    encoding = sys.stdout.encoding or "utf-8"
    # A terminal in the C locale must not turn a typographic dash into an error.
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def write_json(value: object, *, compact: bool = False) -> None:
    """Write one JSON document, indented, or on one line if `compact`."""
    indent = None if compact else 2
    write_line(json.dumps(value, indent=indent, ensure_ascii=not _is_utf8(), default=str))


def printable(text: str) -> str:
    """Return `text` with control characters replaced by `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table without borders, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
