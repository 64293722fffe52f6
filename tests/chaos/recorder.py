"""The rig's own part of the history: what it did, and what it saw of nodes and servers.

In: facts as they happen. Out: one JSON object a line, in a file of its own; the clients have
theirs, and `merge` makes one history of all. Times are seconds of CLOCK_MONOTONIC since the run
began.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


class Recorder:
    """Writes facts down; safe to call from the main thread only."""

    def __init__(self, path: Path) -> None:
        self.start_s = time.monotonic()
        self._wall_s = time.time()  # at the same moment
        self._numbers = itertools.count()
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def now_s(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self.start_s

    def next_number(self) -> int:
        """Return a number that no other fault of this run has."""
        return next(self._numbers)

    def at_s(self, wall_s: float) -> float:
        """Return when it was that the machine's wall clock, which nobody sets, showed a time."""
        return wall_s - self._wall_s

    def write(self, kind: str, *, at_s: float | None = None, **facts: object) -> None:
        """Write down one fact, of now or of `at_s`."""
        self.write_all(kind, facts, at_s=at_s)

    def write_all(
        self, kind: str, facts: Mapping[str, object], *, at_s: float | None = None
    ) -> None:
        """Write down one fact whose parts are in a mapping."""
        line = {"t": round(self.now_s() if at_s is None else at_s, 6), "e": kind, **facts}
        self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self._file.close()


def merge(parts: Iterable[Path], to: Path) -> int:
    """Write the lines of all parts in the order of their time; return how many there are.

    The last line of a part whose writer was killed may be torn, and is left out.
    """
    lines = sorted((pair for path in parts for pair in _timed(path)), key=lambda pair: pair[0])
    with to.open("w", encoding="utf-8") as out:
        out.writelines(line for _, line in lines)
    return len(lines)


def _timed(path: Path) -> Iterator[tuple[float, str]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield float(json.loads(line)["t"]), line
