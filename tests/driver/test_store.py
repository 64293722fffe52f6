"""The durable record: what survives which damage, and what is never taken back."""

import dataclasses
import errno
import os
import subprocess
import sys
import threading

import pytest
import trio

from metako.model.document import NO_DOCUMENT
from metako.model.durable import HardState, assert_not_older
from metako.model.errors import StateError
from metako.model.ids import NodeId, RecordId, Term
from metako.runtime.store import open_store
from metako.wire import slots as store_module
from metako.wire.codec import encode_hard_state
from metako.wire.slots import SLOT_BYTES, SLOTS, CorruptRecord, encode_slot

N1 = NodeId("n1")


def state(term, **changes):
    return HardState(N1, boot_epoch=1, term=Term(term), promised_term=Term(term), **changes)


def write_all(path, *states):
    store, _ = open_store(path, N1)
    for each in states:
        store.write(each)
    store.close()


def load(path, node=N1):
    store, loaded = open_store(path, node)
    store.close()
    return loaded


def size_of_slot(record):
    return len(encode_slot(1, encode_hard_state(record)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hard-state"


def test_without_a_file_there_never_was_a_record(path):
    assert load(path).record is None
    assert not path.exists()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_newest_record_is_loaded_without_a_remark(path, count):
    write_all(path, *(state(i) for i in range(1, count + 1)))
    loaded = load(path)
    assert (loaded.record, loaded.note) == (state(count), "")


def test_a_reopened_store_goes_on_in_order(path):
    for i in range(1, 8):
        write_all(path, state(i))
    assert load(path).record == state(7)


def test_the_same_record_is_not_written_twice(path):
    write_all(path, state(1))
    before = path.read_bytes()
    write_all(path, state(1), state(1))
    assert path.read_bytes() == before


@pytest.mark.parametrize("writes", [2, 3])
def test_any_corrupt_byte_of_the_newest_slot_falls_back_to_the_older(path, writes):
    write_all(path, *(state(i) for i in range(1, writes + 1)))
    good = path.read_bytes()
    start = (writes - 1) % SLOTS * SLOT_BYTES
    for position in range(start, start + size_of_slot(state(writes))):
        for flip in (0x01, 0xFF):
            bad = bytearray(good)
            bad[position] ^= flip
            path.write_bytes(bad)
            loaded = load(path)
            assert loaded.record == state(writes - 1)
            assert "the other one is used" in loaded.note


@pytest.mark.parametrize("filler", [b"\x00", b"\xff"])
def test_a_write_torn_at_any_byte_leaves_the_record_before_it(path, filler):
    write_all(path, state(1), state(2))
    before = path.read_bytes()
    write_all(path, state(3))
    after = path.read_bytes()
    for cut in range(size_of_slot(state(3))):
        old = (
            before[cut:] if filler == b"\x00" else filler * (SLOT_BYTES - cut) + before[SLOT_BYTES:]
        )
        path.write_bytes(after[:cut] + old)
        assert load(path).record == state(2)


def test_after_a_torn_write_the_whole_slot_is_kept_and_the_torn_one_replaced(path):
    write_all(path, state(1), state(2), state(3))
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 0xFF
    path.write_bytes(damaged)
    write_all(path, state(4))
    loaded = load(path)
    assert (loaded.record, loaded.note) == (state(4), "")


def test_a_blank_newest_slot_is_noticed(path):
    write_all(path, *(state(i) for i in range(1, 5)))
    data = path.read_bytes()
    path.write_bytes(data[:SLOT_BYTES] + bytes(SLOT_BYTES))
    loaded = load(path)
    assert loaded.record == state(3)
    assert loaded.note


def corrupt_files(good):
    both = bytearray(good)
    both[40] ^= 0xFF
    both[SLOT_BYTES + 40] ^= 0xFF
    return {
        "empty": b"",
        "blank": bytes(SLOT_BYTES * SLOTS),
        "both slots": bytes(both),
        "text": b"not a record\n" * 20_000,
        "a few bytes": good[:20],
        "one record twice": good[:SLOT_BYTES] * 2,
    }


@pytest.mark.parametrize("damage", list(corrupt_files(bytearray(SLOT_BYTES * SLOTS))))
def test_a_file_without_a_whole_slot_is_a_corrupt_record_never_a_new_node(path, damage):
    write_all(path, state(1), state(2))
    path.write_bytes(corrupt_files(path.read_bytes())[damage])
    record = load(path).record
    assert isinstance(record, CorruptRecord)
    assert isinstance(record.error(), StateError)


def test_a_corrupt_record_can_be_replaced_once_the_caller_knows_what_to_write(path):
    path.write_bytes(b"garbage" * 1000)
    write_all(path, state(9))
    loaded = load(path)
    assert (loaded.record, loaded.note) == (state(9), "")


def test_another_nodes_record_is_refused_and_left_alone(path):
    write_all(path, state(3))
    before = path.read_bytes()
    with pytest.raises(StateError, match="belongs to node 'n1'"):
        open_store(path, NodeId("n2"))
    assert path.read_bytes() == before
    assert load(path).record == state(3)


def test_a_record_of_a_later_format_is_refused_instead_of_an_older_slot_used(path, monkeypatch):
    write_all(path, state(1))
    monkeypatch.setattr(store_module, "FORMAT", 2)
    write_slot = encode_slot(2, encode_hard_state(state(2)))
    monkeypatch.undo()
    with path.open("r+b") as file:
        file.seek(SLOT_BYTES)
        file.write(write_slot)
    with pytest.raises(StateError, match="format 2"):
        open_store(path, N1)


def test_a_whole_slot_that_cannot_be_decoded_is_refused_instead_of_an_older_one_used(path):
    write_all(path, state(1))
    with path.open("r+b") as file:
        file.seek(SLOT_BYTES)
        file.write(encode_slot(2, b"\x80"))
    with pytest.raises(StateError, match="another version"):
        open_store(path, N1)


@pytest.mark.slow
def test_a_second_agent_is_refused_and_told_who_has_the_record(path):
    store, _ = open_store(path, N1)
    program = (
        "import sys, pathlib; from metako.runtime.store import open_store\n"
        "try: open_store(pathlib.Path(sys.argv[1]), 'n1')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    for expected in (f"pid {os.getpid()}", ""):
        result = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert expected in result.stdout
        assert result.stdout.startswith("StateError") == bool(expected)
        store.close()


def test_a_missing_directory_is_one_clear_error(tmp_path):
    with pytest.raises(StateError, match="cannot open"):
        open_store(tmp_path / "missing" / "hard-state", N1)


OLDER = {
    "boot_epoch": {"boot_epoch": 1},
    "term": {"term": Term(4)},
    "promised_term": {"promised_term": Term(4)},
    "released_term": {"released_term": Term(1)},
    "max_hold_ms": {"max_hold_ms": 1999},
    "asked": {"asked": False},
    "record_id": {"record_id": RecordId("another")},
    "voted_for": {"voted_for": NodeId("n3")},
    "vote withdrawn": {"voted_for": None},
}


@pytest.mark.parametrize("field", OLDER)
def test_nothing_promised_is_taken_back(path, field):
    record = HardState(N1, 2, Term(5), NodeId("n2"), Term(5), Term(2), 2000, asked=True)
    store, _ = open_store(path, N1)
    store.write(record)
    before = path.read_bytes()
    with pytest.raises(AssertionError):
        store.write(dataclasses.replace(record, **OLDER[field]))
    store.close()
    assert path.read_bytes() == before


def test_a_new_term_frees_the_vote():
    record = HardState(N1, 2, Term(5), NodeId("n2"), Term(5))
    later = dataclasses.replace(record, term=Term(6), voted_for=NodeId("n3"))
    assert_not_older(record, later)
    assert later.document_ref == NO_DOCUMENT


def test_another_nodes_state_is_never_written(path):
    store, _ = open_store(path, N1)
    with pytest.raises(AssertionError):
        store.write(HardState(NodeId("n2"), 1))
    store.close()
    assert not path.exists()


@pytest.mark.parametrize("failing", ["fdatasync", "pwrite"])
def test_after_a_failed_write_nothing_more_is_written(path, monkeypatch, failing):
    store, _ = open_store(path, N1)
    store.write(state(1))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(StateError, match="Input/output error"):
        store.write(state(2))
    monkeypatch.undo()
    # The disk seems well again, and a later fsync would say so; it must not be believed.
    with pytest.raises(StateError):
        store.write(state(3))
    assert store.durable == state(1)
    store.close()
    assert load(path).record in (state(1), state(2))


def test_a_crash_while_the_file_is_made_leaves_no_file(path, monkeypatch):
    store, _ = open_store(path, N1)

    def crash(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(StateError):
        store.write(state(1))
    monkeypatch.undo()
    store.close()
    assert load(path).record is None


def test_short_writes_are_completed(path, monkeypatch):
    real = os.pwrite
    write_all(path, state(1))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    write_all(path, state(2))
    monkeypatch.undo()
    assert load(path).record == state(2)


def test_the_record_is_for_its_owner_only(path):
    write_all(path, state(1))
    assert path.stat().st_mode & 0o777 == 0o600


async def test_persist_is_durable_when_it_returns(path):
    store, _ = open_store(path, N1)
    await store.persist(state(4))
    store.close()
    assert load(path).record == state(4)


async def test_a_cancelled_persist_returns_only_when_the_record_is_durable(path, monkeypatch):
    store, _ = open_store(path, N1)
    store.write(state(1))
    real, release, entered = os.fdatasync, threading.Event(), threading.Event()

    def slow(fd):
        entered.set()
        assert release.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    order = []
    with trio.fail_after(10), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def persist():
                await store.persist(state(2))
                order.append("durable")
                await trio.lowlevel.checkpoint()
                order.append("not reached")

            nursery.start_soon(persist)
            await trio.to_thread.run_sync(entered.wait)
            scope.cancel()
            order.append("cancelled")
            release.set()
    assert order == ["cancelled", "durable"]
    assert store.durable == state(2)
    store.close()


async def test_a_persist_begun_under_a_cancelled_scope_is_durable_all_the_same(path):
    store, _ = open_store(path, N1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.persist(state(3))
    store.close()
    assert load(path).record == state(3)


def test_the_new_files_name_is_durable_before_the_first_write_returns(path, monkeypatch):
    real, synced = os.fsync, []

    def record(fd):
        real(fd)
        synced.append(os.path.realpath(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", record)
    write_all(path, state(1))
    # First the content, under the name it has until the rename; then the directory.
    assert synced == [f"{path}.new", str(path.parent)]
