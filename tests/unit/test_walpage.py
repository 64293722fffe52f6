"""Whether a record begins at a place: made-up pages, and positions along many timelines."""

import struct

import pytest

from metako.model.ids import NodeId, TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.postgres.files import ServerFiles
from metako.postgres.history import segment_name
from metako.postgres.osuser import resolve_os_user
from metako.postgres.position import Known, WalReader
from metako.postgres.settings import ServerSettings
from metako.postgres.wal import PAGE_SIZE, WalRecord, page_header_size
from metako.postgres.walpage import crc32c, ends_here, record_begins

SEGMENT = 1 << 20
BASE = Lsn(5 * SEGMENT)


def record(data=b"twelve bytes", *, back=BASE):
    length = 24 + len(data)
    start = struct.pack("=IIQBB2x", length, 7, back, 0x90, 0)
    return start + struct.pack("=I", crc32c(data + start))


def wal(at, content, *, pages=3, base=BASE):
    """Return pages with `content` from `at` on, laid around the headers of the pages."""
    image, place, rest = bytearray(pages * PAGE_SIZE), at, content
    for page in range(pages):
        struct.pack_into("=HHIQ", image, page * PAGE_SIZE, 0xD110, 0, 3, base + page * PAGE_SIZE)
    while rest:
        if place % PAGE_SIZE == 0:
            place += page_header_size(place, SEGMENT)
        size = min(len(rest), PAGE_SIZE - place % PAGE_SIZE)
        image[place - base : place - base + size] = rest[:size]
        rest, place = rest[size:], place + size
    return bytes(image)


def whole(data=b"twelve bytes", **options):
    return record(data, **options) + data


def test_the_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("offset", [40, 512, PAGE_SIZE - 8, PAGE_SIZE - 24, PAGE_SIZE + 24])
def test_a_whole_record_is_seen_wherever_it_begins(offset):
    lsn = Lsn(BASE + offset)
    assert record_begins(wal(lsn, whole()), BASE, lsn, SEGMENT) is True
    assert record_begins(wal(lsn, whole(b"")), BASE, lsn, SEGMENT) is True
    assert record_begins(wal(lsn, whole(bytes(10_000))), BASE, lsn, SEGMENT) is True


def test_zeros_and_damage_are_no_record():
    lsn = Lsn(BASE + 512)
    assert record_begins(wal(lsn, b""), BASE, lsn, SEGMENT) is False
    good = wal(lsn, whole())
    for place in (512, 520, 531, 534, 540):  # length, back link, manager, checksum, data
        bad = bytearray(good)
        bad[place] ^= 0x40
        assert record_begins(bytes(bad), BASE, lsn, SEGMENT) is False, place
    assert record_begins(wal(lsn, whole(back=lsn)), BASE, lsn, SEGMENT) is False


def test_a_page_of_a_recycled_segment_counts_for_nothing():
    lsn = Lsn(BASE + PAGE_SIZE - 30)
    old = Lsn(BASE - SEGMENT)
    content = whole(bytes(100))
    recycled = wal(Lsn(old + PAGE_SIZE - 30), content, base=old)
    assert record_begins(recycled, BASE, lsn, SEGMENT) is False
    # Its first page was written again, and the next one not.
    mixed = wal(lsn, content)[:PAGE_SIZE] + recycled[PAGE_SIZE:]
    assert record_begins(mixed, BASE, lsn, SEGMENT) is False


def test_a_record_longer_than_what_was_read_is_left_open():
    lsn = Lsn(BASE + 512)
    image = wal(lsn, whole(bytes(2 * PAGE_SIZE)))
    assert record_begins(image, BASE, lsn, SEGMENT) is True
    assert record_begins(image[: 2 * PAGE_SIZE], BASE, lsn, SEGMENT) is None
    assert record_begins(image[:600], BASE, Lsn(BASE + 590), SEGMENT) in (False, None)
    assert record_begins(b"", BASE, lsn, SEGMENT) is False


@pytest.mark.parametrize("offset", [40, 512, PAGE_SIZE - 8, PAGE_SIZE - 24])
def test_wal_ends_for_certain_where_no_length_of_a_record_is(offset):
    lsn = Lsn(BASE + offset)
    assert ends_here(wal(lsn, b""), BASE, lsn, SEGMENT)
    for length in (1, 23, (1 << 30) + 1, 0xFFFFFFFF):
        assert ends_here(wal(lsn, struct.pack("=I", length)), BASE, lsn, SEGMENT), length


def test_wal_does_not_end_where_a_whole_record_begins():
    for offset in (40, 512, PAGE_SIZE - 8, PAGE_SIZE - 24, PAGE_SIZE - 40):
        for data in (b"", b"twelve bytes", bytes(10_000)):
            lsn = Lsn(BASE + offset)
            assert not ends_here(wal(lsn, whole(data)), BASE, lsn, SEGMENT), (offset, len(data))


