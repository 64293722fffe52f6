"""PostgreSQL's programs for one run: which, as whom, and the data directories to begin with.

The three directories of a sequence are copies of a template that is made once: a primary on
timeline 2 with two standbys that had received everything, all of them shut down. Segments of
1 MB and a single database keep a copy below 20 MB.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from metako.postgres.install import Installation, find_installation
from metako.postgres.osuser import OsUser, make_dir, resolve_os_user
from metako.postgres.sweep import server_processes

SUPERUSER = "postgres"
DATABASE = "template1"
PROGRAM_TIMEOUT_S = 60.0
POLL_S = 0.01
KILLED_S = 10.0

CONF = """\
listen_addresses = ''
unix_socket_directories = '{sockets}'
hba_file = '{hba}'
shared_buffers = '2MB'
dynamic_shared_memory_type = mmap  # nothing in /dev/shm outlives a kill
max_connections = 30
max_wal_senders = 8
max_replication_slots = 4  # a base backup takes one
max_worker_processes = 0
max_logical_replication_workers = 0
autovacuum = off
fsync = off
full_page_writes = on
wal_keep_size = '200MB'
min_wal_size = '4MB'
max_wal_size = '1GB'
checkpoint_timeout = '1h'
checkpoint_completion_target = 0  # a checkpoint is over at once
bgwriter_delay = '10s'
wal_writer_delay = '10ms'
wal_retrieve_retry_interval = '50ms'
wal_receiver_status_interval = '1s'
wal_receiver_timeout = 0  # a frozen process stays connected
wal_sender_timeout = 0
restart_after_crash = off
jit = off
huge_pages = off
lc_messages = 'C'
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%n [%p] %b: '
"""


class StoppedError(Exception):
    """The run was asked to end."""


class Programs:
    """Runs programs of PostgreSQL as a user that they accept."""

    def __init__(self, bindir: str | None, base: Path) -> None:
        self.base = base
        self.stopping = threading.Event()
        self.user: OsUser = resolve_os_user(None)
        self.installation: Installation = find_installation(bindir, self.user, base / "cache")
        self.template = base / "template"

    def identity(self) -> dict[str, object]:
        """Return what `Popen` needs to run something as PostgreSQL's user."""
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}
        result: dict[str, object] = {"env": environment, "cwd": "/"}
        if self.user.switch:
            result |= {"user": self.user.uid, "group": self.user.gid}
            result["extra_groups"] = self.user.groups
        return result

    def program(self, name: str) -> str:
        return str(self.installation.program(name))

    def make_dir(self, path: Path) -> None:
        make_dir(path, self.user, mode=0o755)

    def own(self, path: Path) -> None:
        """Give a file to PostgreSQL's user."""
        if self.user.switch:
            os.chown(path, self.user.uid, self.user.gid)

    def write(self, path: Path, text: str) -> None:
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(text)
        self.own(temporary)
        temporary.rename(path)

    def run(self, name: str, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Run a program to its end; return its status and what it printed.

        If it takes too long, or the run is asked to stop, it is killed.

        Raises:
            StoppedError: the run was asked to stop.
        """
        argv = [self.program(name), *arguments]
        running = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **self.identity(),
        )
        deadline = time.monotonic() + PROGRAM_TIMEOUT_S
        text: str | None = stdin
        try:
            while True:
                try:
                    out, _ = running.communicate(text, timeout=0.2)
                    return running.returncode, out
                except subprocess.TimeoutExpired:
                    text = None
                if self.stopping.is_set():
                    raise StoppedError
                if time.monotonic() > deadline:
                    return -1, f"{name} did not end within {PROGRAM_TIMEOUT_S:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(running.pid, signal.SIGKILL)
            running.communicate()

    def copy_template(self, name: str, target: Path) -> None:
        """Make the data directory of a server as every sequence begins with it."""
        source = self.template / name / "data"
        # A tree of a thousand small files: cp is several times as fast as shutil.
        subprocess.run(
            ["cp", "-a", "--reflink=auto", str(source), str(target)], check=True, timeout=60
        )


def kill_processes(data: Path) -> None:
    """SIGKILL every process of the server on `data` and wait until there is none."""
    deadline = time.monotonic() + KILLED_S
    while pids := server_processes(data):
        assert time.monotonic() < deadline, f"{data}: processes {pids} do not end"
        for pid in pids:
            _kill(data, pid)
        time.sleep(POLL_S)


def _kill(data: Path, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if pid in server_processes(data):  # the number is still that of the server's process
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def remove_shared_memory(data: Path) -> None:
    """Remove the System V segment that a killed postmaster has left; a clean end removes it."""
    try:
        words = (data / "postmaster.pid").read_text().splitlines()[6].split()
        listed = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    except (OSError, IndexError):
        return
    for line in listed:
        key, shmid, _, _, _, _, attached, *_ = line.split()
        if [key, shmid] == words and attached == "0":
            program = shutil.which("ipcrm") or "/usr/bin/ipcrm"
            with contextlib.suppress(OSError):
                subprocess.run([program, "-m", shmid], check=False, capture_output=True, timeout=10)
