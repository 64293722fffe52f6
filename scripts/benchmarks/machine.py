"""On what a benchmark ran: figures without it cannot be compared with any others."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import metako

GIT_TIMEOUT_S = 10
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of the machine and the programs before the run."""

    processor: str
    cores: int  # that this process may use
    memory_gib: float
    kernel: str
    file_system: str  # of the clusters' directories: a commit waits for its fsync
    python: str
    metako: str
    commit: str  # "" outside of a checkout; ends in "-dirty" if files were changed
    date: str  # UTC, to the minute
    load_before: float  # of one minute; above 0.5 somebody else uses the machine


def look(directory: Path) -> Machine:
    """Return what this machine is; `directory` is where the clusters will be."""
    return Machine(
        processor=_field("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        kernel=platform.release(),
        file_system=file_system(directory, Path("/proc/mounts").read_text(encoding="utf-8")),
        python=platform.python_version(),
        metako=metako.__version__,
        commit=commit(ROOT),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        load_before=round(os.getloadavg()[0], 2),
    )


def file_system(directory: Path, mounts: str) -> str:
    """Return the type of the file system that holds `directory`, as /proc/mounts has it."""
    path = str(directory.resolve())
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = words[1].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two mounts on one point the later one is seen.
        if inside and len(point) >= len(best):
            best, kind = point, words[2]
    return kind


def commit(root: Path) -> str:
    """Return the checked-out commit, shortened; "" if there is no git or no repository."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((ln.partition(":")[2].strip() for ln in lines if ln.startswith(name)), "")
