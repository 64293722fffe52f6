"""The simulated disk: what a power loss leaves, and what each switch does."""

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.disk import SECTOR_BYTES, SimDisk
from sim.heap import NS_PER_MS, NS_PER_S, Heap

SIZE = 8 * SECTOR_BYTES


class Machine:
    """A disk with a file of zeros, and the answers to its syncs."""

    def __init__(self, seed=1):
        self.heap = Heap()
        self.disk = SimDisk(self.heap, random.Random(seed), sync_ms=(1, 2))
        self.disk.create("file", SIZE, 0, b"")
        self.disk.sync_now("file")
        self.answers = []

    def sync(self):
        self.disk.sync("file", self.answers.append)

    def wait(self, ms=100):
        self.heap.run_until(self.heap.now_ns + ms * NS_PER_MS)

    def content(self):
        return self.disk.copy("file")


@pytest.fixture
def machine():
    return Machine()


def zeros(data):
    return data + bytes(SIZE - len(data))


def test_a_write_is_seen_at_once_and_durable_after_the_sync(machine):
    machine.disk.write("file", 0, b"abc")
    assert machine.content() == zeros(b"abc")
    machine.sync()
    machine.heap.run_until(NS_PER_MS - 1)
    assert machine.answers == []
    machine.wait()
    assert machine.answers == [None]
    machine.disk.crash()
    assert machine.content() == zeros(b"abc")


def test_a_sync_cut_short_by_a_power_loss_never_answers(machine):
    machine.disk.write("file", 0, b"abc")
    machine.sync()
    machine.disk.crash()
    machine.wait()
    assert machine.answers == []


def test_a_write_after_a_sync_began_is_not_covered_by_it():
    def prepare(machine):
        machine.disk.write("file", 0, b"a")
        machine.sync()
        machine.disk.write("file", 1, b"b")
        machine.wait()
        assert machine.answers == [None]

    assert outcomes(prepare) == {zeros(b"a"), zeros(b"ab")}


def outcomes(prepare, seeds=200):
    found = set()
    for seed in range(seeds):
        machine = Machine(seed)
        prepare(machine)
        machine.disk.crash()
        found.add(machine.content())
    return found


def test_of_a_pending_sector_a_power_loss_leaves_all_or_nothing():
    def prepare(machine):
        machine.disk.write("file", 3, b"abc")

    assert outcomes(prepare) == {zeros(b""), zeros(bytes(3) + b"abc")}


def test_a_longer_write_is_torn_between_sectors():
    data = b"x" * (3 * SECTOR_BYTES)

    def prepare(machine):
        machine.disk.write("file", 0, data)

    found = outcomes(prepare)
    assert {zeros(b""), zeros(data)} <= found
    assert len(found) > 2
    for content in found:
        for start in range(0, SIZE, SECTOR_BYTES):
            assert len(set(content[start : start + SECTOR_BYTES])) == 1


writes = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=1500)), max_size=6
)


@given(writes, writes, st.integers(0, 2**32), st.booleans())
def test_what_was_synced_outlives_a_power_loss_where_nothing_was_written_after(
    before, after, seed, tear
):
    machine = Machine(seed)
    for offset, data in before:
        machine.disk.write("file", offset, data)
    machine.sync()
    machine.wait()
    synced = machine.content()
    touched = set()
    for offset, data in after:
        machine.disk.write("file", offset, data)
        touched.update(range(offset, offset + len(data)))
    seen = machine.content()
    machine.disk.tear_next = tear
    machine.disk.crash()
    left = machine.content()
    assert len(left) <= len(seen)
    for at in range(len(left)):
        if at not in touched:
            assert left[at] == (synced[at] if at < len(synced) else 0)


def test_a_disk_that_lies_answers_at_once_and_can_lose_it(machine):
    machine.disk.lying = True
    machine.disk.write("file", 0, b"abc")
    machine.sync()
    machine.wait(0)
    assert machine.answers == [None]

    def prepare(machine):
        machine.disk.lying = True
        machine.disk.write("file", 0, b"abc")
        machine.sync()
        machine.wait()

    assert zeros(b"") in outcomes(prepare)