def test_what_is_left_of_a_recycled_segment_is_the_end_if_it_could_end_on_its_page():
    lsn = Lsn(BASE + 512)
    bad = bytearray(wal(lsn, whole()))
    bad[540] ^= 0x40
    assert ends_here(bytes(bad), BASE, lsn, SEGMENT)


def test_a_record_that_was_broken_off_may_be_followed_by_more():
    """The next page may say that what was begun was given up, and go on after it."""
    lsn = Lsn(BASE + PAGE_SIZE - 40)
    image = bytearray(wal(lsn, whole(b"x" * 100)))
    struct.pack_into("=H", image, PAGE_SIZE + 2, 0x8)  # XLP_FIRST_IS_OVERWRITE_CONTRECORD
    image[PAGE_SIZE + 24 :] = bytes(len(image) - PAGE_SIZE - 24)
    assert record_begins(bytes(image), BASE, lsn, SEGMENT) is False
    assert not ends_here(bytes(image), BASE, lsn, SEGMENT)


def test_nothing_is_certain_of_a_page_that_is_not_that_of_its_place():
    lsn = Lsn(BASE + 512)
    assert not ends_here(b"", BASE, lsn, SEGMENT)
    assert not ends_here(wal(lsn, b"")[:512], BASE, lsn, SEGMENT)
    assert not ends_here(wal(lsn, b"", base=Lsn(BASE - SEGMENT)), BASE, lsn, SEGMENT)
    page = Lsn(BASE + PAGE_SIZE)  # what ended there lies on the page before
    assert not ends_here(wal(page, b""), BASE, page, SEGMENT)


async def test_no_program_is_run_where_the_page_shows_that_nothing_follows(tmp_path, monkeypatch):
    lsn = Lsn(BASE + 512)
    files = files_in(tmp_path)
    segment = files.wal / segment_name(3, BASE // SEGMENT, SEGMENT)
    known = {"redo": Lsn(BASE + 40), "tli": TimelineId(3), "segment_size": SEGMENT}
    dumped = []

    async def dump(_self, _tli, start, _segment_size, *_options):
        dumped.append(start)
        return [WalRecord(Lsn(BASE + 40), BASE, 24, False), WalRecord(lsn, BASE, 36, False)], ""

    monkeypatch.setattr(WalReader, "_dump", dump)
    reader = WalReader(None, None, files)
    segment.write_bytes(wal(lsn, b""))
    assert await reader.measure_running(lsn, **known) == WalPosition(TimelineId(3), lsn)
    assert not dumped
    segment.write_bytes(wal(lsn, whole()))
    assert await reader.measure_running(lsn, **known) == WalPosition(TimelineId(3), Lsn(lsn + 40))
    assert dumped


def files_in(tmp_path):
    settings = ServerSettings(
        node=NodeId("n1"),
        data_dir=tmp_path / "data",
        state_dir=tmp_path / "state",
        socket_dir=tmp_path,
        listen="127.0.0.1",
        port=5432,
        secret=b"x",
    )
    files = ServerFiles(settings, resolve_os_user(None))
    files.wal.mkdir(parents=True)
    return files


async def test_the_position_is_found_beyond_any_number_of_timelines(tmp_path, monkeypatch):
    """A standby that is killed again and again has none of their restartpoints."""
    files = files_in(tmp_path)
    count, step = 200, 64
    begins = [Lsn(BASE + 512 + step * n) for n in range(count)]
    for number, begin in enumerate(begins[1:], start=2):
        ancestors = "".join(
            f"{tli}\t{at >> 32:X}/{at & 0xFFFFFFFF:X}\tx\n"
            for tli, at in enumerate(begins[1:number], start=1)
        )
        (files.wal / f"{number:08X}.history").write_text(ancestors)
        name = segment_name(number, BASE // SEGMENT, SEGMENT)
        (files.wal / name).write_bytes(wal(begin, whole()))
    scanned = []

    async def scan(_self, known, _segment_size):
        scanned.append(known.tli)
        return Lsn(known.lsn + step)

    monkeypatch.setattr(WalReader, "_scan", scan)
    reader = WalReader(None, None, files)
    newest = WalPosition(TimelineId(count), Lsn(begins[-1] + step))
    stopped = Known(TimelineId(1), begins[0], begins[0], exact=True)
    assert await reader._measure(stopped, SEGMENT) == newest
    assert len(scanned) == count
    # What a running server has replayed lies on the newest one: nothing else is read.
    scanned.clear()
    assert (
        await reader.measure_running(
            begins[-1], redo=begins[0], tli=TimelineId(1), segment_size=SEGMENT
        )
        == newest
    )
    assert scanned == [count]
