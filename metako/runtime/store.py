"""The durable record of one node on disk: two slots in one file, written in turn.

    slot: magic | format | sequence | length | CRC-32 of all else | payload (msgpack)

Input: a HardState to be made durable. Output: the newest one that is whole, when the store is
opened. A write replaces the slot that does *not* hold the newest record, so a write that is cut
short (power, kill) leaves the one before it, and nothing that depended on the new one was sent.

Invariants: the file never exists without a record in it (it is made aside, filled and renamed); a
record never goes back; when `write` returns, the record is on the disk; after a failed write
nothing more is written, because the kernel may have dropped the pages and would call a second
fsync of them a success.

What it cannot tell apart: a newest slot that was cut short, and one that rotted later. It uses the
older one and says so in `Loaded.note`; whoever votes on it must hold in full first, as after any
restart. It deliberately does not know what a record means, nor what to do without one.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import trio

from metako.model.durable import HardState
from metako.model.errors import StateError
from metako.model.ids import NodeId
from metako.wire.codec import decode_hard_state, encode_hard_state
from metako.wire.errors import WireError

SLOT_BYTES = 64 << 10
SLOTS = 2
FORMAT = 1
LOCK_SUFFIX = ".lock"

_MAGIC = b"metakoHS"
_HEADER = struct.Struct("!8sHQII")
_CRC = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class CorruptRecord:
    """There was a record and no slot of it is whole: what this node promised is unknown.

    The file is left as it is until something is written to the store.
    """

    path: Path
    detail: str  # what is wrong with each slot

    def error(self) -> StateError:
        """Return the error for an operator, for a caller that will not go on without."""
        return StateError(
            f"{self.path}: the durable record is unreadable ({self.detail}); "
            "this node cannot vote until the cluster admits it again"
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found at opening."""

    record: HardState | CorruptRecord | None  # None: no file, so there never was a record
    note: str = ""  # what an operator should know; "" when all is well


@dataclass(frozen=True, slots=True)
class _Slot:
    """A slot that is whole."""

    index: int
    sequence: int
    payload: bytes


class HardStateStore:
    """The open record of one node; locked against other agents until `close`."""

    def __init__(self, path: Path, node_id: NodeId, lock_fd: int) -> None:
        self._path = path
        self._node_id = node_id
        self._lock_fd = lock_fd
        self._fd = -1  # of the record; -1 until there is one
        self._slot = SLOTS - 1  # index of the newest record
        self._sequence = 0  # of the newest record; 0 until there is one
        self._durable: HardState | None = None  # the newest record; None until there is one
        self._failed = ""  # why nothing more is written; "" while all is well
        self._limiter = trio.CapacityLimiter(1)  # never queue behind other users of threads

    @property
    def durable(self) -> HardState | None:
        """Return what is on the disk; None if nothing (readable) is."""
        return self._durable

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
        assert state.node_id == self._node_id, state.node_id
        if state == self._durable:
            return
        if self._durable is not None:
            assert_not_older(self._durable, state)
        slot = (self._slot + 1) % SLOTS
        data = encode_slot(self._sequence + 1, encode_hard_state(state))
        try:
            if self._fd < 0:
                self._fd = _create(self._path, slot, data)
            else:
                _write_all(self._fd, data, slot * SLOT_BYTES)
                os.fdatasync(self._fd)
        except OSError as error:
            self._failed = f"cannot write the durable record: {error.strerror}"
            raise StateError(f"{self._path}: {self._failed}") from error
        self._slot, self._sequence, self._durable = slot, self._sequence + 1, state

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
        whole: list[_Slot] = []
        faults: list[str] = []
        for index, data in enumerate(raw):
            slot = decode_slot(index, data, self._path)
            if isinstance(slot, _Slot):
                whole.append(slot)
            else:
                faults.append(f"slot {index}: {slot}")
        if not whole or len({slot.sequence for slot in whole}) != len(whole):
            # The next write makes a new file, so that this one never mixes with a new history.
            os.close(self._fd)
            self._fd = -1
            return Loaded(CorruptRecord(self._path, "; ".join(faults) or "no order"))
        newest = max(whole, key=lambda slot: slot.sequence)
        state = _decode(newest.payload, self._path)
        if state.node_id != self._node_id:
            raise StateError(
                f"{self._path}: belongs to node {state.node_id!r}, this is {self._node_id!r}; "
                "give each node a state directory of its own"
            )
        self._slot, self._sequence, self._durable = newest.index, newest.sequence, state
        if newest.sequence == 1 and not any(raw[1 - newest.index]):
            faults.clear()  # blank until the second write
        note = f"{faults[0]}; the other one is used" if faults else ""
        return Loaded(state, note)


