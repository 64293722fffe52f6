"""What is known of a worker outside of it: how it exits, where its lock and its door are.

Apart from the worker itself, so that the agent, which only starts and watches workers, need not
load what they are made of.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

EXIT_STOPPED = 0
EXIT_CANNOT_LISTEN = 1
EXIT_PORT_IN_USE = 4  # as model.errors.PortInUseError
EXIT_CANNOT_ENCRYPT = 13  # the TLS files cannot be used; as launcher.ProxyError
EXIT_LOCKED = 14  # another worker with this number runs
EXIT_NO_GUARD = 15  # there was no guard to belong to


HEIR_FORMAT = 1  # to be raised with each change of `estate` that others would misunderstand


@dataclass(frozen=True, slots=True)
class Record:
    """What stands in a worker's locked file, as JSON."""

    pid: int
    port: int
    fingerprint: str  # of its configuration; another one means: replace, do not adopt
    guard: int = 0  # the process that it ends with
    heirs: int = 0  # the format in which it hands over; 0: it cannot


def lock_path(control: Path, index: int) -> Path:
    """Return the file whose lock says that worker `index` takes connections."""
    return control.with_name(f"{control.name}.worker-{index}")


def old_lock_path(control: Path, index: int, pid: int) -> Path:
    """Return the file whose lock says that a worker `index` of before still drains."""
    return control.with_name(f"{control.name}.worker-{index}.{pid}")


def old_lock_paths(control: Path) -> list[tuple[int, Path]]:
    """Return all such files there are by the worker's number, also of workers that have ended."""
    begin = f"{control.name}.worker-"
    found = control.parent.glob(f"{glob.escape(begin)}*.*")
    return [(int(path.name[len(begin) :].split(".")[0]), path) for path in sorted(found)]


def heir_path(control: Path, index: int) -> Path:
    """Return the Unix socket at which worker `index` hears who replaces it; see `handover`."""
    return control.with_name(f"{control.name}.heir-{index}")


def door_path(control: Path, index: int) -> Path:
    """Return the Unix socket at which worker `index` hears its siblings; see `door`."""
    return control.with_name(f"{control.name}.door-{index}")


def old_door_path(control: Path, index: int, pid: int) -> Path:
    """Return the door of a worker `index` of before that still drains."""
    return control.with_name(f"{control.name}.door-{index}.{pid}")


def old_door_paths(control: Path, index: int) -> list[Path]:
    """Return all such doors there are, also those of workers that have ended."""
    return sorted(control.parent.glob(f"{glob.escape(control.name)}.door-{index}.*"))
