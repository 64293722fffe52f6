"""The wall clock of one node: libfaketime shows it, the machine's own is never set.

In: by how much it is to jump. Out: the environment of programs that are to see it, and when it was
that such a program said a time. MONOTONIC and BOOTTIME stay the machine's. A jump is one file, put
in place as a whole; programs look at it every second, so that is how late they may notice.

It knows nothing of what a program does with the time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

LOOKED_AT_EVERY_S = 1
REMEMBERED_MAX = 8
"""Former positions of a clock, for what is read late."""

_LIBRARIES = ("/usr/lib/*/faketime", "/usr/lib64/faketime", "/usr/lib/faketime")
_NAME = "libfaketime.so.1"
_SHARED = re.compile(r"(?:faketime_shm|sem\.faketime_sem)_(\d+)")
_FAKED = Path(__file__).with_name("faked")


@cache
def library() -> Path | None:
    """Return libfaketime, or None if it is not installed."""
    for pattern in _LIBRARIES:
        for place in sorted(Path("/").glob(pattern.lstrip("/"))):
            if (place / _NAME).is_file():
                return place / _NAME
    return None


def remove_leftovers(since_s: float, shared: Path = Path("/dev/shm")) -> None:
    """Remove the shared memory of programs that saw such a clock and were killed.

    Args:
        since_s: the machine's time from which on the programs were started; what is older is
            somebody else's, and so is what belongs to a process that lives.
    """
    for path in shared.iterdir():
        match = _SHARED.fullmatch(path.name)
        if match is None or Path("/proc", match[1]).exists():
            continue
        with suppress(FileNotFoundError):
            if path.stat().st_mtime >= since_s:
                path.unlink()


class WallClock:
    """See the module's docstring."""

    def __init__(self, path: Path, shown_by: Path | None) -> None:
        """Describe a clock; `make` creates its file.

        Args:
            path: of a file that every user can reach; nothing else is to write it.
            shown_by: libfaketime; None: the clock cannot jump.
        """
        self._path = path
        self._library = shown_by
        self._ahead_s = 0.0  # of the machine's clock
        self._former_s: list[float] = []

    def make(self) -> None:
        """Write the file of a clock that is right."""
        self._write()

    def jump(self, seconds: float) -> None:
        """Set it forward, or back if negative.

        Raises:
            RuntimeError: there is no libfaketime; nothing was changed.
        """
        if self._library is None:
            raise RuntimeError("libfaketime is not installed")
        self._former_s = [self._ahead_s, *self._former_s][:REMEMBERED_MAX]
        self._ahead_s += seconds
        self._write()

    def set_right(self) -> None:
        """Set it to the machine's clock, as a time service does."""
        if self._ahead_s:
            self.jump(-self._ahead_s)

    def shown_s(self, now_s: float) -> float:
        """Return what it shows at the machine's time `now_s`, in seconds since 1970."""
        return now_s + self._ahead_s

    def environment(self) -> Mapping[str, str]:
        """Return the variables with which a program sees this clock."""
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_CACHE_DURATION": str(LOOKED_AT_EVERY_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else every timed wait by MONOTONIC returns at once, and threads that wait for
            # Python's lock spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def python_environment(self, python_path: str) -> Mapping[str, str]:
        """Return the variables for a Python program whose PYTHONPATH would be `python_path`."""
        found = self.environment()
        if not found:
            return {}
        return {**found, "PYTHONPATH": os.pathsep.join(filter(None, (str(_FAKED), python_path)))}

    def true_s(self, shown_s: float, now_s: float) -> float:
        """Return the machine's time at which this clock showed `shown_s`.

        Args:
            now_s: the machine's time now. What is read was written a moment ago, so of all the
                positions the clock has had, the one is meant that comes nearest to that.
        """
        positions = (self._ahead_s, *self._former_s)
        return min((shown_s - ahead for ahead in positions), key=lambda true: abs(now_s - true))

    def _write(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(f"{self._ahead_s:+.3f}\n")
        fresh.chmod(0o644)
        fresh.rename(self._path)
