"""The file of `swarm --resume`: which seeds each engine version has done, and what came of them.

In: a path. Out: the entry of one engine version, set of scenarios and planted bug, to be
continued. Invariants: the file is replaced whole or not at all; what cannot be understood is
refused and left alone; a file that another run changed meanwhile is not overwritten.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from metako.model.errors import ConfigError
from sim.swarm.tally import Tally, tally_from_json

FORMAT = 1
ENTRIES_MAX = 100
"""The entries that were continued last are kept: every changed source begins a new one."""
BYTES_MAX = 64 << 20


class LedgerError(ConfigError):
    """The file cannot be used; the text names it and says why. It was not changed."""


class SeedSet:
    """A set of seeds, kept as ranges because there are few gaps."""

    def __init__(self, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """Make the set of half-open ranges.

        Raises:
            ValueError: they are not ascending, or overlap.
        """
        self.ranges = [(begin, end) for begin, end in ranges]
        edges = [edge for each in self.ranges for edge in each]
        if edges != sorted(set(edges)):
            raise ValueError("ranges of seeds that are not ascending")

    def __len__(self) -> int:
        return sum(end - begin for begin, end in self.ranges)

    def add(self, seed: int) -> None:
        """Add one seed; one that is in the set changes nothing."""
        where = next((i for i, (_, end) in enumerate(self.ranges) if seed <= end), None)
        if where is None:
            self.ranges.append((seed, seed + 1))
            return
        begin, end = self.ranges[where]
        if begin <= seed < end:
            return
        if seed == end:
            # It may close the gap to the range that follows.
            follows = self.ranges[where + 1] if where + 1 < len(self.ranges) else None
            if follows is not None and follows[0] == seed + 1:
                self.ranges[where : where + 2] = [(begin, follows[1])]
            else:
                self.ranges[where] = (begin, seed + 1)
        elif seed == begin - 1:
            self.ranges[where] = (seed, end)
        else:
            self.ranges.insert(where, (seed, seed + 1))

    def missing(self, first: int) -> Iterator[int]:
        """Yield the seeds from `first` on that are not in the set, as it is now, without end."""
        for begin, end in list(self.ranges):
            yield from range(first, begin)
            first = max(first, end)
        while True:
            yield first
            first += 1


@dataclass(slots=True)
class Entry:
    """What belongs together: the same program, played the same way."""

    engine: str  # version
    scenarios: tuple[str, ...]  # in the order that decides which seed plays which
    mutation: str | None = None
    extra_faults: bool = True
    done: SeedSet = field(default_factory=SeedSet)
    tally: Tally = field(default_factory=Tally)

    def to_json(self) -> dict[str, object]:
        """Return the entry in plain values."""
        return {
            "engine": self.engine,
            "scenarios": list(self.scenarios),
            "mutation": self.mutation,
            "extra_faults": self.extra_faults,
            "done": [list(each) for each in self.done.ranges],
            "tally": self.tally.to_json(),
        }


class Ledger:
    """The entries of one file."""

    def __init__(self, path: Path) -> None:
        """Read the file; one that does not exist is empty.

        Raises:
            LedgerError: it cannot be read, or is none of ours.
        """
        self._path = path
        self._seen = _stamp(path)
        self._entries = _read(path) if self._seen is not None else []

    def entry(self, wanted: Entry) -> Entry:
        """Return the entry that was begun with the same program and plan, else `wanted` itself."""
        found = next((e for e in self._entries if _key(e) == _key(wanted)), wanted)
        # What is continued moves to the end; the oldest are dropped from the beginning.
        self._entries = [e for e in self._entries if e is not found]
        self._entries = [*self._entries, found][-ENTRIES_MAX:]
        return found

    def save(self) -> None:
        """Replace the file by what is known now.

        Raises:
            LedgerError: it cannot be written, or another run has changed it.
        """
        if _stamp(self._path) != self._seen:
            raise LedgerError(
                f"{self._path}: changed by another run meanwhile; nothing was written "
                "(give every run at the same time a file of its own)"
            )
        data = {"format": FORMAT, "entries": [e.to_json() for e in self._entries]}
        try:
            replace_file(self._path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise LedgerError(f"{self._path}: {error.strerror}") from error
        self._seen = _stamp(self._path)


def replace_file(path: Path, text: str) -> None:
    """Write a file so that every reader finds the old text or the new one, whole."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # The temporary file is for its owner only; the result has the usual mode.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _key(entry: Entry) -> tuple[object, ...]:
    return (entry.engine, entry.scenarios, entry.mutation, entry.extra_faults)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from error
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _read(path: Path) -> list[Entry]:
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from error
    try:
        if len(raw) > BYTES_MAX:
            raise ValueError(f"more than {BYTES_MAX >> 20} MiB")
        data = json.loads(raw)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f'no object with "format": {FORMAT}')
        entries = data.get("entries")
        if not isinstance(entries, list):
            raise ValueError("entries is no list")
        return [_entry(each) for each in entries]
    except RecursionError:
        raise _not_ours(path, "nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _not_ours(f"{path}, line {error.lineno}", error.msg) from None
    except (ValueError, TypeError) as error:
        raise _not_ours(path, str(error)) from None


def _not_ours(where: object, why: str) -> LedgerError:
    return LedgerError(
        f"{where}: not the tally of a swarm: {why} (it was left alone; name another file, "
        "or move this one away to begin anew)"
    )


def _entry(data: object) -> Entry:
    if not isinstance(data, dict):
        raise ValueError("an entry is no mapping")
    engine, scenarios, mutation = data.get("engine"), data.get("scenarios"), data.get("mutation")
    extra_faults, done = data.get("extra_faults"), data.get("done")
    if not isinstance(engine, str) or not isinstance(scenarios, list) or not isinstance(done, list):
        raise ValueError("an entry without engine, scenarios or done")
    if not (mutation is None or isinstance(mutation, str)) or not isinstance(extra_faults, bool):
        raise ValueError("an entry without mutation or extra_faults")
    ranges = []
    for each in done:
        begin, end = each
        if not isinstance(begin, int) or not isinstance(end, int) or begin < 0:
            raise ValueError("a range of seeds without two whole numbers")
        ranges.append((begin, end))
    return Entry(
        engine,
        tuple(str(name) for name in scenarios),
        mutation,
        extra_faults,
        SeedSet(ranges),
        tally_from_json(data.get("tally")),
    )
