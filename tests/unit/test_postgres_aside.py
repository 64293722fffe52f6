"""What is taken out of a server's way is kept, within limits, and nothing is half kept."""

import itertools
import os
import struct

import pytest

from metako.postgres import aside
from metako.postgres.aside import RESERVE_BYTES, Aside, written_segments
from metako.postgres.history import segment_name
from metako.postgres.osuser import OsUser

SELF = OsUser("self", os.getuid(), os.getgid(), tuple(os.getgroups()), switch=False)
SEGMENT = 1 << 20
PLENTY = 1 << 40


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An `Aside`, made with these limits, whose clock goes on by a second each time."""
    seconds = itertools.count(1_700_000_000)
    monkeypatch.setattr(aside.time, "gmtime", lambda: real_gmtime(next(seconds)))

    def make(keep=1000, free=lambda path: PLENTY):
        return Aside(tmp_path / "diverged", SELF, keep_bytes=keep, free_bytes=free)

    return make


real_gmtime = aside.time.gmtime


@pytest.fixture
def file_of(tmp_path):
    def make(name, size):
        path = tmp_path / name
        path.write_bytes(b"x" * size)
        return path

    return make


def kept(aside_):
    return sorted(file.name for path in aside_.directory.iterdir() for file in path.iterdir())


def test_files_are_copied_and_stay_where_they_are(place, file_of):
    target = place().save("wal", [file_of("a", 10), file_of("b", 20)])
    assert {path.name: path.stat().st_size for path in target.iterdir()} == {"a": 10, "b": 20}
    assert file_of("a", 10).exists()
    assert "-wal-" in target.name


def test_the_oldest_go_when_together_they_are_too_large(place, file_of):
    it = place(keep=1000)
    for name in "abcd":
        it.save("wal", [file_of(name, 400)])
    assert kept(it) == ["c", "d"]


def test_one_that_is_larger_than_the_limit_is_kept_alone(place, file_of):
    it = place(keep=1000)
    it.save("wal", [file_of("a", 400)])
    it.save("wal", [file_of("b", 5000)])
    assert kept(it) == ["b"]


def test_there_are_never_too_many(place, file_of, monkeypatch):
    monkeypatch.setattr(aside, "KEPT_MAX", 3)
    it = place()
    for name in "abcde":
        it.save("history", [file_of(name, 1)])
    assert kept(it) == ["c", "d", "e"]


def test_older_ones_make_room_on_a_full_disk(place, file_of):
    it = place(keep=PLENTY)
    for name in "abc":
        it.save("wal", [file_of(name, 100)])
    # Room for one more only if one of them goes.
    it = place(keep=PLENTY, free=lambda path: RESERVE_BYTES + 300 - 100 * len(list(path.iterdir())))
    it.save("wal", [file_of("d", 100)])
    assert kept(it) == ["b", "c", "d"]


def test_nothing_is_left_of_a_copy_that_failed(place, file_of, monkeypatch):
    it = place()
    it.save("wal", [file_of("a", 10)])
    real = aside.shutil.copyfile

    def copyfile(source, target):
        if source.name == "c":
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(aside.shutil, "copyfile", copyfile)
    with pytest.raises(OSError, match="No space"):
        it.save("wal", [file_of("b", 10), file_of("c", 10)])
    assert kept(it) == ["a"]
    assert len(list(it.directory.iterdir())) == 1


def segment(wal, tli, number, address=None):
    path = wal / segment_name(tli, number, SEGMENT)
    address = number * SEGMENT if address is None else address
    path.write_bytes(struct.pack("=HHIQ", 0xD110, 2, tli, address) + bytes(100))
    return path


def test_segments_that_only_wait_to_be_written_are_left_out(tmp_path):
    old, first, next_timeline = (segment(tmp_path, *at) for at in ((1, 6), (1, 7), (2, 8)))
    segment(tmp_path, 2, 9, address=3 * SEGMENT)  # recycled
    (tmp_path / segment_name(2, 10, SEGMENT)).write_bytes(bytes(200))  # new
    (tmp_path / segment_name(2, 11, SEGMENT)).write_bytes(b"")
    (tmp_path / "00000002.history").write_text("")
    assert written_segments(tmp_path, 7, SEGMENT) == [first, next_timeline]
    assert written_segments(tmp_path, 0, SEGMENT) == [old, first, next_timeline]
