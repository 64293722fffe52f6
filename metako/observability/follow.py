"""A log file as it grows, for `metako logs`.

Input: the path of a file of JSON lines. Output: its records, the last few first, then the new ones
for as long as the caller asks. A rotation is followed: the rest of the old file is read before the
new one is begun. A line that is not one of ours comes out as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from metako.observability.record import LogRecord, read_json_line_untrusted

READ_BYTES_MAX = 256 << 10
LINE_BYTES_MAX = 1 << 20
"""A longer line is given out in pieces: the file may be no log at all."""
TAIL_BYTES_MAX = 8 << 20

Line = LogRecord | str


def tail(path: Path, count: int) -> list[Line]:
    """Return the last `count` lines of the file; none if it does not exist.

    Raises:
        OSError: the file is there and cannot be read.
    """
    follower = Follower(path, last=count)
    lines = list(follower.read_new())
    follower.close()
    return lines


def follow(
    path: Path,
    *,
    last: int | None = 10,
    poll_interval_s: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Line]:
    """Yield the last lines of the file and then, without end, those that are added.

    For synchronous callers; an asynchronous one calls `Follower.read_new` between its own waits.

    Raises:
        OSError: the file is there and cannot be read.
    """
    follower = Follower(path, last=last)
    try:
        while True:
            yield from follower.read_new()
            sleep(poll_interval_s)
    finally:
        follower.close()


class Follower:
    """A position in a file that is written and rotated by someone else.

    `read_new` never waits: who calls it decides about the pause between two calls, and whether
    that is trio's or the thread's.
    """

    def __init__(self, path: Path, *, last: int | None = None) -> None:
        """Begin with the last `last` lines of what is there; None: with all of it."""
        self._path = path
        self._last = last
        self._file: BinaryIO | None = None  # None while the path does not exist
        self._partial = b""  # a line whose end has not been written yet

    def read_new(self) -> Iterator[Line]:
        """Yield what was written since the last call.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if self._file is None and not self._open():
            return
        yield from self._read_all()
        if self._was_replaced():
            yield from self._read_all()  # what came between the last read and the rotation
            if self._partial:
                yield _line(self._partial)
            self.close()
            self._last = None  # everything in the new file is new
            if self._open():
                yield from self._read_all()

    def close(self) -> None:
        """Close the file; a later `read_new` begins it anew."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._partial = b""

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            # What appears later is new, all of it.
            self._last = None
            return False
        if self._last is not None:
            self._seek_to_last(self._file, self._last)
        return True

    @staticmethod
    def _seek_to_last(file: BinaryIO, count: int) -> None:
        """Go to the beginning of the last `count` complete lines."""
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - TAIL_BYTES_MAX)
        file.seek(start)
        data = file.read(size - start)
        position = data.rfind(b"\n") + 1  # an unfinished line is not counted
        for _ in range(count):
            if position == 0:
                break
            position = data.rfind(b"\n", 0, position - 1) + 1
        file.seek(start + position)

    def _read_all(self) -> Iterator[Line]:
        while self._file is not None:
            data = self._file.read(READ_BYTES_MAX)
            if not data:
                if self._file.tell() > os.fstat(self._file.fileno()).st_size:
                    # Truncated in place (logrotate's copytruncate): begin again.
                    self._file.seek(0)
                    self._partial = b""
                    continue
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                if line.strip():
                    yield _line(line)
            if len(self._partial) > LINE_BYTES_MAX:
                yield _line(self._partial)
                self._partial = b""

    def _was_replaced(self) -> bool:
        if self._file is None:
            return False
        ours = os.fstat(self._file.fileno())
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # between two steps of a rotation: the old file may still be written
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)


def _line(data: bytes) -> Line:
    record = read_json_line_untrusted(data)
    return data.decode("utf-8", "replace") if record is None else record
