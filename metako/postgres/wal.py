"""Where WAL ends, and what PostgreSQL's own tools say about a data directory that is not running.

`pg_waldump` prints where each record begins and how long it is, not where it ends. The end is
what a position is: it is computed here by laying the record's bytes over pages, each of which
begins with a header, and by rounding a switch record up to the end of its segment.

Pure: text in, values out.

Source: PostgreSQL, xlog_internal.h (page headers), xlogreader.c (XLogDecodeNextRecord),
pg_controldata.c, xlogbackup.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metako.model.ids import TimelineId
from metako.model.lsn import Lsn, parse_lsn

PAGE_SIZE = 8192
_SHORT_HEADER = 24
_LONG_HEADER = 40

# Recovery refuses values below those that the WAL was written under.
_FLOORS = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_transactions": "max_prepared_xacts",
    "max_locks_per_transaction": "max_locks_per_xact",
}

_RECORD = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*\d+, "
    r"lsn: ([0-9A-F]+/[0-9A-F]+), prev ([0-9A-F]+/[0-9A-F]+), desc: (\S+)"
)
_ERROR_AT = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+)")


@dataclass(frozen=True, slots=True)
class WalRecord:
    """One record as `pg_waldump` prints it."""

    lsn: Lsn
    prev: Lsn  # where the record before it begins
    total_len: int  # bytes, without page headers
    is_switch: bool


@dataclass(frozen=True, slots=True)
class ControlData:
    """The part of pg_control that is needed."""

    system_id: int
    state: str
    checkpoint_tli: TimelineId
    redo_lsn: Lsn
    min_recovery_lsn: Lsn
    min_recovery_tli: TimelineId
    segment_size: int
    checksums: bool
    wal_log_hints: bool
    floors: tuple[tuple[str, int], ...]  # settings that a standby must not run below

    @property
    def clean(self) -> bool:
        """Whether the server says that it was shut down properly. No proof that it is gone.

        From PostgreSQL 15 on a crash recovery that was told to stop says so too, wherever it was
        by then. It alone has no minimum of recovery; and with none pg_rewind takes the WAL to end
        before every fork, and sees nothing to rewind.
        """
        if self.state == "shut down in recovery":
            return self.min_recovery_lsn > 0
        return self.state == "shut down"


def _align(length: int) -> int:
    return (length + 7) & ~7


def page_header_size(page_lsn: int, segment_size: int) -> int:
    return _LONG_HEADER if page_lsn % segment_size == 0 else _SHORT_HEADER


def skip_header(lsn: int, segment_size: int) -> Lsn:
    """Return where a record that follows one that ended at `lsn` begins."""
    return Lsn(lsn + page_header_size(lsn, segment_size)) if lsn % PAGE_SIZE == 0 else Lsn(lsn)


def record_end(record: WalRecord, segment_size: int) -> Lsn:
    """Return where the record ends; on a page boundary, the boundary itself."""
    position: int = record.lsn
    remaining = _align(record.total_len)
    room = PAGE_SIZE - position % PAGE_SIZE
    while remaining > room:
        remaining -= room
        position += room
        header = page_header_size(position, segment_size)
        position += header
        room = PAGE_SIZE - header
    position += remaining
    if record.is_switch:
        position = -(-position // segment_size) * segment_size
    return Lsn(position)


def parse_record(line: str) -> WalRecord | None:
    """Return the record that a line of `pg_waldump` shows; None for any other line."""
    match = _RECORD.match(line)
    if match is None:
        return None
    return WalRecord(
        lsn=parse_lsn(match[3]),
        prev=parse_lsn(match[4]),
        total_len=int(match[2]),
        is_switch=match[1] == "XLOG" and match[5] == "SWITCH",
    )


def ends_of(lines: Sequence[str]) -> list[WalRecord]:
    """Return the first and the last record of what `pg_waldump` shows; one alone once, or none.

    There are hundreds of lines, and an election waits: those in between are not looked at.
    """
    first = next(filter(None, map(parse_record, lines)), None)
    if first is None:
        return []
    last = next(filter(None, map(parse_record, reversed(lines))), first)
    return [first] if last == first else [first, last]


def parse_error_lsn(stderr: str) -> Lsn | None:
    """Return the last record that a quiet run of `pg_waldump` had read before it gave up."""
    match = _ERROR_AT.search(stderr)
    return parse_lsn(match[1]) if match else None


def parse_control(text: str) -> ControlData:
    """Return what `pg_controldata` (in the C locale) says.

    Raises:
        ValueError: a line is missing.
    """
    fields = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields[key.strip()] = value.strip()
    try:
        return ControlData(
            system_id=int(fields["Database system identifier"]),
            state=fields["Database cluster state"],
            checkpoint_tli=TimelineId(int(fields["Latest checkpoint's TimeLineID"])),
            redo_lsn=parse_lsn(fields["Latest checkpoint's REDO location"]),
            min_recovery_lsn=parse_lsn(fields["Minimum recovery ending location"]),
            min_recovery_tli=TimelineId(int(fields["Min recovery ending loc's timeline"])),
            segment_size=int(fields["Bytes per WAL segment"]),
            checksums=fields.get("Data page checksum version", "0") != "0",
            wal_log_hints=fields.get("wal_log_hints setting") == "on",
            floors=tuple((name, int(fields[f"{key} setting"])) for name, key in _FLOORS.items()),
        )
    except KeyError as missing:
        raise ValueError(f"pg_controldata did not print {missing}") from None


def parse_backup_label(text: str) -> tuple[TimelineId, Lsn]:
    """Return where recovery from a base backup or a rewind begins: timeline and LSN.

    Raises:
        ValueError: the label has no start location.
    """
    start = re.search(r"^START WAL LOCATION: (\S+) \(file ([0-9A-F]{8})", text, re.MULTILINE)
    if start is None:
        raise ValueError("backup_label names no start location")
    named = re.search(r"^START TIMELINE: (\d+)", text, re.MULTILINE)
    tli = int(named[1]) if named else int(start[2], 16)
    return TimelineId(tli), parse_lsn(start[1])
