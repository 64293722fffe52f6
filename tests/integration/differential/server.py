"""One real PostgreSQL server: its files, its process, and one query that shows all of it.

Nothing here waits for a state of the cluster: see `settle`. Everything is blocking, with deadlines.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from differential.look import LOOK, Look, look_of
from differential.programs import (
    CONF,
    DATABASE,
    POLL_S,
    SUPERUSER,
    Programs,
    kill_processes,
    remove_shared_memory,
)
from differential.wire import Connection, ConnectionLostError, StatementError
from metako.postgres.history import PLACEHOLDER, history_name
from metako.postgres.sweep import server_processes

STOP_S = 20.0
QUIT_S = 3.0
IDLE_S = 2.0
NO_WAL_MAX = 8
KEEP_NOTHING = "wal_keep_size = 0\nmin_wal_size = '2MB'\n"
"""Settings with which a checkpoint removes every segment that is not needed."""

_NO_WAL = "waiting for WAL to become available"
_ROWS = "select k, string_agg(v, ' ' order by v) from kv group by k order by k"
_RECEIVER = "select pid from pg_stat_activity where backend_type = 'walreceiver'"


class RealServer:
    """A server of one sequence, stopped at first."""

    def __init__(self, programs: Programs, name: str, base: Path, port: int) -> None:
        self.name, self.port = name, port
        self.programs = programs
        self.sockets = base
        self.directory = base / name
        self.data = self.directory / "data"
        self.conf = self.directory / "server.conf"
        self.log = self.directory / "log"
        self.upstream: RealServer | None = None
        self.slot = ""  # that it names beside its upstream
        self.slot_limit: int | None = None  # segments that its own slots may keep
        self.sync: tuple[tuple[str, ...], int] = ((), 0)
        self.frozen = ""  # or: receiver, server
        self.paused = False  # replay
        self.extra_conf = ""
        self.generation = 0  # of the settings; shown by whoever has loaded them
        self._process: subprocess.Popen[bytes] | None = None
        self._launched_at = 0  # place in the log
        self._admin: Connection | None = None
        self._stopped_pids: list[int] = []

    # ---------------------------------------------------------------- files

    def prepare(self) -> None:
        """Make the server's directory, without data."""
        self.programs.make_dir(self.directory)
        self.programs.write(self.directory / "hba", "local all,replication all trust\n")
        self.programs.write(self.log, "")

    def write_conf(self) -> None:
        self.generation += 1
        names, k = self.sync
        # Nobodies fill the list up, as metako's do.
        listed = [*names, *(f"nobody_{i}" for i in range(k - len(names)))]
        setting = f"ANY {k} ({', '.join(listed)})" if k else ""
        conf = CONF.format(sockets=self.sockets, hba=self.directory / "hba")
        conf += f"test.generation = {self.generation}\n"
        conf += f"synchronous_standby_names = '{setting}'\n"
        conf += f"primary_conninfo = '{self.conninfo_to(self.upstream)}'\n"
        conf += f"primary_slot_name = '{self.slot}'\n"
        if self.slot_limit is not None:
            conf += f"max_slot_wal_keep_size = '{self.slot_limit}MB'\n{KEEP_NOTHING}"
        self.programs.write(self.conf, conf + self.extra_conf)

    def conninfo_to(self, upstream: RealServer | None) -> str:
        if upstream is None:
            return ""
        host = f"host={upstream.sockets} port={upstream.port} user={SUPERUSER}"
        return f"{host} application_name={self.name}"

    def standby_signal(self, wanted: bool = True) -> None:
        path = self.data / "standby.signal"
        if wanted:
            self.programs.write(path, "")
        else:
            path.unlink(missing_ok=True)

    def write_placeholders(self, first: int, last: int) -> None:
        for tli in range(first, last + 1):
            path = self.data / "pg_wal" / history_name(tli)
            if not path.exists():
                self.programs.write(path, PLACEHOLDER)

    def log_size(self) -> int:
        return self.log.stat().st_size

    def log_since(self, offset: int) -> str:
        with open(self.log, "rb") as stream:
            stream.seek(offset)
            return stream.read().decode("utf-8", "replace")

    # ---------------------------------------------------------------- process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the postmaster."""
        assert not self.running
        self.write_conf()
        self._launched_at = self.log_size()
        argv = [self.programs.program("postgres"), "-D", str(self.data)]
        argv += ["-c", f"config_file={self.conf}", "-p", str(self.port)]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.programs.identity(),
            )

    def reload(self) -> None:
        self.write_conf()
        self.signal(signal.SIGHUP)

    def signal(self, number: int) -> None:
        """Send a signal to the postmaster, if there is one."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, how: str, *, patience_s: float = STOP_S) -> bool:
        """Stop the server; when this returns, no process of it is left.

        Return whether it ended by itself. A fast shutdown that takes longer than `patience_s` is
        followed by an immediate one.
        """
        self.drop_connection()
        in_time = True
        if how == "kill":
            self.signal(signal.SIGKILL)
        else:
            self.signal(signal.SIGINT if how == "fast" else signal.SIGQUIT)
            in_time = self._wait_ended(patience_s)
            if not in_time:
                self.signal(signal.SIGQUIT)
                assert self._wait_ended(STOP_S), f"{self.name} does not stop: {self.log_tail()}"
        self._reap()
        return in_time

    def _wait_ended(self, timeout_s: float) -> bool:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        return not self.running

    def _reap(self) -> None:
        """Kill what is left of the server, and collect the postmaster."""
        self.frozen, self._stopped_pids, self.paused = "", [], False
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(STOP_S)
            self._process = None
        kill_processes(self.data)

    def discard(self) -> None:
        """End everything that is left, whatever the state, for good."""
        self.drop_connection()
        self.thaw()
        if self.running:
            self.signal(signal.SIGQUIT)  # its end removes its shared memory
            self._wait_ended(QUIT_S)
        self._reap()
        remove_shared_memory(self.data)

    def freeze(self, what: str) -> bool:
        """SIGSTOP; return whether there was something to stop."""
        if what == "receiver":
            pids = [int(row[0] or 0) for row in self.query(_RECEIVER)]
        else:
            pids = server_processes(self.data)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.frozen = what if pids else ""
        self._stopped_pids = pids
        return bool(pids)

    def thaw(self) -> None:
        for pid in self._stopped_pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.frozen, self._stopped_pids = "", []

    def wait_checkpointer_idle(self) -> None:
        """Wait until the checkpointer has loaded settings that the postmaster was seen to have.

        It owns the flag by which a commit knows that it may have to wait, and shows it to nobody;
        but the signal was sent before the fresh backend was forked, and it handles it before it
        sleeps again.
        """
        before = self._checkpointer()
        deadline = time.monotonic() + IDLE_S
        while before is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)
            now = self._checkpointer()
            if now == before and now[1] == "S":
                return
            before = now

    def _checkpointer(self) -> tuple[str, str] | None:
        """Return the number of times that the checkpointer went to sleep, and its state."""
        for pid in server_processes(self.data):
            with contextlib.suppress(OSError):
                if b"checkpointer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    status = Path(f"/proc/{pid}/status").read_text()
                    lines = dict(line.split(":\t", 1) for line in status.splitlines())
                    return lines["voluntary_ctxt_switches"], lines["State"][:1]
        return None

    def kill_receiver(self) -> None:
        """SIGTERM to the WAL receiver, if there is one."""
        for row in self.query(_RECEIVER):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(row[0] or 0), signal.SIGTERM)

    def remove_data(self) -> None:
        remove_shared_memory(self.data)
        shutil.rmtree(self.data)

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_since(0).splitlines()[-lines:])

    # ---------------------------------------------------------------- SQL

    def connect(self, name: str = "test") -> Connection:
        """Open a connection to a fresh backend.

        Raises:
            ConnectionLostError, StatementError: it is not there, or takes no connections.
        """
        return Connection(self.sockets, self.port, user=SUPERUSER, database=DATABASE, name=name)

    def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """Run a query on the connection that is kept for it.

        Raises:
            ConnectionLostError, StatementError: as above, or the statement failed.
        """
        try:
            if self._admin is None:
                self._admin = self.connect("admin")
            return self._admin.query(sql)
        except ConnectionLostError:
            self.drop_connection()
            raise

    def drop_connection(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def look(self) -> Look | None:
        """Return what the server says of itself; None if it does not answer."""
        if not self.running or self.frozen == "server":
            return None
        try:
            row = self.query(LOOK)[0]
        except (ConnectionLostError, StatementError):
            return None  # not up, or leaving recovery at this moment
        return look_of(self.name, row)

    def rows(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return what a new snapshot sees: each key with its values, all sorted."""
        return tuple((str(k), tuple(str(v).split())) for k, v in self.query(_ROWS))

    def wait_up(self, timeout_s: float) -> bool:
        """Wait until it takes connections; False if it ended, waits for WAL, or not in time."""
        deadline = time.monotonic() + timeout_s
        while self.running and time.monotonic() < deadline:
            if self.look() is not None:
                return True
            if self.waits_for_wal():
                return False
            time.sleep(POLL_S)
        return False

    def waits_for_wal(self) -> bool:
        """Return whether what it needs to be consistent was nowhere to be had, several times."""
        log = self.log_since(self._launched_at)
        return "consistent recovery state reached" not in log and log.count(_NO_WAL) >= NO_WAL_MAX
