"""Where the WAL of a real server ends, by the files that it leaves behind."""

import os

import pytest
from supervisor_kit import nodes
from test_supervisor import initialize

from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import ProcessState, Stopped
from metako.postgres.files import ServerFiles
from metako.postgres.history import segment_name
from metako.postgres.position import PositionError, WalReader
from metako.postgres.walpage import PAGE_SIZE

pytestmark = pytest.mark.integration

BINDIR = os.environ.get("METAKO_TEST_BINDIR")
PREPARED = 40  # the order of a directory is the file system's: one of so many comes first, surely


async def test_segments_made_in_advance_do_not_hide_the_end():
    """A server makes the next segment, of zeros, once three quarters of one are written."""
    async with nodes("a", bindir=BINDIR) as (a,):
        await initialize(a)
        await a.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        reader = WalReader(a.installation, a.user, ServerFiles(a.settings, a.user))
        control = await reader.control()
        before = await reader.measure_stopped(control)
        assert before.lsn > control.redo_lsn
        size = control.segment_size
        for number in range(PREPARED):
            name = segment_name(before.timeline, before.lsn // size + 1 + number, size)
            path = a.settings.data_dir / "pg_wal" / name
            if not path.exists():
                with path.open("wb") as file:
                    file.truncate(size)
        assert await reader.measure_stopped(control) == before
        running = {"redo": control.redo_lsn, "tli": control.checkpoint_tli, "segment_size": size}
        assert await reader.measure_running(control.redo_lsn, **running) == before
        # The next record would be in the next segment, of which there is nothing but zeros.
        following = Lsn((before.lsn // size + 1) * size)
        running["redo"] = following
        expected = WalPosition(before.timeline, following)
        assert await reader.measure_running(following, **running) == expected


async def test_wal_that_cannot_be_read_is_not_taken_for_its_end():
    async with nodes("a", bindir=BINDIR) as (a,):
        await initialize(a)
        await a.target(Stopped(fast=True), lambda o: o.process is ProcessState.STOPPED)
        reader = WalReader(a.installation, a.user, ServerFiles(a.settings, a.user))
        control = await reader.control()
        size = control.segment_size
        name = segment_name(control.checkpoint_tli, control.redo_lsn // size, size)
        with (a.settings.data_dir / "pg_wal" / name).open("r+b") as file:
            file.truncate(control.redo_lsn % size // PAGE_SIZE * PAGE_SIZE)
        with pytest.raises(PositionError, match="could not read from file"):
            await reader.measure_stopped(control)
