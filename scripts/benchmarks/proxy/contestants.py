"""Who takes part, and how a peer is started and ended.

A peer runs in the foreground as a child of this process, never as root, in a directory of its own.
Invariant: `Peer.stop` leaves no process of the peer; should this process be killed, the kernel
tells the peer, and it ends.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from benchmarks.proxy import configs, procfs
from benchmarks.proxy.configs import HOST, Launch, Setting
from benchmarks.proxy.results import (
    DIRECT,
    DIRECT_TLS,
    METAKO,
    PGBOUNCER,
    TLS_SUFFIX,
    speaks_tls,
)
from metako.demo.logs import last_lines
from metako.model.errors import MetakoError

READY_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.05
VERSION_TIMEOUT_S = 10
PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Privileges are dropped first: the kernel forgets whom to tell of a parent's death when a process
# changes its user. PostgreSQL's user need not be able to read this Python.
_LAUNCHER = (
    "import ctypes,os,sys;"
    "parent,uid,gid,number=map(int,sys.argv[1:5]);"
    "uid>=0 and (os.setgroups([]),os.setgid(gid),os.setuid(uid));"
    "ctypes.CDLL(None,use_errno=True).prctl(1,number,0,0,0);"
    "os.getppid()==parent or sys.exit(1);"
    "os.execv(sys.argv[5],sys.argv[5:])"
)


@dataclass(frozen=True, slots=True)
class PeerKind:
    """One of the other programs."""

    what: str
    program: str
    package: str  # of Debian
    version_option: str
    launch: Callable[[Setting], Launch]
    stop_signal: int = signal.SIGTERM  # that ends it at once, with clients connected or without
    process_per_client: bool = False  # all of them from the start on
    prepares: Callable[[str], bool] = lambda _: True  # whether this version can, by the protocol


PEERS: Mapping[str, PeerKind] = {
    PGBOUNCER: PeerKind(
        what="PgBouncer, pool by session",
        program="pgbouncer",
        package="pgbouncer",
        version_option="--version",
        launch=partial(configs.pgbouncer, transaction=False),
    ),
    PGBOUNCER + TLS_SUFFIX: PeerKind(
        what="PgBouncer, pool by session, TLS with its clients",
        program="pgbouncer",
        package="pgbouncer",
        version_option="--version",
        launch=partial(configs.pgbouncer, transaction=False, tls=True),
    ),
    "pgbouncer-transaction": PeerKind(
        what=f"PgBouncer, {configs.TRANSACTION_POOL} servers shared by transaction",
        program="pgbouncer",
        package="pgbouncer",
        version_option="--version",
        launch=partial(configs.pgbouncer, transaction=True),
        prepares=configs.prepares_by_transaction,
    ),
    "haproxy": PeerKind(
        what="HAProxy, mode tcp",
        program="haproxy",
        package="haproxy",
        version_option="-v",
        launch=configs.haproxy,
    ),
    "pgpool": PeerKind(
        what="Pgpool-II without load balancing",
        program="pgpool",
        package="pgpool2",
        version_option="--version",
        launch=configs.pgpool,
        stop_signal=signal.SIGINT,  # SIGTERM waits for the clients
        process_per_client=True,
    ),
}

CONTESTANTS: Mapping[str, str] = {
    DIRECT: "no proxy: what the others are measured against",
    DIRECT_TLS: "the same, clients speak TLS with the server",
    METAKO: "metako's proxy in front of its own server",
    METAKO + TLS_SUFFIX: "the same proxy, TLS with its clients",
    **{name: kind.what for name, kind in PEERS.items()},
}
# What TLS costs is a question of its own, and three more would make a run half as long again.
BY_DEFAULT = (DIRECT, METAKO, PGBOUNCER, "haproxy", "pgpool")


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody who can be measured now."""

    name: str
    port: int
    roots: Callable[[], Sequence[int]]  # processes whose trees are its own; none for `direct`
    prepares: bool = True
    clients_max: int | None = None  # None: as many as anybody else

    @property
    def tls(self) -> bool:
        """Whether its clients speak TLS."""
        return speaks_tls(self.name)


def find_program(kind: PeerKind) -> Path | None:
    # Debian keeps servers in /usr/sbin, which an ordinary user's PATH need not have.
    search = os.pathsep.join((os.environ.get("PATH", ""), PROGRAM_PATH))
    found = shutil.which(kind.program, path=search)
    return None if found is None else Path(found)


def version_of(kind: PeerKind, program: Path) -> str:
    """Return the version that the program tells; "unknown" if it tells none."""
    try:
        result = subprocess.run(
            [str(program), kind.version_option],
            capture_output=True,
            text=True,
            check=False,
            timeout=VERSION_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return parse_version(result.stdout + result.stderr)


def parse_version(text: str) -> str:
    found = re.search(r"\d+\.\d[\w.+~-]*", text)
    return found[0] if found else "unknown"


class Peer:
    """One running peer. Start it from the main thread: its end is tied to that."""

    def __init__(
        self, kind: PeerKind, program: Path, setting: Setting, *, os_user: str | None
    ) -> None:
        """Write its files and start it; whether it serves is seen by `wait_ready`."""
        launch = kind.launch(setting)
        self._kind = kind
        self._log = setting.directory / "output.log"
        self.port = setting.port
        entry = pwd.getpwnam(os_user) if os_user is not None else None
        uid, gid = (entry.pw_uid, entry.pw_gid) if entry is not None else (-1, -1)
        setting.directory.mkdir(mode=0o700)
        for name, text in launch.files.items():
            path = setting.directory / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
            os.chown(path, uid, gid)
        os.chown(setting.directory, uid, gid)
        argv = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(uid), str(gid)]
        argv += [str(int(kind.stop_signal)), str(program), *launch.arguments]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=setting.directory,
                start_new_session=True,  # Ctrl-C in the terminal is for us
            )

    def roots(self) -> list[int]:
        return [self._process.pid] if self._process.poll() is None else []

    async def wait_ready(self) -> None:
        """Return once its port takes connections. Raises `MetakoError` if it does not."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            with suppress(OSError):
                stream = await trio.open_tcp_stream(HOST, self.port)
                await stream.aclose()
                return
            await trio.sleep(POLL_INTERVAL_S)
        code = self._process.poll()
        state = "does not take connections" if code is None else f"ended with status {code}"
        raise MetakoError(f"{self._kind.program} {state}: {' / '.join(last_lines(self._log, 3))}")

    def stop(self) -> None:
        """End it and all of its processes. Returns in bounded time; nothing of it is left."""
        left = procfs.tree(self.roots(), procfs.process_stats())
        if not left:
            return
        self._process.send_signal(self._kind.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=STOP_TIMEOUT_S)
        if self._process.poll() is None:
            left = procfs.tree(self.roots(), procfs.process_stats())
            self._process.kill()
            self._process.wait()
        # Children of a peer that had to be killed. The session is its own: a pid that was used
        # again meanwhile belongs to another one.
        for pid in left - {self._process.pid}:
            with suppress(ProcessLookupError):
                if os.getsid(pid) == self._process.pid:
                    os.kill(pid, signal.SIGKILL)
