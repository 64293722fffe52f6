"""The durable record of one node on disk: two slots in one file, written in turn.

Input: a HardState to be made durable. Output: the newest one that is whole, when the store is
opened. What is written where, and which slot is the newest, is `metako.wire.slots`; here are the
file, its lock and the thread that waits for the disk.

Invariants: the file never exists without a record in it (it is made aside, filled and renamed); a
record never goes back; when `write` returns, the record is on the disk; after a failed write
nothing more is written, because the kernel may have dropped the pages and would call a second
fsync of them a success; for the same reason what is read at opening is written again first.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import trio

from metako.model.durable import HardState
from metako.model.errors import StateError
from metako.model.ids import NodeId
from metako.ports import RecordStore
from metako.wire.slots import SLOT_BYTES, SLOTS, CorruptRecord, Loaded, RecordSlots

LOCK_SUFFIX = ".lock"


class HardStateStore(RecordStore):
    """The open record of one node; locked against other agents until `close`."""

    def __init__(self, path: Path, node_id: NodeId, lock_fd: int) -> None:
        self._path = path
        self._lock_fd = lock_fd
        self._fd = -1  # of the record; -1 until there is one
        self._slots = RecordSlots(node_id, str(path))
        self._failed = ""  # why nothing more is written; "" while all is well
        self._limiter = trio.CapacityLimiter(1)  # never queue behind other users of threads

    @property
    def durable(self) -> HardState | None:
        """Return what is on the disk; None if nothing (readable) is."""
        return self._slots.durable

    def write(self, state: HardState) -> None:
        """Make the record durable. Blocks for as long as the disk takes.

        Raises:
            StateError: the disk refused. The record may or may not be there; nothing that
                depends on it may be done, and every later write raises too.
            AssertionError: the record would go back, or is another node's; nothing was written.
        """
        if self._failed:
            raise StateError(f"{self._path}: {self._failed}")
        assert self._lock_fd >= 0, "the store is closed"
        write = self._slots.prepare(state)
        if write is None:
            return
        try:
            if self._fd < 0:
                self._fd = _create(self._path, write.offset, write.data)
            else:
                _write_all(self._fd, write.data, write.offset)
                os.fdatasync(self._fd)
        except OSError as error:
            self._failed = f"cannot write the durable record: {error.strerror}"
            raise StateError(f"{self._path}: {self._failed}") from error
        self._slots.written(write)

    async def persist(self, state: HardState) -> None:
        """Make the record durable without blocking the event loop; one call at a time.

        If cancelled, this still returns only after the record is durable; the cancellation is
        delivered at the caller's next checkpoint.

        Raises:
            StateError, AssertionError: as `write`.
        """
        assert self._limiter.borrowed_tokens == 0, "two writers of one record"
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.write, state, limiter=self._limiter)

    def close(self) -> None:
        """Close the record and let another agent have it. Does nothing the second time."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _load(self) -> Loaded:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return Loaded(None)
        raw = [os.pread(self._fd, SLOT_BYTES, i * SLOT_BYTES) for i in range(SLOTS)]
        loaded = self._slots.load(raw)
        if isinstance(loaded.record, CorruptRecord):
            # The next write makes a new file, so that this one never mixes with a new history.
            os.close(self._fd)
            self._fd = -1
        elif (again := self._slots.again()) is not None:
            _write_all(self._fd, again.data, again.offset)
            os.fdatasync(self._fd)
        return loaded


def open_store(path: Path, node_id: NodeId) -> tuple[HardStateStore, Loaded]:
    """Open and lock the record of a node, and return it with what was found.

    The directory must exist. The newest record is made durable once more, as it is.

    Raises:
        StateError: another agent has it, it belongs to another node, a newer version wrote it, or
            it cannot be read or written. Nothing stays open.
    """
    try:
        store = HardStateStore(path, node_id, _lock(path))
        try:
            return store, store._load()
        except BaseException:
            store.close()
            raise
    except OSError as error:
        raise StateError(f"{path}: cannot open the durable record: {error.strerror}") from error


def _lock(path: Path) -> int:
    """Return the descriptor of the lock file, locked; the lock ends with the process.

    The lock is a file of its own, because the record's may be replaced.
    """
    lock_path = path.with_name(path.name + LOCK_SUFFIX)
    fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StateError(
            f"{path}: in use by another agent (pid {holder}); stop it first, or give this node "
            "a state directory of its own"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _create(path: Path, offset: int, data: bytes) -> int:
    """Make the file with its first record, durably, and return its descriptor."""
    aside = path.with_name(path.name + ".new")
    fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # Every block is allocated now: later writes cannot meet a full disk.
        _write_all(fd, bytes(SLOT_BYTES * SLOTS), 0)
        _write_all(fd, data, offset)
        os.fsync(fd)
        aside.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
