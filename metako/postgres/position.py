"""Where the WAL on disk ends, found by reading it with PostgreSQL's own `pg_waldump`.

What the server says about itself is not enough: after a restart the received LSN is NULL or the
beginning of a segment, and replay lags behind what was acknowledged. So the records are read, from
a place known to be valid, along the server's own history, to the last one that is whole.

A recycled segment may hold an old record, with a valid checksum, exactly where the WAL ends. It is
told apart by its back link, which is compared only between consecutive records: reading therefore
begins *before* the place that is known, wherever there is something before it. Only where the page
itself shows that nothing follows no program is run: an election waits for it.

Invariant: the result is right only if nothing writes WAL meanwhile; the caller sees to that.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import trio

from metako.model.errors import MetakoError
from metako.model.ids import TimelineId
from metako.model.lsn import Lsn, WalPosition, format_lsn
from metako.model.timeline import HistoryStep
from metako.postgres.files import ServerFiles
from metako.postgres.history import branches, segment_name
from metako.postgres.install import Installation
from metako.postgres.osuser import OsUser
from metako.postgres.tools import run_tool
from metako.postgres.wal import (
    PAGE_SIZE,
    ControlData,
    WalRecord,
    ends_of,
    parse_backup_label,
    parse_control,
    parse_error_lsn,
    record_end,
    skip_header,
)
from metako.postgres.walpage import PAGES_READ, ends_here, record_begins

LOOKBACK_BYTES = (16 << 10, 64 << 10, 16 << 20)
"""How far before the known place reading begins: a record has to lie in between. Hardly any is
longer than the first; and what is read before that is for nothing, in the midst of an election."""
READ_TIMEOUT_S = 600.0  # a gigabyte of WAL takes seconds; a dying disk takes longer
CONTROL_TIMEOUT_S = 20.0
MAGIC_BYTES = 2  # that a page of WAL begins with
# What pg_waldump says on stderr when there are no more records. Whatever else it fails for, such as
# a file that it cannot read, says nothing about where the WAL ends.
_END_OF_WAL = ("error in WAL record at", "could not find a valid record after")


class PositionError(MetakoError):
    """The end of the WAL could not be found. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Known:
    """A place in the WAL that is known to hold valid records up to `lsn`."""

    tli: TimelineId  # an ancestor of, or the timeline that owns `lsn`
    lsn: Lsn
    floor: Lsn  # WAL before it may have been removed
    exact: bool  # a record begins at `lsn`


