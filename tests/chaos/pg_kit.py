"""A plain PostgreSQL server for the tests of the clients, and clients as processes."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos.history import Operation, read_history

TESTS = Path(__file__).resolve().parents[1]
WAIT_S = 20.0
POLL_S = 0.02
PASSWORD = "a secret of the tests"
PR_SET_PDEATHSIG = 1
TABLE = (
    "create table chaos (key int not null, value text not null,"
    " at timestamptz default clock_timestamp())"
)


def find_bindir() -> Path | None:
    """Return the directory of the programs that the tests are to use, or None."""
    named = os.environ.get("METAKO_TEST_BINDIR", "")
    if named.startswith("/"):
        return Path(named)
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def server_user() -> str | None:
    """Return the OS user that servers run as; None: this process's own."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def wait_until(condition: Callable[[], object], what: str, *, timeout_s: float = WAIT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(POLL_S)


def _end_with_parent() -> None:
    # SIGQUIT is PostgreSQL's immediate shutdown. It runs after the change of user, which would
    # clear the setting.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGQUIT), 0, 0, 0)


class Server:
    """One server in a temporary directory; `close` ends it and removes everything."""

    def __init__(self, bindir: Path) -> None:
        self.port = free_port()
        self._bindir = bindir
        self._user = server_user()
        self._base = Path(tempfile.mkdtemp(prefix="mkc-", dir="/tmp"))
        self.data = self._base / "data"
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(self._base, self._user)
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nfsync = off\n"
                f"unix_socket_directories = '{self._base}'\nshared_buffers = 16MB\n"
                "wal_sender_timeout = 5s\n"
            )
        hba = "local all all trust\nhost all all all scram-sha-256\n"
        (self.data / "pg_hba.conf").write_text(hba)

    def _run(self, program: str, *arguments: object, stdin: str = "") -> str:
        result = subprocess.run(
            [str(self._bindir / program), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            user=self._user,
            group=self._user,
            cwd="/",
            timeout=60,
            check=False,
            env={**os.environ, "LC_ALL": "C", "PGOPTIONS": "-c synchronous_commit=local"},
        )
        assert result.returncode == 0, f"{program}: {result.stderr or result.stdout}"
        return result.stdout.strip()

    def start(self) -> None:
        with (self._base / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bindir / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                cwd="/",
                preexec_fn=_end_with_parent,
                env={**os.environ, "LC_ALL": "C"},
            )
        wait_until(self._accepts, f"the server accepts; {self._base}/log")

    def _accepts(self) -> bool:
        try:
            return self.sql("select 1", database="postgres") == "1"
        except AssertionError:
            return False

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the postmaster with a signal and wait for it and its children."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=WAIT_S)
            self._process = None

    def sql(self, text: str, *, database: str = "app") -> str:
        arguments = ("-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self._base, "-p", self.port)
        return self._run("psql", *arguments, "-U", "postgres", "-d", database, stdin=text)

    def create(self) -> None:
        self.sql(f"create role app login password '{PASSWORD}'", database="postgres")
        self.sql("create database app owner app", database="postgres")
        self.sql(f"set role app; {TABLE}")

    def reset(self) -> None:
        """Undo what tests change: the table is empty and nobody waits."""
        if self._process is None or self._process.poll() is not None:
            self._process = None
            self.start()
        self.sql("alter role app reset all; alter system reset synchronous_standby_names")
        self.sql("select pg_reload_conf()")
        self.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
        wait_until(lambda: self.count_sessions("true") == 0, "sessions end")
        self.sql(f"drop table chaos; set role app; {TABLE}")

    def demand_a_standby(self) -> None:
        """Have every commit wait for a standby that does not exist."""
        self.sql("alter system set synchronous_standby_names = 'nobody'")
        self.sql("select pg_reload_conf()")
        time.sleep(0.2)  # the checkpointer tells the sessions; there is nothing to ask

    def count_sessions(self, condition: str) -> int:
        where = f"usename = 'app' and ({condition})"
        return int(self.sql(f"select count(*) from pg_stat_activity where {where}"))

    def wait_commit_waits(self) -> None:
        wait_until(lambda: self.count_sessions("wait_event = 'SyncRep'") > 0, "a commit waits")

    def values(self) -> list[str]:
        return self.sql("select value from chaos").split()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._base, ignore_errors=True)


class ClientProcess:
    """A client in a process of its own, and what it has written."""

    def __init__(self, module: str, directory: Path, port: int, *options: str) -> None:
        self.out = directory / "client-c1.jsonl"
        password = directory / "password"
        password.write_text(PASSWORD + "\n")
        self.argv = [
            *(sys.executable, "-m", module, "--name", "c1", "--host", "127.0.0.1"),
            *("--port", str(port), "--via", "direct:n1", "--start-mono", str(time.monotonic())),
            *("--out", str(self.out), "--password-file", str(password), *options),
        ]
        self.environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> ClientProcess:
        self.process = subprocess.Popen(self.argv, env=self.environment)
        return self

    def operations(self) -> list[Operation]:
        return read_history(self.out).of(Operation) if self.out.exists() else []

    def wait_operations(self, count: int) -> None:
        wait_until(lambda: len(self.operations()) >= count, f"{count} operations")

    def finish(self) -> list[Operation]:
        """Wait for the end by `--count`; return the operations."""
        assert self.process is not None
        assert self.process.wait(timeout=WAIT_S) == 0
        return self.operations()

    def terminate(self) -> list[Operation]:
        assert self.process is not None
        self.process.terminate()
        return self.finish()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class CutBeforeReady:
    """A relay that ends both sides when a server's insert is answered but not yet ready.

    Everything up to and including the command tag of the insert is passed on. That is what a
    client sees when the link breaks between the row and the end of the commit.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_S)
        self.port = int(self._listener.getsockname()[1])

    def serve_one(self) -> None:
        client, _ = self._listener.accept()
        self._listener.close()  # whoever comes again is refused
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            client.settimeout(POLL_S)
            server.settimeout(POLL_S)
            pending = b""
            deadline_s = time.monotonic() + WAIT_S
            while time.monotonic() < deadline_s:
                server.sendall(_receive(client))
                pending += _receive(server)
                passed, pending, cut = _split(pending)
                client.sendall(passed)
                if cut:
                    return


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except TimeoutError:
        return b""


def _split(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return the whole messages of `data`, the rest, and whether the insert's tag was there."""
    at = 0
    while len(data) - at >= 1:
        if data[at : at + 1] == b"N" and at == 0 and len(data) == 1:  # "no TLS here"
            return data, b"", False
        if len(data) - at < 5:
            break
        size = 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        if len(data) - at < size:
            break
        message = data[at : at + size]
        at += size
        if message[:1] == b"C" and message[5:].startswith(b"INSERT"):
            return data[:at], b"", True
    return data[:at], data[at:], False
