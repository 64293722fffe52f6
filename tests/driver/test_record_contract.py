"""What any store of the durable record does: the agent's on a file, the simulator's on a model."""

import dataclasses
import errno
import os
import random

import pytest

from metako.model.durable import HardState
from metako.model.errors import StateError
from metako.model.ids import NodeId, Term
from metako.runtime.store import open_store
from metako.wire.codec import encode_hard_state
from metako.wire.slots import SLOT_BYTES, SLOTS, CorruptRecord, decode_slot, encode_slot
from sim.disk import SimDisk
from sim.heap import Heap
from sim.record import RECORD_NAME, SimRecordStore

N1 = NodeId("n1")
N2 = NodeId("n2")


def state(term, **changes):
    return HardState(N1, boot_epoch=1, term=Term(term), promised_term=Term(term), **changes)


class RealStores:
    """Stores of the agent in a temporary directory."""

    def __init__(self, tmp_path, monkeypatch):
        self.path = tmp_path / "hard-state"
        self.monkeypatch = monkeypatch

    def open(self, node=N1):
        return open_store(self.path, node)

    def image(self):
        return self.path.read_bytes() if self.path.exists() else None

    def put(self, image):
        self.path.write_bytes(image)

    def fail_syncs(self):
        def fail(*_):
            raise OSError(errno.EIO, "Input/output error")

        for name in ("fdatasync", "fsync"):
            self.monkeypatch.setattr(os, name, fail)

    def refuse_space(self):
        real, size = os.pwrite, self.path.stat().st_size if self.path.exists() else 0

        def full(fd, data, at):
            if at + len(data) > size:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data, at)

        self.monkeypatch.setattr(os, "pwrite", full)

    def mend(self):
        self.monkeypatch.undo()


class SimulatedStores:
    """Stores of the simulator on one disk."""

    def __init__(self):
        self.heap = Heap()
        self.disk = SimDisk(self.heap, random.Random(1))

    def open(self, node=N1):
        store = SimRecordStore(self.heap, self.disk, node)
        return store, store.load()

    def image(self):
        return self.disk.copy(RECORD_NAME)

    def put(self, image):
        self.disk.restore(RECORD_NAME, image)

    def fail_syncs(self):
        self.disk.failing = True

    def refuse_space(self):
        self.disk.full = True

    def mend(self):
        self.disk.failing = self.disk.full = False


@pytest.fixture(params=["real", "simulated"])
def stores(request, tmp_path, monkeypatch):
    return RealStores(tmp_path, monkeypatch) if request.param == "real" else SimulatedStores()


def write_all(stores, *states):
    store, _ = stores.open()
    for each in states:
        store.write(each)
    store.close()


def load(stores, node=N1):
    store, loaded = stores.open(node)
    store.close()
    return loaded


def damage(stores, *slots):
    image = bytearray(stores.image())
    for slot in slots:
        image[slot * SLOT_BYTES + 40] ^= 0xFF
    stores.put(bytes(image))


def sequences(stores):
    image = stores.image()
    found = []
    for index in range(SLOTS):
        slot = decode_slot(index, image[index * SLOT_BYTES : (index + 1) * SLOT_BYTES], "here")
        found.append(slot if isinstance(slot, str) else slot.sequence)
    return found


def test_what_is_read_is_made_durable_again_before_anything_else(stores):
    """After a failed fsync the kernel may show what is not on the disk."""
    write_all(stores, state(1), state(2))
    before = stores.image()
    stores.fail_syncs()
    with pytest.raises(StateError, match="Input/output error"):
        stores.open()
    stores.mend()
    assert load(stores).record == state(2)
    assert stores.image() == before


def test_without_a_record_there_never_was_one(stores):
    assert load(stores).record is None
    assert stores.image() is None


def test_writes_alternate_between_two_slots_of_a_file_of_fixed_size(stores):
    store, _ = stores.open()
    seen = []
    for term in (1, 2, 3):
        store.write(state(term))
        seen.append(sequences(stores))
        assert len(stores.image()) == SLOT_BYTES * SLOTS
    store.close()
    assert seen == [[1, "blank"], [1, 2], [3, 2]]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_newest_record_survives_a_reopening_without_a_remark(stores, count):
    for term in range(1, count + 1):
        write_all(stores, state(term))
    loaded = load(stores)
    assert (loaded.record, loaded.note) == (state(count), "")
    assert max(s for s in sequences(stores) if s != "blank") == count


def test_what_is_durable_is_what_was_loaded_or_written(stores):
    write_all(stores, state(1))
    store, _ = stores.open()
    assert store.durable == state(1)
    store.write(state(2))
    assert store.durable == state(2)
    store.close()


def test_the_same_record_is_not_written_twice(stores):
    write_all(stores, state(1))
    before = stores.image()
    write_all(stores, state(1), state(1))
    assert stores.image() == before


@pytest.mark.parametrize("writes", [2, 3])
def test_a_torn_newest_slot_leaves_the_older_one_with_a_note(stores, writes):
    write_all(stores, *(state(term) for term in range(1, writes + 1)))
    damage(stores, (writes - 1) % SLOTS)
    loaded = load(stores)
    assert loaded.record == state(writes - 1)
    assert loaded.note == f"slot {(writes - 1) % SLOTS}: wrong checksum; the other one is used"


