"""Which processes belong to a node, as /proc shows them.

Input: a node's directory. Output: its processes, each with a kind. A process belongs to a node if
it is a metako process or a PostgreSQL program that names a path below the node's directory in its
arguments or works in one, or a descendant of such a process. Nobody else's process is ever
reported: an editor, a shell or a `psql` of the user in the same directory is left alone.
Zombies are not reported; they hold nothing and cannot be killed.
"""

from __future__ import annotations

import enum
import os
import re
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from metako.demo.layout import NodeLayout

SWEEPS_MAX = 200
SWEEP_INTERVAL_S = 0.02
POSTGRES_PROGRAMS = frozenset(
    {
        "initdb",
        "pg_basebackup",
        "pg_controldata",
        "pg_ctl",
        "pg_rewind",
        "pg_waldump",
        "postgres",
        "postmaster",
    }
)
_METAKO_MODULE = re.compile(r"metako(\.[a-z_]+)*|.*/metako(/[a-z_]+)*(\.py|/__main__\.py)?")


class Kind(enum.StrEnum):
    AGENT = "agent"
    GUARD = "guard"
    WORKER = "worker"
    POSTMASTER = "postmaster"
    POSTGRES = "postgres"  # a backend or an auxiliary process
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table. `start_ticks` with `pid` names it for good."""

    pid: int
    parent: int
    state: str  # R, S, D, T (stopped), Z (zombie), …
    start_ticks: int
    argv: tuple[str, ...]  # PostgreSQL's backends show their title as one argument
    program: str  # base name of the executable; "" when it cannot be read
    cwd: str  # "" when it cannot be read

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"


def read_process(pid: int) -> Process | None:
    """Return the process, or None if there is none or it is a zombie."""
    base = f"/proc/{pid}"
    try:
        stat = Path(base, "stat").read_bytes()
        argv = Path(base, "cmdline").read_bytes()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    rest = stat[stat.rindex(b")") + 2 :].split()
    state = rest[0].decode()
    if state in "ZX":
        return None
    program = _readlink(f"{base}/exe").rpartition("/")[2].removesuffix(" (deleted)")
    return Process(
        pid=pid,
        parent=int(rest[1]),
        state=state,
        start_ticks=int(rest[19]),
        argv=tuple(os.fsdecode(part) for part in argv.split(b"\0") if part),
        program=program,
        cwd=_readlink(f"{base}/cwd").removesuffix(" (deleted)"),
    )


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def process_table() -> dict[int, Process]:
    """Return every process that this user can see, by pid, without zombies."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return {pid: process for pid in pids if (process := read_process(pid)) is not None}


def is_alive(process: Process) -> bool:
    """Return whether exactly this process still runs; a reused pid is somebody else."""
    now = read_process(process.pid)
    return now is not None and now.start_ticks == process.start_ticks


def _names_path(process: Process, directory: str) -> bool:
    inside = directory + "/"
    return (
        process.cwd == directory
        or process.cwd.startswith(inside)
        or any(directory == arg or inside in arg for arg in process.argv)
    )


def _is_metako(process: Process) -> bool:
    # The interpreter's own options come before the module and are few.
    return process.program.startswith("python") and any(
        _METAKO_MODULE.fullmatch(arg) for arg in process.argv[1:5]
    )


def node_processes(directory: Path, table: Mapping[int, Process] | None = None) -> list[Process]:
    """Return the processes of the node in `directory`, parents before children."""
    table = process_table() if table is None else table
    path = str(directory)
    found = {
        process.pid
        for process in table.values()
        if process.pid != os.getpid()
        and (_is_metako(process) or process.program in POSTGRES_PROGRAMS)
        and _names_path(process, path)
    }
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    queue = list(found)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in found:
                found.add(child)
                queue.append(child)
    return sorted((table[pid] for pid in found), key=lambda process: process.start_ticks)


def kind_of(process: Process, table: Mapping[int, Process]) -> Kind:
    """Return what the process is, from its executable, arguments and parent."""
    if process.program in ("postgres", "postmaster"):
        parent = table.get(process.parent)
        if parent is not None and parent.program == process.program:
            return Kind.POSTGRES
        return Kind.POSTMASTER if "-D" in process.argv else Kind.POSTGRES
    if process.program in POSTGRES_PROGRAMS:
        return Kind.TOOL
    words = " ".join(process.argv[1:5])
    if "guard" in words:
        return Kind.GUARD
    if "proxy" in words:
        return Kind.WORKER
    return Kind.AGENT if "run" in process.argv else Kind.TOOL


def node_by_kind(node: NodeLayout) -> dict[Kind, list[Process]]:
    """Return the node's processes, grouped."""
    table = process_table()
    result: dict[Kind, list[Process]] = {}
    for process in node_processes(node.directory, table):
        result.setdefault(kind_of(process, table), []).append(process)
    return result


def postmaster_pid(node: NodeLayout) -> int | None:
    """Return the pid of the node's postmaster, from its lock file, if it runs."""
    try:
        first = (node.data_dir / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0]
        pid = int(first)
    except (OSError, ValueError):
        return None
    process = read_process(pid)
    # The file of a dead server can name a pid that is somebody else's by now.
    if process is None or process.program not in ("postgres", "postmaster"):
        return None
    return pid if process.cwd == str(node.data_dir) else None


def send(processes: Iterable[Process], signal_number: int) -> None:
    """Signal each of the processes that is still the one that was seen."""
    for process in processes:
        if is_alive(process):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal_number)


async def kill_all(directories: Iterable[Path]) -> list[Process]:
    """SIGKILL everything in the directories until nothing is left; return what would not die.

    Bounded to about four seconds. If cancelled, some processes may be left.
    """
    paths = tuple(directories)
    left: list[Process] = []
    for _ in range(SWEEPS_MAX):
        table = process_table()
        left = [process for path in paths for process in node_processes(path, table)]
        if not left:
            return []
        send(left, signal.SIGKILL)
        await trio.sleep(SWEEP_INTERVAL_S)
    return left


async def stop_all(directory: Path) -> list[Process]:
    """SIGSTOP every process of the node, also those that are forked meanwhile; return them.

    Bounded to about four seconds. If cancelled, some processes may run on.
    """
    processes: list[Process] = []
    for _ in range(SWEEPS_MAX):
        processes = node_processes(directory)
        running = [process for process in processes if not process.stopped]
        if not running:
            break
        send(running, signal.SIGSTOP)
        await trio.sleep(SWEEP_INTERVAL_S)
    return processes


def resume_all(directory: Path) -> None:
    """SIGCONT every process of the node, in one go."""
    send(node_processes(directory), signal.SIGCONT)