def test_the_first_honest_sync_makes_durable_what_was_lied_about(machine):
    machine.disk.lying = True
    machine.disk.write("file", 0, b"abc")
    machine.sync()
    machine.wait()
    machine.disk.lying = False
    machine.sync()
    machine.wait()
    machine.disk.crash()
    assert machine.content() == zeros(b"abc")


def test_a_disk_that_lies_does_not_hold_back_without_end(machine):
    machine.disk.lying = True
    for _ in range(1000):
        machine.disk.write("file", 0, b"abc")
        machine.disk.sync_now("file")
    machine.disk.crash()
    assert machine.content() == zeros(b"abc")


def test_after_a_failed_sync_a_good_one_does_not_bring_the_write_back(machine):
    machine.disk.failing = True
    machine.disk.write("file", 0, b"abc")
    machine.sync()
    machine.wait()
    assert [error.errno for error in machine.answers] == [errno.EIO]
    machine.disk.failing = False
    machine.sync()
    machine.wait()
    assert machine.answers[1:] == [None]
    machine.disk.crash()
    assert machine.content() == zeros(b"")


def test_a_failed_sync_may_leave_what_it_lost_in_the_cache():
    seen = set()
    for seed in range(50):
        machine = Machine(seed)
        machine.disk.failing = True
        machine.disk.write("file", 0, b"abc")
        with pytest.raises(OSError, match="Input/output error"):
            machine.disk.sync_now("file")
        seen.add(machine.content())
    assert seen == {zeros(b""), zeros(b"abc")}


def test_a_full_disk_refuses_what_needs_space_and_nothing_else(machine):
    machine.disk.full = True
    machine.disk.write("file", SIZE - 3, b"abc")
    with pytest.raises(OSError, match="No space left"):
        machine.disk.write("file", SIZE - 2, b"abc")
    with pytest.raises(OSError, match="No space left"):
        machine.disk.create("other", 10, 0, b"")
    assert machine.content()[-3:] == b"abc"
    assert not machine.disk.exists("other")


def test_a_slow_disk_takes_longer_and_no_more(machine):
    machine.disk.slow_ms = 500
    machine.sync()
    machine.heap.run_until(500 * NS_PER_MS)
    assert machine.answers == []
    machine.heap.run_until(502 * NS_PER_MS)
    assert machine.answers == [None]


def test_a_new_file_is_there_as_a_whole_or_the_one_before_it():
    def prepare(machine):
        machine.disk.create("file", SIZE, 0, b"new")
        machine.disk.write("file", 10, b"newer")

    found = outcomes(prepare)
    whole = zeros(b"new")
    assert found == {zeros(b""), whole, zeros(whole[:10] + b"newer")}


def test_a_torn_write_takes_the_host_with_it_and_is_neither_old_nor_new():
    for seed in range(50):
        machine = Machine(seed)
        crashes = []

        def crash(machine=machine, crashes=crashes):
            crashes.append(machine.heap.now_ns)
            machine.disk.crash()

        machine.disk.on_torn = crash
        machine.disk.tear_next = True
        machine.disk.write("file", 0, b"abcdef")
        machine.sync()
        machine.wait()
        assert machine.answers == []
        assert len(crashes) == 1
        assert machine.content() not in (zeros(b""), zeros(b"abcdef"))
        assert not machine.disk.tear_next


def test_an_old_copy_is_one_that_was_durable(machine):
    assert not machine.disk.restore_old()
    contents = []
    for round_ in range(1, 5):
        machine.heap.run_until(2 * round_ * NS_PER_S)
        machine.disk.write("file", 0, bytes([round_]))
        machine.sync()
        machine.wait()
        contents.append(machine.content())
    assert machine.disk.restore_old()
    assert machine.content() in [zeros(b""), *contents[:-1]]
    machine.disk.crash()
    assert machine.content() != contents[-1]


def test_a_lost_file_is_gone_for_good(machine):
    machine.disk.lose()
    machine.disk.crash()
    assert not machine.disk.exists("file")
    with pytest.raises(FileNotFoundError):
        machine.disk.read("file", 0, 1)