def test_after_a_torn_slot_the_next_write_replaces_that_one(stores):
    write_all(stores, state(1), state(2), state(3))
    damage(stores, 0)
    write_all(stores, state(4))
    loaded = load(stores)
    assert (loaded.record, loaded.note) == (state(4), "")


def test_two_torn_slots_are_a_corrupt_record_and_never_a_new_node(stores):
    write_all(stores, state(1), state(2))
    damage(stores, 0, 1)
    record = load(stores).record
    assert isinstance(record, CorruptRecord)
    assert record.detail == "slot 0: wrong checksum; slot 1: wrong checksum"
    assert isinstance(record.error(), StateError)


def test_one_record_twice_has_no_newest(stores):
    write_all(stores, state(1), state(2))
    stores.put(stores.image()[:SLOT_BYTES] * 2)
    record = load(stores).record
    assert isinstance(record, CorruptRecord)
    assert record.detail == "no order"


def test_a_corrupt_record_is_replaced_by_a_new_file(stores):
    stores.put(b"garbage!" * (SLOT_BYTES * SLOTS // 8))
    write_all(stores, state(9))
    loaded = load(stores)
    assert (loaded.record, loaded.note) == (state(9), "")
    assert sequences(stores) == [1, "blank"]


def test_another_nodes_record_is_refused_and_left_alone(stores):
    write_all(stores, state(3))
    before = stores.image()
    with pytest.raises(StateError, match="belongs to node 'n1', this is 'n2'"):
        stores.open(N2)
    assert stores.image() == before


def test_another_nodes_state_is_never_written(stores):
    store, _ = stores.open()
    with pytest.raises(AssertionError):
        store.write(HardState(N2, 1))
    store.close()
    assert stores.image() is None


@pytest.mark.parametrize(
    "older",
    [
        {"boot_epoch": 1},
        {"term": Term(4)},
        {"promised_term": Term(4)},
        {"released_term": Term(1)},
        {"max_hold_ms": 1999},
        {"voted_for": None},
    ],
    ids=lambda older: next(iter(older)),
)
def test_nothing_promised_is_taken_back(stores, older):
    record = HardState(N1, 2, Term(5), N2, Term(5), Term(2), 2000)
    store, _ = stores.open()
    store.write(record)
    before = stores.image()
    with pytest.raises(AssertionError):
        store.write(dataclasses.replace(record, **older))
    assert store.durable == record
    store.close()
    assert stores.image() == before


def test_after_a_failed_sync_nothing_more_is_written(stores):
    store, _ = stores.open()
    store.write(state(1))
    stores.fail_syncs()
    with pytest.raises(StateError, match="cannot write the durable record: Input/output error"):
        store.write(state(2))
    stores.mend()
    after = stores.image()
    # The disk seems well again, and a later sync would say so; it must not be believed.
    with pytest.raises(StateError, match="Input/output error"):
        store.write(state(3))
    assert store.durable == state(1)
    assert stores.image() == after
    store.close()
    assert load(stores).record in (state(1), state(2))


def test_a_first_write_that_fails_leaves_no_record(stores):
    store, _ = stores.open()
    stores.fail_syncs()
    with pytest.raises(StateError):
        store.write(state(1))
    stores.mend()
    store.close()
    assert load(stores).record is None


def test_a_full_disk_refuses_the_first_record(stores):
    store, _ = stores.open()
    stores.refuse_space()
    with pytest.raises(StateError, match="No space left on device"):
        store.write(state(1))
    stores.mend()
    store.close()
    assert load(stores).record is None


def test_a_full_disk_does_not_stop_a_record_that_has_its_space(stores):
    write_all(stores, state(1))
    stores.refuse_space()
    write_all(stores, state(2), state(3))
    stores.mend()
    assert load(stores).record == state(3)


def test_a_record_of_a_later_format_is_refused_instead_of_an_older_slot_used(stores, monkeypatch):
    write_all(stores, state(1))
    with monkeypatch.context() as patch:
        patch.setattr("metako.wire.slots.FORMAT", 2)
        later = encode_slot(2, encode_hard_state(state(2)))
    image = bytearray(stores.image())
    image[SLOT_BYTES : SLOT_BYTES + len(later)] = later
    stores.put(bytes(image))
    with pytest.raises(StateError, match="has format 2, this metako knows 1"):
        stores.open()


def test_a_whole_slot_that_cannot_be_decoded_is_refused_instead_of_an_older_one_used(stores):
    write_all(stores, state(1))
    image = bytearray(stores.image())
    bad = encode_slot(2, b"\x80")
    image[SLOT_BYTES : SLOT_BYTES + len(bad)] = bad
    stores.put(bytes(image))
    with pytest.raises(StateError, match="another version"):
        stores.open()


def test_a_closed_store_writes_nothing(stores):
    store, _ = stores.open()
    store.write(state(1))
    store.close()
    store.close()
    before = stores.image()
    with pytest.raises(AssertionError):
        store.write(state(2))
    assert stores.image() == before
