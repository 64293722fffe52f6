"""What every test shares: which PostgreSQL to use, and a directory with a short path.

METAKO_TEST_BINDIR names the PostgreSQL for the tests: a directory, `embedded` or `embedded:18`;
without it the agents look for one themselves. METAKO_TEST_KEEP=1 leaves the directories of the
clusters for a look afterwards.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metako.demo.prepare import make_directory


@pytest.fixture(scope="session")
def test_bindir() -> str | None:
    return os.environ.get("METAKO_TEST_BINDIR") or None


@pytest.fixture(scope="session")
def keep_directories() -> bool:
    return os.environ.get("METAKO_TEST_KEEP", "") not in ("", "0")


@pytest.fixture
def short_directory(keep_directories: bool) -> Iterator[Path]:
    """A directory below /tmp that PostgreSQL's user can traverse: pytest's own are too long."""
    path = make_directory()
    yield path
    if not keep_directories:
        shutil.rmtree(path, ignore_errors=True)
