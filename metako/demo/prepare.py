"""What must be there before a local cluster can be written down: a user and a directory.

Input: the command's choices. Output: the name of PostgreSQL's user, a directory that it can
traverse, a layout. Invariant: nothing that was there before is changed or removed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from metako.demo.layout import Layout, is_port_free, plan_layout, read_record
from metako.model.errors import DataDirectoryError, PortInUseError, PrivilegeError

DEFAULT_OS_USER = "postgres"


def ensure_os_user(say: Callable[[str], None]) -> str | None:
    """Return the user that PostgreSQL shall run as; None for the present one.

    PostgreSQL refuses to run as root, so as root the system user `postgres` is taken, and created
    if it is missing.

    Raises:
        PrivilegeError: it is missing and cannot be created.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(DEFAULT_OS_USER)
    except KeyError:
        pass
    else:
        return DEFAULT_OS_USER
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise PrivilegeError(
            f"PostgreSQL refuses to run as root, there is no user {DEFAULT_OS_USER!r} and no "
            "useradd to create it; run as an ordinary user"
        )
    say(f"creating the system user {DEFAULT_OS_USER!r}: PostgreSQL refuses to run as root")
    argv = [program, "--system", "--user-group", "--no-create-home"]
    argv += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", DEFAULT_OS_USER]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if result.returncode != 0:
        raise PrivilegeError(f"useradd {DEFAULT_OS_USER} failed: {result.stderr.strip()}")
    return DEFAULT_OS_USER


def make_directory() -> Path:
    """Return a new temporary directory that PostgreSQL's user can traverse, by a short path."""
    # TMPDIR can be long (Unix sockets have 107 bytes) or below a home that others cannot enter.
    parent = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None  # noqa: S108 - mkdtemp
    path = Path(tempfile.mkdtemp(prefix="metako-", dir=parent))
    path.chmod(0o755)
    return path


def open_layout(
    directory: Path,
    *,
    nodes: int,
    base_port: int | None,
    bindir: str | None,
    os_user: str | None,
    timing: str,
) -> Layout:
    """Return the layout of an earlier run in `directory`, else a new one.

    Raises:
        DataDirectoryError: the directory holds something else; it was not touched.
        PortInUseError: a port of the earlier run is taken by now.
    """
    found = read_record(directory)
    if found is None:
        if directory.is_dir() and any(directory.iterdir()):
            raise DataDirectoryError(f"{directory} is not empty and is no local cluster of metako")
        return plan_layout(
            directory,
            nodes=nodes,
            base_port=base_port,
            bindir=bindir,
            os_user=os_user,
            timing=timing,
        )
    for node in found.nodes:
        for port in node.ports():
            if not is_port_free(port):
                raise PortInUseError(f"port {port} of {node.name} in {directory} is taken")
    return found
