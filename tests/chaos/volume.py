"""The file system of one node: a small image, mounted through a loop device, that can be full.

In: a directory and a size. Out: the mounted directory; a ballast that takes all the room there is.
Invariant: `unmount` leaves no mount and no image, also if processes still hold files open.
"""

from __future__ import annotations

import os
from pathlib import Path

from chaos.tools import run, tool

MIB = 1 << 20


class Volume:
    """One node's file system."""

    def __init__(self, directory: Path, size_mib: int) -> None:
        self.directory = directory
        self.filled_for: set[str] = set()  # whoever wants it to be full
        self._image = directory.with_suffix(".img")
        self._ballast = directory / "ballast"
        self._size_mib = size_mib

    def mount(self) -> None:
        """Make the image and mount it.

        Raises:
            LabError: it could not be made; nothing is mounted.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as image:
            image.truncate(self._size_mib * MIB)
        # No reserve for root: full means full for every user.
        run([tool("mkfs.ext4"), "-q", "-m", "0", str(self._image)])
        run([tool("mount"), "-o", "loop", str(self._image), str(self.directory)])

    def fill(self, why: str, *, full: bool) -> None:
        """Take all the room that is left, or give it back once nobody wants it taken."""
        if full:
            if not self.filled_for:
                self._take_all()
            self.filled_for.add(why)
            return
        self.filled_for.discard(why)
        if not self.filled_for:
            self._ballast.unlink(missing_ok=True)

    def _take_all(self) -> None:
        state = os.statvfs(self.directory)
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size = state.f_bavail * state.f_frsize
            # The map of a large file needs blocks itself, and PostgreSQL takes some meanwhile.
            while size >= state.f_frsize:
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, size)
                except OSError:
                    size //= 2
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Unmount and remove the image, whoever still has files open there."""
        if os.path.ismount(self.directory):
            run([tool("umount"), "--lazy", str(self.directory)])
        self._image.unlink(missing_ok=True)
