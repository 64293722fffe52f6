"""The two slots of a durable record: what is written where, and which one holds the newest.

    slot: magic | format | sequence | length | CRC-32 of all else | payload (msgpack)

In: the bytes of the slots as they were read, and states to be made durable. Out: the newest record
that is whole, and the bytes of the next slot. Whoever holds the file (`metako.runtime.store`, or a
model of a disk) reads and writes; nothing here does.

A write replaces the slot that does *not* hold the newest record, so a write that is cut short
(power, kill) leaves the one before it, and nothing that depended on the new one was sent.

Invariants: sequence numbers grow by one; a record never goes back.

What it cannot tell apart: a newest slot that was cut short, and one that rotted later. It uses the
older one and says so in `Loaded.note`; whoever votes on it must hold in full first, as after any
restart. It deliberately does not know what a record means, nor what to do without one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from metako.model.durable import HardState, assert_not_older
from metako.model.errors import StateError
from metako.model.ids import NodeId
from metako.wire.codec import decode_hard_state, encode_hard_state
from metako.wire.errors import WireError

SLOT_BYTES = 64 << 10
SLOTS = 2
FORMAT = 1

_MAGIC = b"metakoHS"
_HEADER = struct.Struct("!8sHQII")
_CRC = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class CorruptRecord:
    """There was a record and no slot of it is whole: what this node promised is unknown.

    The file is left as it is until something is written to the store.
    """

    where: str  # names the record to an operator: its path
    detail: str  # what is wrong with each slot

    def error(self) -> StateError:
        """Return the error for an operator, for a caller that will not go on without."""
        return StateError(
            f"{self.where}: the durable record is unreadable ({self.detail}); "
            "move it away, start the agent, and let a member admit this node again with "
            "`metako members add`"
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found at opening."""

    record: HardState | CorruptRecord | None  # None: no file, so there never was a record
    note: str = ""  # what an operator should know; "" when all is well


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that is whole."""

    index: int
    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class SlotWrite:
    """One write that makes a state durable: `data` at `offset`, then an fsync."""

    state: HardState
    index: int
    sequence: int
    data: bytes

    @property
    def offset(self) -> int:
        return self.index * SLOT_BYTES


class RecordSlots:
    """What is known of the slots of one node's record while it is open."""

    def __init__(self, node_id: NodeId, where: str) -> None:
        self._node_id = node_id
        self._where = where
        self._index = SLOTS - 1  # of the newest record
        self._sequence = 0  # of the newest record; 0 until there is one
        self._read: bytes | None = None  # payload of the newest record at `load`
        self.durable: HardState | None = None  # the newest record; None until there is one

    def load(self, raw: Sequence[bytes]) -> Loaded:
        """Take the newest record from the bytes of all slots, and return what was found.

        After a CorruptRecord the next write has to make a new file, so that the old one never
        mixes with a new history.

        Raises:
            StateError: the record is another node's, or a newer version wrote it.
        """
        whole: list[Slot] = []
        faults: list[str] = []
        for index, data in enumerate(raw):
            slot = decode_slot(index, data, self._where)
            if isinstance(slot, Slot):
                whole.append(slot)
            else:
                faults.append(f"slot {index}: {slot}")
        newest = newest_slot(whole)
        if newest is None:
            return Loaded(CorruptRecord(self._where, "; ".join(faults) or "no order"))
        state = _decode(newest.payload, self._where)
        if state.node_id != self._node_id:
            raise StateError(
                f"{self._where}: belongs to node {state.node_id!r}, this is {self._node_id!r}; "
                "give each node a state directory of its own"
            )
        self._index, self._sequence, self.durable = newest.index, newest.sequence, state
        self._read = newest.payload
        if newest.sequence == 1 and not any(raw[1 - newest.index]):
            faults.clear()  # blank until the second write
        note = f"{faults[0]}; the other one is used" if faults else ""
        return Loaded(state, note)

    def again(self) -> SlotWrite | None:
        """Return the write that puts what `load` took where it is; None if that was nothing.

        To be done, with an fsync, before anything else is written: after a failed fsync the kernel
        may show a record that is not on the disk, and would call the next fsync a success. The next
        write takes the place of the record before it, which is perhaps the only durable one.
        """
        if self.durable is None or self._read is None:
            return None
        # The same bytes, so that a write that is cut short changes nothing.
        data = encode_slot(self._sequence, self._read)
        return SlotWrite(self.durable, self._index, self._sequence, data)

    def prepare(self, state: HardState) -> SlotWrite | None:
        """Return the write that makes a state durable; None if it is durable already.

        Raises:
            AssertionError: the record would go back, or is another node's.
        """
        assert state.node_id == self._node_id, state.node_id
        if state == self.durable:
            return None
        if self.durable is not None:
            assert_not_older(self.durable, state)
        sequence = self._sequence + 1
        data = encode_slot(sequence, encode_hard_state(state))
        return SlotWrite(state, (self._index + 1) % SLOTS, sequence, data)

    def written(self, write: SlotWrite) -> None:
        """The write that `prepare` returned last is durable."""
        assert write.sequence == self._sequence + 1, (write.sequence, self._sequence)
        self._index, self._sequence, self.durable = write.index, write.sequence, write.state


def encode_slot(sequence: int, payload: bytes) -> bytes:
    """Return the bytes of a slot, without the padding after them."""
    data = _HEADER.pack(_MAGIC, FORMAT, sequence, len(payload), 0)[: -_CRC.size]
    result = data + _CRC.pack(zlib.crc32(payload, zlib.crc32(data))) + payload
    assert len(result) <= SLOT_BYTES, len(result)
    return result


def decode_slot(index: int, data: bytes, where: str) -> Slot | str:
    """Return a slot if it is whole, else what is wrong with it.

    Args:
        index: which slot it is.
        data: what was read from its place.
        where: names the record in an error's text.

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
        raise StateError(f"{where}: has format {version}, this metako knows {FORMAT}; upgrade it")
    return Slot(index, sequence, payload)


def newest_slot(whole: Sequence[Slot]) -> Slot | None:
    """Return the newest of the slots that are whole; None if there is none, or no order."""
    if not whole or len({slot.sequence for slot in whole}) != len(whole):
        return None
    return max(whole, key=lambda slot: slot.sequence)


def _decode(payload: bytes, where: str) -> HardState:
    try:
        return decode_hard_state(payload)
    except WireError as error:
        # The checksum is right, so this is what was written: an older slot would be a step back.
        raise StateError(f"{where}: was written by another version of metako: {error}") from error
