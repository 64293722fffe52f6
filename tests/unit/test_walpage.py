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
from metako.postgres.wal import PAGE_SIZE, page_header_size
from metako.postgres.walpage import crc32c, record_begins

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


async def test_the_position_is_found_beyond_any_number_of_timelines(tmp_path, monkeypatch):
    """A standby that is killed again and again has none of their restartpoints."""
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
