"""The lock by which a worker is found: a locked file with its record; see `process`.

One file says who takes connections under a number. A worker that hands over to another locks a
file of its own before it lets go of that, so that it is found while it still drains.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

import trio

from metako.proxy.outside import lock_path, old_lock_path

LOCK_TIMEOUT_S = 1.0
LOCK_POLL_S = 0.05


class WorkerLock:
    """Held from `take` until `close`, but for what is said of the methods."""

    def __init__(self, control: Path, index: int, descriptor: int) -> None:
        self._old = old_lock_path(control, index, os.getpid())
        self._descriptor = descriptor
        self._old_descriptor = -1  # while it is held
        self._record = b""

    @classmethod
    async def take(cls, control: Path, index: int) -> WorkerLock | None:
        """Return the lock of a worker that takes connections, None if somebody else keeps it.

        Tried for a moment: a launcher that looks whether there is a worker takes the lock for it.
        """
        descriptor = _open(lock_path(control, index))
        try:
            with trio.move_on_after(LOCK_TIMEOUT_S):
                while not _try_lock(descriptor):  # noqa: ASYNC110 - it belongs to another process
                    await trio.sleep(LOCK_POLL_S)
                return cls(control, index, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def announce(self, record: Mapping[str, object]) -> None:
        """Write who holds the lock."""
        self._record = json.dumps(record).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, self._record, 0)

    def lend(self) -> None:
        """Let another worker have the lock, and be found by a file of our own from now on.

        Raises `OSError`; nothing changed then.
        """
        descriptor = _open(self._old)
        _try_lock(descriptor)
        os.pwrite(descriptor, self._record, 0)
        self._old_descriptor = descriptor
        self.release()

    def take_back(self) -> bool:
        """Take the lock again if nobody has it, and give up the file of our own; else False."""
        if not _try_lock(self._descriptor):
            return False
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, self._record, 0)
        self._forget_old()
        return True

    def release(self) -> None:
        """Take no connections any more."""
        os.ftruncate(self._descriptor, 0)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        self._forget_old()
        os.close(self._descriptor)

    def _forget_old(self) -> None:
        if self._old_descriptor != -1:
            with contextlib.suppress(OSError):
                self._old.unlink()
            os.close(self._old_descriptor)
            self._old_descriptor = -1


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
