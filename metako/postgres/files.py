"""The files of a server: what metako generates, its marks, and what the data directory holds.

Every write is durable before the function returns: temporary file, fsync, rename, fsync of the
directory. Everything belongs to the operating system user that PostgreSQL runs as and is readable
by nobody else. Blocking; the callers run it in a thread where it may take long.

Invariant: a data directory is only ever renamed here. The one function that deletes,
`delete_superseded`, takes directories that a completed clone has replaced.

Knows nothing of processes, SQL or targets.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from metako.model.errors import DataDirectoryError
from metako.model.ids import DataId, TimelineId
from metako.model.postgres import DataState
from metako.postgres.aside import Aside, fsync_dir, written_segments
from metako.postgres.history import history_name, timeline_of_file
from metako.postgres.osuser import OsUser, make_dir
from metako.postgres.settings import (
    Rendered,
    ServerSettings,
    render_ident,
    render_passfile,
    strip_managed,
)

DATA_ID_FILE = "metako.data_id"
TAINT_FILE = "metako.rewinding"
KEPT_GENERATIONS_MAX = 100
_STATUS_LINE = 8  # of postmaster.pid; pg_ctl reads it as well
HISTORY_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class DiskView:
    """What was on disk at one moment."""

    state: DataState
    data_id: DataId
    histories: Mapping[int, str]
    max_tli: TimelineId


class _FileState(NamedTuple):
    """By which a file is known not to have been replaced or written since."""

    inode: int
    size: int
    changed_ns: int


def _state_of(path: Path) -> _FileState:
    found = path.stat()
    return _FileState(found.st_ino, found.st_size, found.st_ctime_ns)


class ServerFiles:
    """Paths and durable operations on one node's server files."""

    def __init__(self, settings: ServerSettings, user: OsUser) -> None:
        self.user = user
        self.data = Path(settings.data_dir)
        self.wal = self.data / "pg_wal"
        self.own = Path(settings.files_dir)
        self._aside = Aside(
            Path(settings.state_dir) / "diverged", user, keep_bytes=settings.diverged_keep_bytes
        )
        self.conf = self.own / "metako.conf"
        self.hba = self.own / "pg_hba.conf"
        self.ident = self.own / "pg_ident.conf"
        self.log = self.own / "postgresql.log"
        self._taint = self.own / "rewinding"
        self._clone = self.data.with_name(self.data.name + ".clone")
        self._complete = self.data.with_name(self.data.name + ".clone.complete")
        self.socket_dir = Path(settings.socket_dir)
        self._settings = settings
        # As read last: there are as many as there were failovers, and they are looked at often.
        self._histories: Mapping[int, tuple[_FileState, str]] = {}

    # ---------------------------------------------------------------- generated files

    def prepare(self) -> None:
        """Make the directories and the files that do not depend on the role."""
        make_dir(self.own.parent, self.user, mode=0o700)
        make_dir(self.own, self.user)
        make_dir(self.socket_dir, self.user)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.write(self.ident, render_ident(self._settings))
        self.write(self.own / "passfile", render_passfile(self._settings))

    def write(self, path: Path, text: str) -> None:
        """Replace a file durably."""
        self._prepare(path, text).rename(path)
        fsync_dir(path.parent)

    def _prepare(self, path: Path, text: str) -> Path:
        """Write what is to replace a file beside it, durably, and return where that is."""
        temporary = path.with_name(path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            if self.user.switch:
                os.fchown(descriptor, self.user.uid, self.user.gid)
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        return temporary

    def write_settings(self, rendered: Rendered) -> None:
        """Write the files of a role. pg_hba first: settings carry the digest of both.

        What a host that fails in between leaves of them is written again before a server starts.
        """
        if not self.hba.exists() or self.hba.read_text(encoding="utf-8") != rendered.hba:
            self._prepare(self.hba, rendered.hba).rename(self.hba)
        self._prepare(self.conf, rendered.conf).rename(self.conf)
        fsync_dir(self.own)
        automatic = self.data / "postgresql.auto.conf"
        with contextlib.suppress(FileNotFoundError):
            text = automatic.read_text(encoding="utf-8", errors="surrogateescape")
            if strip_managed(text).strip() != text.strip():
                cleaned = strip_managed(text)
                self.write(automatic, cleaned.encode("utf-8", "replace").decode("utf-8"))

    def read_conf(self) -> str:
        """Return metako.conf as it is on disk; "" if there is none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self.conf.read_text(encoding="utf-8")
        return ""

    def ensure_standby_signal(self) -> None:
        """Make sure that any later start, also one that is not ours, is a start as a standby."""
        self.write(self.data / "standby.signal", "")

    def remove_standby_signal(self) -> None:
        for name in ("standby.signal", "recovery.signal"):
            (self.data / name).unlink(missing_ok=True)
        fsync_dir(self.data)

    # ---------------------------------------------------------------- the data directory

    def check(self, major: int) -> None:
        """Refuse a data directory that is not ours to touch.

        Raises:
            DataDirectoryError: foreign, half-written, another owner's or another version's.
                Nothing was changed.
        """
        if not self.data.exists() or not any(self.data.iterdir()):
            return
        version = self.data / "PG_VERSION"
        if not version.is_file():
            raise DataDirectoryError(
                f"{self.data} is not empty and holds no PostgreSQL database: "
                "choose another data directory"
            )
        if not (self.data / "global" / "pg_control").is_file():
            raise DataDirectoryError(
                f"{self.data} is half-written (global/pg_control is missing): "
                "restore it, or move it away to have it cloned"
            )
        owner = self.data.stat().st_uid
        if owner != self.user.uid:
            raise DataDirectoryError(
                f"{self.data} belongs to uid {owner}, PostgreSQL runs as {self.user.name} "
                f"(uid {self.user.uid}): chown -R {self.user.name} it or set postgresql.os_user"
            )
        found = version.read_text().strip()
        if found != str(major):
            raise DataDirectoryError(
                f"{self.data} is of PostgreSQL {found}, the programs are of {major}: "
                "set postgresql.bindir"
            )

    def data_state(self) -> DataState:
        if self._taint.exists() or (self.data / TAINT_FILE).exists():
            return DataState.TAINTED
        if (self.data / "PG_VERSION").exists():
            return DataState.PRESENT
        return DataState.EMPTY

    def data_id(self) -> DataId:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return DataId((self.data / DATA_ID_FILE).read_text().strip())
        return DataId("")

    def new_data_id(self, directory: Path | None = None) -> None:
        """Give the data a new identity: what the old one acknowledged is no longer vouched for."""
        self.write((directory or self.data) / DATA_ID_FILE, secrets.token_hex(16) + "\n")

    def ensure_data_id(self) -> None:
        if self.data_state() is DataState.PRESENT and not self.data_id():
            self.new_data_id()

    def taint(self) -> None:
        """Mark the data as half-rewound; twice, because a rewind may remove the inner mark."""
        self.write(self._taint, f"{self.data}\n")
        self.write(self.data / TAINT_FILE, "")

    def clear_taint(self) -> None:
        for mark in (self.data / TAINT_FILE, self._taint):
            mark.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                fsync_dir(mark.parent)

    # ---------------------------------------------------------------- clones

    def prepare_clone(self) -> Path:
        """Remove what an interrupted clone left and return where the next one goes."""
        self._complete.unlink(missing_ok=True)
        if self._clone.exists():
            shutil.rmtree(self._clone)
        make_dir(self._clone, self.user)
        return self._clone

    def complete_clone(self) -> None:
        """Give the clone its identity and say that it is whole.

        That is said beside the directory and names the identity: whatever is inside of it may have
        come from the server that it is a copy of, long before the copy was whole.
        """
        self.new_data_id(self._clone)
        self.write(self._complete, (self._clone / DATA_ID_FILE).read_text())

    def _clone_is_whole(self) -> bool:
        try:
            return self._complete.read_text() == (self._clone / DATA_ID_FILE).read_text()
        except (OSError, UnicodeDecodeError):
            return False

    def swap_clone(self) -> None:
        """Put the finished clone in place; the directory that was there is kept aside."""
        if not self._clone_is_whole():
            raise DataDirectoryError(f"{self._clone} is not a finished clone")
        if self.data.exists():
            if any(self.data.iterdir()):
                self.data.rename(self._next_kept())
            else:
                self.data.rmdir()
        self._clone.rename(self.data)
        self._complete.unlink(missing_ok=True)
        fsync_dir(self.data.parent)
        self.clear_taint()

    def finish_interrupted_swap(self) -> None:
        """Complete or undo an exchange of directories that a crash cut in two."""
        if self.data.exists() and any(self.data.iterdir()):
            return
        if self._clone_is_whole():
            self.swap_clone()
        elif kept := self.superseded():
            if self.data.exists():
                self.data.rmdir()
            kept[-1].rename(self.data)
            fsync_dir(self.data.parent)

    def _next_kept(self) -> Path:
        for number in range(1, KEPT_GENERATIONS_MAX):
            path = self.data.with_name(f"{self.data.name}.old-{number}")
            if not path.exists():
                return path
        raise DataDirectoryError(f"too many old copies beside {self.data}: remove some")

    def superseded(self) -> list[Path]:
        """Return the directories that clones have replaced, oldest first."""
        paths = [
            self.data.with_name(f"{self.data.name}.old-{number}")
            for number in range(1, KEPT_GENERATIONS_MAX)
        ]
        return [path for path in paths if path.is_dir()]

    def delete_superseded(self) -> None:
        """Delete what clones have replaced. Only to be called once the clone streams."""
        for path in self.superseded():
            shutil.rmtree(path)

    # ---------------------------------------------------------------- WAL and histories

    def view(self) -> DiskView:
        """Return everything that an observation needs of the disk."""
        return DiskView(self.data_state(), self.data_id(), self.histories(), self.max_tli())

    def histories(self) -> Mapping[int, str]:
        """Return every history file of pg_wal, by timeline."""
        found: dict[int, tuple[_FileState, str]] = {}
        for name in self._wal_names():
            tli = timeline_of_file(name)
            if tli is not None and name.endswith(".history"):
                with contextlib.suppress(FileNotFoundError):
                    path = self.wal / name
                    state = _state_of(path)
                    known = self._histories.get(int(tli))
                    if known is not None and known[0] == state:
                        found[int(tli)] = known
                    elif state.size <= HISTORY_BYTES_MAX:
                        text = path.read_text(encoding="utf-8", errors="replace")
                        found[int(tli)] = state, text
        self._histories = found
        return {tli: text for tli, (_, text) in found.items()}

    def max_tli(self) -> TimelineId:
        numbers = [timeline_of_file(name) or 0 for name in self._wal_names()]
        return TimelineId(max(numbers, default=0))

    def _wal_names(self) -> list[str]:
        try:
            return os.listdir(self.wal)
        except OSError:
            return []

    def write_history(self, tli: int, text: str) -> None:
        """Write a history file, unless there is one."""
        path = self.wal / history_name(tli)
        if not path.exists():
            self.write(path, text)

    def set_histories_aside(self, beyond: TimelineId) -> None:
        """Move the history files of timelines that this data holds no WAL of out of the way.

        PostgreSQL starts on the newest timeline that it finds a history file for. A promotion
        that was cut short, or a file fetched ahead of its WAL, would make it start on a timeline
        that never was, or refuse to start at all. A standby fetches what it needs again.
        """
        unused = [n for n in self._wal_names() if n.endswith(".history")]
        unused = [n for n in unused if (timeline_of_file(n) or 0) > beyond]
        if not unused:
            return
        self._aside.save("history", [self.wal / name for name in unused])
        for name in sorted(unused, reverse=True):  # never leaves a gap PostgreSQL would stop at
            (self.wal / name).unlink()
        fsync_dir(self.wal)

    def save_diverged(self, fork_lsn: int, segment_size: int) -> Path:
        """Copy the WAL from the fork on, which a rewind is about to throw away. May take long.

        Raises:
            OSError: it could not be kept; nothing may be thrown away.
        """
        histories = [self.wal / n for n in self._wal_names() if n.endswith(".history")]
        segments = written_segments(self.wal, fork_lsn // segment_size, segment_size)
        return self._aside.save("wal", [*segments, *histories])

    def takes_connections(self) -> bool:
        """Return whether the postmaster has noted in its lock file that it is ready."""
        try:
            lines = (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except OSError:
            return False
        return len(lines) >= _STATUS_LINE and lines[_STATUS_LINE - 1].strip() == "ready"

    # ---------------------------------------------------------------- the server's log

    def log_size(self) -> int:
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def log_since(self, offset: int, limit: int = 65536) -> str:
        """Return the end of the server's log, at most `limit` bytes and nothing before `offset`."""
        try:
            with open(self.log, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                begin = offset if offset <= size else 0
                stream.seek(max(begin, size - limit))
                return stream.read(limit).decode("utf-8", "replace")
        except OSError:
            return ""