class WalReader:
    """Runs the reading tools on one data directory."""

    def __init__(self, installation: Installation, user: OsUser, files: ServerFiles) -> None:
        self._installation = installation
        self._user = user
        self._files = files

    async def control(self) -> ControlData:
        """Return pg_control of the data directory.

        Raises:
            PositionError: it cannot be read.
        """
        result = await run_tool(
            [str(self._installation.program("pg_controldata")), str(self._files.data)],
            user=self._user,
            timeout_s=CONTROL_TIMEOUT_S,
            reads_only=True,
        )
        try:
            return parse_control(result.stdout)
        except ValueError as error:
            detail = " ".join(result.stderr.split())[:300]
            raise PositionError(f"pg_control of {self._files.data}: {error} {detail}") from None

    async def measure_stopped(self, control: ControlData) -> WalPosition:
        """Return the position of a server of which no process runs, by its pg_control of now."""
        tli, lsn = control.checkpoint_tli, control.redo_lsn
        with contextlib.suppress(FileNotFoundError, ValueError):
            label = (self._files.data / "backup_label").read_text(errors="replace")
            tli, lsn = parse_backup_label(label)
        return await self._measure(Known(tli, lsn, lsn, exact=True), control.segment_size)

    async def measure_running(
        self, replayed: Lsn, *, redo: Lsn, tli: TimelineId, segment_size: int
    ) -> WalPosition:
        """Return the position of a standby that has replayed up to `replayed`.

        Args:
            replayed: the end of the last record that it has applied.
            redo: where its last restartpoint begins; WAL from there on is kept.
            tli: of that restartpoint.
            segment_size: bytes of a WAL segment.
        """
        if not redo <= replayed:
            raise PositionError(f"replay at {format_lsn(replayed)} is before the restartpoint")
        return await self._measure(Known(tli, replayed, redo, exact=False), segment_size)

    async def _measure(self, known: Known, segment_size: int) -> WalPosition:
        children = branches(await trio.to_thread.run_sync(self._files.histories))
        begin = Lsn(0)
        parent = tli = known.tli
        lsn, floor, exact = known.lsn, known.floor, known.exact
        scanned = False
        while True:  # numbers grow from parent to child: it ends
            child = await self._next(children.get(tli, ()), lsn, segment_size)
            if child is not None:
                # Beyond the switch, WAL of the parent was received in vain and is not ours; but
                # what a running server has replayed it has replayed on the child.
                lsn = child.begin_lsn if scanned else Lsn(max(lsn, child.begin_lsn))
                parent, tli, begin, exact, scanned = tli, child.tli, child.begin_lsn, False, False
                floor = Lsn(max(floor, begin - begin % segment_size))
            elif scanned:
                return WalPosition(tli if lsn > begin else parent, lsn)
            else:
                lsn = await self._scan(Known(tli, lsn, floor, exact), segment_size)
                scanned = True

    async def _next(
        self, children: tuple[HistoryStep, ...], end: Lsn, segment_size: int
    ) -> HistoryStep | None:
        """Return the child timeline that the WAL goes on with: it has a record at its begin."""
        for child in children:
            if child.begin_lsn <= end:
                begin = skip_header(child.begin_lsn, segment_size)
                if await self._record_begins(child.tli, begin, segment_size):
                    return child
        return None

    async def _record_begins(self, tli: TimelineId, lsn: Lsn, segment_size: int) -> bool:
        """Return whether a whole record of a timeline begins at `lsn`."""
        base = Lsn(lsn - lsn % PAGE_SIZE)
        pages = await trio.to_thread.run_sync(self._pages, tli, base, segment_size)
        begins = record_begins(pages, base, lsn, segment_size)
        if begins is not None:
            return begins
        records, _ = await self._dump(tli, lsn, segment_size, "-n", "1")  # a long one
        return bool(records) and records[0].lsn == lsn

    async def _ends_here(self, known: Known, segment_size: int) -> bool:
        """Return whether nothing was received beyond what is known; False if that is not sure."""
        base = Lsn(known.lsn - known.lsn % PAGE_SIZE)
        pages = await trio.to_thread.run_sync(self._pages, known.tli, base, segment_size)
        return ends_here(pages, base, known.lsn, segment_size)

    def _pages(self, tli: TimelineId, base: Lsn, segment_size: int) -> bytes:
        """Return some pages of a segment from `base` on; none if there is no such segment."""
        path = self._files.wal / segment_name(tli, base // segment_size, segment_size)
        try:
            with path.open("rb") as file:
                file.seek(base % segment_size)
                return file.read(PAGES_READ * PAGE_SIZE)
        except FileNotFoundError:
            return b""

    async def _scan(self, known: Known, segment_size: int) -> Lsn:
        """Return the end of the last valid record of one timeline; `known.lsn` if none is later."""
        records: list[WalRecord] = []
        if known.exact:
            start = known.lsn
            _, errors = await self._dump(known.tli, start, segment_size, "--quiet")
            last = parse_error_lsn(errors)
            # The quiet run finds the neighbourhood of the end without printing gigabytes.
            start = last if last is not None and last > start else start
            records, errors = await self._dump(known.tli, start, segment_size)
            if not records:
                where = f"{known.tli}:{format_lsn(known.lsn)}"
                raise PositionError(f"no WAL at {where}: {' '.join(errors.split())[:300]}")
        elif await self._ends_here(known, segment_size):
            return known.lsn
        else:
            for back in (*LOOKBACK_BYTES, known.lsn):
                start = Lsn(max(known.floor, (known.lsn - back) // PAGE_SIZE * PAGE_SIZE))
                records, _ = await self._dump(known.tli, start, segment_size)
                if (records and records[0].lsn < known.lsn) or start == known.floor:
                    break
        if not records:
            # Between a restartpoint and what was replayed since there is a record. None was
            # found: something is missing, and the end of WAL may be anywhere.
            if not known.exact and known.floor < known.lsn and known.floor % segment_size:
                raise PositionError(f"no WAL before {known.tli}:{format_lsn(known.lsn)}")
            return known.lsn
        return Lsn(max(known.lsn, record_end(records[-1], segment_size)))

    async def _dump(
        self, tli: TimelineId, start: Lsn, segment_size: int, *options: str
    ) -> tuple[list[WalRecord], str]:
        """Return the first and the last record that the program shows, and what it complains of."""
        # Without an end, pg_waldump waits five seconds for a segment that is not there: WAL that
        # ends at the end of a segment, as that of every base backup, would take so long.
        end = await trio.to_thread.run_sync(self._segments_end, tli, start, segment_size)
        if end <= start:
            return [], f"there is no segment of timeline {tli} at {format_lsn(start)}"
        argv = [str(self._installation.program("pg_waldump")), "-p", str(self._files.wal)]
        argv += ["-t", str(tli), "-s", format_lsn(start), *options]
        # It learns the size of segments from the first that is named. Without a name, from any in
        # the directory, and gives up if that is one that was made in advance and is all zeros.
        for number in (start // segment_size, end // segment_size - 1):
            argv.append(segment_name(tli, number, segment_size))
        result = await run_tool(argv, user=self._user, timeout_s=READ_TIMEOUT_S, reads_only=True)
        met_the_end = any(text in result.stderr for text in _END_OF_WAL)
        if result.returncode and not (result.returncode == 1 and met_the_end):
            detail = " ".join(result.stderr.split())[:300]
            raise PositionError(f"pg_waldump ended with {result.returncode}: {detail}")
        return ends_of(result.stdout.splitlines()), result.stderr

    def _segments_end(self, tli: TimelineId, start: Lsn, segment_size: int) -> Lsn:
        """Return where the segments that follow `start` and hold WAL end; `start` if none does."""
        number = start // segment_size
        end = start
        while _has_header(self._files.wal / segment_name(tli, number, segment_size)):
            number += 1
            end = Lsn(number * segment_size)
        return end


def _has_header(segment: Path) -> bool:
    """Return whether anything was ever written to a segment; one made in advance is all zeros."""
    try:
        with segment.open("rb") as file:
            return any(file.read(MAGIC_BYTES))
    except FileNotFoundError:
        return False
