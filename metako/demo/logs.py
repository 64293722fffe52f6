"""The nodes' JSON logs, read while they are written.

Input: log files. Output: `LogEvent`s in the order of their time. A line that is not a whole JSON
object with a time is skipped: the file belongs to another process, which may be killed in the
middle of a line. The files are read only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

READ_BYTES_MAX = 4 << 20
"""Most that is taken from one file at once; the rest is taken the next time."""
TAIL_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of a node's log."""

    node: str
    time_s: float  # wall clock, seconds since the epoch
    name: str  # the `event` field; "" for other lines
    level: str
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)


def parse_line(node: str, line: bytes | str) -> LogEvent | None:
    """Return the event on a line, or None if it is not one."""
    try:
        raw = json.loads(line)
        time = datetime.fromisoformat(raw["time"]).timestamp()
    except (ValueError, TypeError, KeyError):
        return None
    return LogEvent(
        node=node,
        time_s=time,
        name=str(raw.get("event") or ""),
        level=str(raw.get("level", "")),
        message=str(raw.get("msg", "")),
        fields=raw,
    )


class LogTail:
    """One node's log from the moment of creation (or its beginning), read piece by piece."""

    def __init__(self, node: str, path: Path, *, from_end: bool = False) -> None:
        self._node = node
        self._path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0
        self._inode = 0  # of the file that `_offset` counts in; 0 before the first read
        self._partial = b""  # the beginning of a line whose end is not written yet

    def read_new(self) -> list[LogEvent]:
        """Return what was written since the last call; nothing if the file is not there."""
        try:
            with self._path.open("rb") as file:
                data = self._read(file)
        except OSError:
            return []
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        return [e for line in lines if (e := parse_line(self._node, line)) is not None]

    def _read(self, file: BinaryIO) -> bytes:
        size = file.seek(0, 2)
        inode = self._path.stat().st_ino
        if size < self._offset or (self._inode and inode != self._inode):
            # Rotated: the end of the old file is given up, the new one is read whole.
            self._offset = 0
            self._partial = b""
        self._inode = inode
        file.seek(self._offset)
        data = file.read(READ_BYTES_MAX)
        self._offset += len(data)
        return data


def merge(batches: Iterable[Iterable[LogEvent]]) -> list[LogEvent]:
    """Return the events of several nodes in the order of their time."""
    return sorted((e for batch in batches for e in batch), key=lambda e: e.time_s)


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last `count` lines of a file as text; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES_MAX))
            data = file.read()
    except OSError:
        return []
    return data.decode("utf-8", "replace").splitlines()[-count:]
