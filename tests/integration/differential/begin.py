"""Where sequences begin: a run's directory with the template, and a sequence's three servers.

Leaving either context ends every process by its number and removes the directory, whatever
happened. METAKO_TEST_KEEP=1 leaves the directories for a look.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from differential.programs import SUPERUSER, Programs
from differential.real import BASE_PORT, START_S, Real
from differential.server import KEEP_NOTHING, RealServer
from differential.vocabulary import NAMES
from metako.postgres.history import is_segment

CREATE = "create table kv(k text, v text)"


@contextmanager
def open_programs(bindir: str | None) -> Iterator[Programs]:
    """Make the template of a run in a directory of its own; remove all of it at the end."""
    parent = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None
    base = Path(tempfile.mkdtemp(prefix="mkd", dir=parent))  # short: it holds Unix sockets
    base.chmod(0o755)
    try:
        programs = Programs(bindir, base)
        _make_template(programs)
        yield programs
    finally:
        _remove(base)


@contextmanager
def open_real(programs: Programs, number: int) -> Iterator[Real]:
    """Run three servers for the length of a context."""
    base = Path(tempfile.mkdtemp(prefix=f"{number}-", dir=programs.base))
    base.chmod(0o755)
    programs.own(base)
    real = Real(programs, base)
    try:
        yield real
    finally:
        real.close()
        _remove(base)


def _remove(base: Path) -> None:
    if os.environ.get("METAKO_TEST_KEEP", "") in ("", "0"):
        shutil.rmtree(base, ignore_errors=True)


def _make_template(programs: Programs) -> None:
    programs.make_dir(programs.template)
    server = RealServer(programs, "a", programs.template, BASE_PORT)
    server.prepare()
    options = ("-U", SUPERUSER, "-A", "trust", "-N", "-k", "--wal-segsize=1", "--locale=C")
    status, out = programs.run("initdb", "-D", str(server.data), "-E", "UTF8", *options)
    assert status == 0, out
    server.extra_conf = KEEP_NOTHING
    try:
        for standby in (False, True):  # a primary takes settings below those of initdb
            server.stop("fast")
            server.standby_signal(standby)
            server.launch()
            assert server.wait_up(START_S), server.log_tail()
        assert server.query("select pg_promote(true, 20)") == [("t",)]
        for database in ("postgres", "template0"):
            server.query(f"update pg_database set datistemplate = false where datname='{database}'")
            server.query(f"drop database {database}")
        server.query(CREATE)
        # Whoever reads a row of the catalogues for the first time since it was written makes a
        # record about it: let that be now, for everything that the test will ask.
        server.query("select pg_switch_wal()")
        for _ in range(2):
            server.drop_connection()
            server.look()
            server.rows()
            server.query("insert into kv values ('k', 'v')")
            server.query("show test.generation")
            server.query("delete from kv")
            server.query("vacuum freeze")
            server.query("checkpoint")
        server.stop("fast")
    finally:
        server.discard()
    _remove_spare_segments(programs, server)
    for name in NAMES[1:]:
        (programs.template / name).mkdir()
        programs.copy_template("a", programs.template / name / "data")


def _remove_spare_segments(programs: Programs, server: RealServer) -> None:
    """Leave only the segment with the shutdown checkpoint, to have less to copy."""
    _, control = programs.run("pg_controldata", str(server.data))
    kept = control.split("REDO WAL file:")[1].split()[0]
    for path in (server.data / "pg_wal").iterdir():
        if is_segment(path.name) and path.name != kept:
            path.unlink()
