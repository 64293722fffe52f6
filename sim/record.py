"""The durable record of one simulated node: production's slots on a simulated disk.

In: states to be made durable. Out: calls when they are, or when they cannot be; what is found at a
start. Which slot is written and which one is the newest is decided by `metako.wire.slots`, as in
the real agent; the invariants are those of `metako.runtime.store`, and both pass one contract
(`tests/driver/test_record_contract.py`). The lock is not modelled: a host starts one agent at a
time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from metako.model.durable import HardState
from metako.model.errors import StateError
from metako.model.ids import NodeId
from metako.wire.slots import SLOT_BYTES, SLOTS, CorruptRecord, Loaded, RecordSlots, SlotWrite
from sim.disk import SimDisk
from sim.heap import Heap

if TYPE_CHECKING:
    from metako.ports import RecordStore

__all__ = ["RECORD_NAME", "CorruptRecord", "Loaded", "SimRecordStore"]

RECORD_NAME = "hard-state"

Persisted = Callable[[Exception | None], object]


class SimRecordStore:
    """The record of one node, open for one life of its agent. Call `load` first, once."""

    def __init__(
        self, heap: Heap, disk: SimDisk, node_id: NodeId, *, name: str = RECORD_NAME
    ) -> None:
        self._heap = heap
        self._disk = disk
        self._name = name
        self._where = f"{node_id}/{name}"
        self._slots = RecordSlots(node_id, self._where)
        self._there = False  # the file is one that goes on; otherwise the next write makes one
        self._open = False
        self._busy = False  # a persist is under way
        self._failed = ""  # why nothing more is written; "" while all is well

    @property
    def durable(self) -> HardState | None:
        """Return what was made durable last; None if nothing (readable) was."""
        return self._slots.durable

    def load(self) -> Loaded:
        """Open the record and return what was found.

        Raises:
            StateError: it belongs to another node, a newer version wrote it, or the disk refuses.
        """
        assert not self._open, "opened twice"
        loaded = Loaded(None)
        if self._disk.exists(self._name):
            raw = [
                self._disk.read(self._name, index * SLOT_BYTES, SLOT_BYTES)
                for index in range(SLOTS)
            ]
            loaded = self._slots.load(raw)
            self._there = not isinstance(loaded.record, CorruptRecord)
        if (again := self._slots.again()) is not None:
            try:
                self._put(again)
                self._disk.sync_now(self._name)
            except OSError as error:
                raise self._fail(error) from error
        self._open = True
        return loaded

    def write(self, state: HardState) -> None:
        """Make the record durable, in no time.

        Raises:
            StateError: the disk refused. The record may or may not be there; nothing that
                depends on it may be done, and every later write raises too.
            AssertionError: the record would go back, or is another node's; nothing was written.
        """
        if self._failed:
            raise self._error()
        write = self._prepare(state)
        if write is None:
            return
        try:
            self._put(write)
            self._disk.sync_now(self._name)
        except OSError as error:
            raise self._fail(error) from error
        self._slots.written(write)
        self._there = True

    def persist(self, state: HardState, done: Persisted) -> None:
        """Make the record durable and call `done` when it is, or with the StateError of `write`.

        `done` is never called from within. It is called although the agent has died meanwhile,
        because the kernel goes on; after a power loss it is not.

        Raises:
            AssertionError: as `write`, or the call before has not ended.
        """
        if self._failed:
            self._heap.after(0, done, self._error())
            return
        write = self._prepare(state)
        if write is None:
            self._heap.after(0, done, None)
            return
        try:
            self._put(write)
        except OSError as error:
            self._heap.after(0, done, self._fail(error))
            return
        self._busy = True
        self._disk.sync(self._name, partial(self._synced, write, done))

    def close(self) -> None:
        """Write nothing more. Does nothing the second time."""
        self._open = False

    def _prepare(self, state: HardState) -> SlotWrite | None:
        assert self._open, "the store is closed"
        assert not self._busy, "two writers of one record"
        return self._slots.prepare(state)

    def _put(self, write: SlotWrite) -> None:
        if self._there:
            self._disk.write(self._name, write.offset, write.data)
        else:
            self._disk.create(self._name, SLOT_BYTES * SLOTS, write.offset, write.data)

    def _synced(self, write: SlotWrite, done: Persisted, error: OSError | None) -> None:
        self._busy = False
        if error is not None:
            done(self._fail(error))
            return
        self._slots.written(write)
        self._there = True
        done(None)

    def _fail(self, error: OSError) -> StateError:
        self._failed = f"cannot write the durable record: {error.strerror}"
        return self._error()

    def _error(self) -> StateError:
        return StateError(f"{self._where}: {self._failed}")


if TYPE_CHECKING:
    # Checked by mypy alone: at run time `metako.ports` would bring trio into the simulator.
    _CONTRACT: type[RecordStore] = SimRecordStore
