"""The name of what is being tested: a hash over the sources that decide how a run goes.

Out: `engine_version()`, twelve hexadecimal digits. Two trees with the same sources have the same
one; a changed comment changes it, which costs a tally and never mixes two. Commands, swarm and
timeline are left out: they start runs and show them, and no run depends on them. The
explorer plays none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import metako

VERSION_DIGITS = 12
SUFFIXES = frozenset({".py", ".yaml", ".yml"})

# All of metako that the simulator may use. Of a package that also drives something the whole is
# taken: which of its modules compute is a detail of the package.
METAKO_PARTS = (
    *("__init__.py", "ports.py", "model", "wire", "membership", "election", "cluster"),
    *("postgres", "config", "proxy", "pgwire", "sqlroute", "guard"),
)
SIM_LEFT_OUT = frozenset({"first", "cli", "explorer", "swarm", "timeline", "__main__.py"})


def engine_version() -> str:
    """Return the version of the engine and simulator, as their sources are now."""
    package = Path(metako.__file__).parent
    simulator = Path(__file__).parent.parent
    parts = [package / part for part in METAKO_PARTS]
    parts += [path for path in sorted(simulator.iterdir()) if path.name not in SIM_LEFT_OUT]
    return hash_of(_sources(parts), package.parent, simulator.parent)


def hash_of(files: Iterable[Path], *roots: Path) -> str:
    """Return the hash of names, relative to the root that holds them, and contents."""
    named = {}
    for path in files:
        root = next(root for root in roots if path.is_relative_to(root))
        named[path.relative_to(root).as_posix()] = path
    total = hashlib.sha256()
    for name in sorted(named):
        content = named[name].read_bytes()
        # The length keeps the end of one file apart from the beginning of the next.
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:VERSION_DIGITS]


def _sources(parts: Iterable[Path]) -> Iterator[Path]:
    for part in parts:
        if part.is_dir():
            yield from (path for path in part.rglob("*") if path.suffix in SUFFIXES)
        elif part.suffix in SUFFIXES:
            yield part
