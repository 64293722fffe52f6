"""What tells that a record begins agrees with `pg_waldump`, on the WAL of a real server."""

import os
import subprocess

import pytest
from supervisor_kit import nodes
from test_supervisor import initialize

from metako.model.lsn import Lsn, format_lsn
from metako.model.postgres import ProcessState, Stopped
from metako.postgres.history import is_segment, segment_number
from metako.postgres.wal import PAGE_SIZE, parse_record, record_end, skip_header
from metako.postgres.walpage import ends_here, record_begins

pytestmark = pytest.mark.integration

BINDIR = os.environ.get("METAKO_TEST_BINDIR")


async def test_every_record_of_pg_waldump_begins_and_nothing_between():
    async with nodes("a", bindir=BINDIR) as (a,):
        await initialize(a)
        await a.psql("create table t as select repeat('x', i) x from generate_series(1, 500) i")
        await a.psql("create index on t (x)")
        await a.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        size = 16 << 20
        wal = a.settings.data_dir / "pg_wal"
        checked = 0
        for segment in sorted(path for path in wal.iterdir() if is_segment(path.name)):
            checked += check_segment(a, segment, Lsn(segment_number(segment.name, size) * size))
        assert checked > 1000


def check_segment(node, segment, base):
    size, image = 16 << 20, segment.read_bytes()
    dump = subprocess.run(
        [node.installation.program("pg_waldump"), segment, "-s", format_lsn(base)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    records = [r for r in map(parse_record, dump.splitlines()) if r is not None]
    begins = {record.lsn for record in records}
    for record in records:
        assert record_begins(image, base, record.lsn, size) is True, record
        assert not ends_here(image, base, record.lsn, size), record
    if records:
        end = skip_header(record_end(records[-1], size), size)
        if end < base + size and end % PAGE_SIZE >= 40:
            assert ends_here(image, base, end, size)
        first, last = records[0].lsn, records[-1].lsn
        between = [
            lsn
            for lsn in range(first + 8, min(last, first + (64 << 10)), 8)
            if lsn not in begins and lsn % PAGE_SIZE >= 40
        ]
        wrong = [lsn for lsn in between if record_begins(image, base, Lsn(lsn), size)]
        assert not wrong
    return len(records)