def open_store(path: Path, node_id: NodeId) -> tuple[HardStateStore, Loaded]:
    """Open and lock the record of a node, and return it with what was found.

    The directory must exist. Nothing is written to the record itself.

    Raises:
        StateError: another agent has it, it belongs to another node, a newer version wrote it, or
            it cannot be read. Nothing stays open.
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


def encode_slot(sequence: int, payload: bytes) -> bytes:
    """Return the bytes of a slot, without the padding after them."""
    data = _HEADER.pack(_MAGIC, FORMAT, sequence, len(payload), 0)[: -_CRC.size]
    result = data + _CRC.pack(zlib.crc32(payload, zlib.crc32(data))) + payload
    assert len(result) <= SLOT_BYTES, len(result)
    return result


def decode_slot(index: int, data: bytes, path: Path) -> _Slot | str:
    """Return a slot if it is whole, else what is wrong with it.

    Raises:
        StateError: it is whole, and of a format that this program does not know.
    """
    if not any(data):
        return "blank"
    if len(data) < _HEADER.size:
        return "cut short"
    magic, version, sequence, length, crc = _HEADER.unpack_from(data)
    payload = data[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC:
        return "not a record"
    if len(payload) != length:
        return "cut short"
    if zlib.crc32(payload, zlib.crc32(data[: _HEADER.size - _CRC.size])) != crc:
        return "wrong checksum"
    if version != FORMAT:
        raise StateError(f"{path}: has format {version}, this metako knows {FORMAT}; upgrade it")
    return _Slot(index, sequence, payload)


def assert_not_older(old: HardState, new: HardState) -> None:
    """Check that nothing which was promised is taken back.

    Raises:
        AssertionError: some field of `new` is behind that of `old`.
    """
    assert new.boot_epoch >= old.boot_epoch, (old.boot_epoch, new.boot_epoch)
    assert new.term >= old.term, (old.term, new.term)
    assert new.promised_term >= old.promised_term, (old.promised_term, new.promised_term)
    assert new.released_term >= old.released_term, (old.released_term, new.released_term)
    assert new.max_hold_ms >= old.max_hold_ms, (old.max_hold_ms, new.max_hold_ms)
    assert new.document_ref >= old.document_ref, (old.document_ref, new.document_ref)
    if new.term == old.term and old.voted_for is not None:
        assert new.voted_for == old.voted_for, (old.voted_for, new.voted_for)


def _decode(payload: bytes, path: Path) -> HardState:
    try:
        return decode_hard_state(payload)
    except WireError as error:
        # The checksum is right, so this is what was written: an older slot would be a step back.
        raise StateError(f"{path}: was written by another version of metako: {error}") from error


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


def _create(path: Path, slot: int, data: bytes) -> int:
    """Make the file with its first record, durably, and return its descriptor."""
    aside = path.with_name(path.name + ".new")
    fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # Every block is allocated now: later writes cannot meet a full disk.
        _write_all(fd, bytes(SLOT_BYTES * SLOTS), 0)
        _write_all(fd, data, slot * SLOT_BYTES)
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
