"""The programs of the system that make networks, and how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from metako.model.errors import MetakoError

TIMEOUT_S = 20.0
PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
}


class LabError(MetakoError):
    """The lab cannot be made, changed or removed; what was there before may be there still."""


def tool(name: str) -> str:
    """Return the absolute path of a program.

    Raises:
        LabError: it is not installed; the text says which package has it.
    """
    # Users other than root often have no sbin in their PATH.
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        raise LabError(f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    return found


def run(argv: Sequence[str], text: str = "") -> str:
    """Run a program to its end with `text` as its input, and return what it wrote.

    Raises:
        LabError: it failed, or took longer than TIMEOUT_S and was killed.
    """
    command = " ".join(argv)
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command} did not end within {TIMEOUT_S:g} s") from error
    except OSError as error:
        raise LabError(f"{command} cannot be started: {error}") from error
    if done.returncode != 0:
        why = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise LabError(f"{command} failed: {why}")
    return done.stdout
