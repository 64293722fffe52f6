"""A Python that another user can run, with what metako needs, wherever the tests' own lies.

The interpreter of a test run is often below a home directory that nobody else may enter. Its
packages are copied to a place that everybody may read, for an interpreter of the same version.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = ("pixeltable*", "mypy*", "ruff*", "pip*", "hypothesis*", "__pycache__", "*.pth")


def interpreters() -> list[str]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [os.path.realpath(sys.executable), f"/usr/bin/python{version}"]


def works_for(user: str, python: Path | str) -> bool:
    try:
        subprocess.run(
            [str(python), "-c", "import metako.runtime.node"],
            user=user,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@contextlib.contextmanager
def python_for(user: str) -> Iterator[Path | None]:
    """Yield a program that runs Python with metako as `user`; None if no interpreter can."""
    place = Path(tempfile.mkdtemp(prefix="metako-python-", dir="/tmp"))
    try:
        place.chmod(0o755)
        library = place / "lib"
        shutil.copytree(
            sysconfig.get_paths()["platlib"],
            library,
            ignore=shutil.ignore_patterns(*LEFT_OUT),
        )
        for package in ("metako", "sim"):
            shutil.rmtree(library / package, ignore_errors=True)
            shutil.copytree(ROOT / package, library / package)
        subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
        python = place / "python"
        for interpreter in interpreters():
            python.write_text(f'#!/bin/sh\nPYTHONPATH="{library}" exec "{interpreter}" "$@"\n')
            python.chmod(0o755)
            if works_for(user, python):
                yield python
                return
        yield None
    finally:
        shutil.rmtree(place, ignore_errors=True)
