"""What was taken out of a server's way and is kept for people: diverged WAL, unused histories.

Each time makes a directory of its own, named by time and kind. Together they have a limit: the
oldest go first, for a limit of size or number and also when the disk has no room for the next one.
The one that is being made is never given up for a limit. If it cannot be made nothing is left of
it, and the caller must not throw away what was to be kept.

Blocking. Knows nothing of why something is taken out of the way.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from metako.postgres.history import is_segment, segment_number
from metako.postgres.osuser import OsUser, make_dir

KEPT_MAX = 200
"""How many directories are kept at most, whatever their size."""
RESERVE_BYTES = 64 << 20
"""So much of the disk stays free beside a new copy, as long as there is an older one to remove."""
_PAGE_HEADER = struct.Struct("=HHIQ")  # magic, info, timeline, address of the page


def fsync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Aside:
    """The directories of one node."""

    def __init__(
        self,
        directory: Path,
        user: OsUser,
        *,
        keep_bytes: int,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        """Describe the place.

        Args:
            keep_bytes: what all of it may take; a single one may be larger.
            free_bytes: tells the free space of the file system of a directory.
        """
        self.directory = directory
        self._user = user
        self._keep_bytes = keep_bytes
        self._free_bytes = free_bytes

    def save(self, kind: str, paths: Iterable[Path]) -> Path:
        """Copy files, durably, into a new directory, and return it.

        Raises:
            OSError: it did not fit, or the disk failed. Older copies may have been removed.
        """
        sources = list(paths)
        needed = sum(path.stat().st_size for path in sources)
        make_dir(self.directory, self._user)
        self._make_room(needed)
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = self.directory / f"{name}-{kind}-{secrets.token_hex(3)}"
        make_dir(target, self._user)
        try:
            for source in sources:
                shutil.copyfile(source, target / source.name)
                with open(target / source.name, "rb") as copied:
                    os.fsync(copied.fileno())
            fsync_dir(target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        fsync_dir(self.directory)
        return target

    def _make_room(self, needed: int) -> None:
        kept = sorted(path for path in self.directory.iterdir() if path.is_dir())
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in kept}
        total = sum(sizes.values())
        for path in kept:
            fits = total + needed <= self._keep_bytes and len(sizes) < KEPT_MAX
            if fits and self._free_bytes(self.directory) >= needed + RESERVE_BYTES:
                return
            shutil.rmtree(path)
            total -= sizes.pop(path)


def written_segments(wal: Path, first: int, segment_size: int) -> list[Path]:
    """Return the segments from number `first` on that hold WAL, of whatever timeline.

    PostgreSQL keeps segments ready under the names that come next: new ones are empty, recycled
    ones still hold what they held under their old name.
    """
    names = [name for name in os.listdir(wal) if is_segment(name)]
    found = []
    for name in sorted(names):
        number = segment_number(name, segment_size)
        if number >= first and _first_page(wal / name) == number * segment_size:
            found.append(wal / name)
    return found


def _first_page(path: Path) -> int | None:
    """Return the address that the first page of a segment gives itself; None if it is empty."""
    with path.open("rb") as segment:
        header = segment.read(_PAGE_HEADER.size)
    if len(header) < _PAGE_HEADER.size:
        return None
    magic, _, _, address = _PAGE_HEADER.unpack(header)
    return int(address) if magic else None
