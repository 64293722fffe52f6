"""Whether a whole record begins at a place in the WAL, told from the bytes of a few pages.

Asked for at each timeline that WAL may go over to: a program a timeline takes as long as the rest
of finding a position, and there can be hundreds of timelines after the newest restartpoint. And at
the end of what a standby has replayed: nearly always it has received nothing beyond it.

Pure: bytes in, a verdict out. It judges as `pg_waldump` judges the first record that it is told to
read: page headers, length, back link and checksum.

Source: PostgreSQL, xlog_internal.h (XLogPageHeaderData), xlogrecord.h, xlogreader.c
(ValidXLogRecordHeader, ValidXLogRecord).
"""

from __future__ import annotations

import struct

from metako.model.lsn import Lsn
from metako.postgres.wal import PAGE_SIZE, page_header_size

PAGES_READ = 4
"""Pages that are enough for what a promotion writes first, wherever on a page it begins."""

_PAGE = struct.Struct("=HHIQ")  # magic, flags, timeline, address
_LENGTH = struct.Struct("=I")  # the beginning of a record, which is never cut by a page's end
_RECORD = struct.Struct("=IIQBB2xI")  # length, transaction, back link, info, manager, checksum
_CHECKED = 20  # bytes of the record's header that its checksum covers, after the record's data
_MAGICS = (0xD0, 0xD1)  # upper byte, of PostgreSQL 9.3 and later
_LENGTH_MAX = 1 << 30


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def record_begins(pages: bytes, base: Lsn, lsn: Lsn, segment_size: int) -> bool | None:
    """Return whether a whole record begins at `lsn`; None if these bytes are too few to tell.

    Args:
        pages: of one segment; they may end early.
        base: the place of the first of them, on a page boundary.
        lsn: on or after `base`, behind any page header.
        segment_size: bytes of a WAL segment.
    """
    assert base % PAGE_SIZE == 0 <= lsn - base, (base, lsn)
    if not _page_is_whole(pages, base, Lsn(lsn - lsn % PAGE_SIZE)):
        return False
    header, after = _take(pages, base, lsn, _RECORD.size, segment_size)
    if header is None:
        return _ends_early(after)
    length, _, back, _, _, checksum = _RECORD.unpack(header)
    if not _RECORD.size <= length <= _LENGTH_MAX or back >= lsn:
        return False
    data, after = _take(pages, base, after, length - _RECORD.size, segment_size)
    if data is None:
        return _ends_early(after)
    return crc32c(data + header[:_CHECKED]) == int(checksum)


def ends_here(pages: bytes, base: Lsn, lsn: Lsn, segment_size: int) -> bool:
    """Return whether it is certain that the WAL, valid up to `lsn`, ends there; False if it is not.

    Certain is what the page of `lsn` alone proves: that it is the page of its place, and that at
    `lsn` nothing begins that could be a record, or goes on in a later page as one that was broken
    off and written over. See `record_begins` for the arguments.
    """
    page, after = lsn - lsn % PAGE_SIZE, lsn + _RECORD.size
    if lsn == page or not _page_is_whole(pages, base, Lsn(page)):
        return False
    header = pages[lsn - base : min(after, page + PAGE_SIZE) - base]
    if len(header) < _LENGTH.size:
        return False
    (length,) = _LENGTH.unpack_from(header)
    if not _RECORD.size <= length <= _LENGTH_MAX:
        return True
    whole = lsn + length <= page + PAGE_SIZE
    return whole and record_begins(pages, base, lsn, segment_size) is False


def _ends_early(after: int) -> bool | None:
    """Return the verdict on a record that could not be read: False for what no page holds."""
    return None if after else False


def _take(
    pages: bytes, base: Lsn, start: int, count: int, segment_size: int
) -> tuple[bytes | None, int]:
    """Return `count` bytes of WAL from `start` on, without page headers, and where they end.

    None instead of bytes, and 0, where a page is not WAL; None and another number where `pages`
    ends first.
    """
    taken, place = bytearray(), start
    while len(taken) < count:
        if place % PAGE_SIZE == 0:
            if place - base + PAGE_SIZE > len(pages):
                return None, place
            if not _page_is_whole(pages, base, Lsn(place)):
                return None, 0
            place += page_header_size(place, segment_size)
        size = min(count - len(taken), PAGE_SIZE - place % PAGE_SIZE)
        part = pages[place - base : place - base + size]
        if len(part) < size:
            return None, place
        taken += part
        place += size
    return bytes(taken), place


def _page_is_whole(pages: bytes, base: Lsn, page: Lsn) -> bool:
    """Return whether a page has been written as that of its place; a recycled one has not."""
    if page - base + _PAGE.size > len(pages):
        return False
    magic, _, _, address = _PAGE.unpack_from(pages, page - base)
    return magic >> 8 in _MAGICS and address == page
