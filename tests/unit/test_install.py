"""Finding PostgreSQL's programs. The programs here are scripts that know their version only."""

import os
import shutil
import sys

import pytest

from metako.model.errors import BinaryMissingError, PrivilegeError
from metako.postgres import install, osuser
from metako.postgres.install import Installation, find_installation, parse_version
from metako.postgres.osuser import OsUser

SELF = OsUser("self", os.getuid(), os.getgid(), tuple(os.getgroups()), switch=False)


def make_bindir(path, version):
    path.mkdir(parents=True)
    program = path / "postgres"
    program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    program.chmod(0o755)
    return path


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """A machine without PostgreSQL."""
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(install, "SYSTEM_BINDIRS", (str(tmp_path / "system/*/bin"),))
    monkeypatch.setattr(install, "EMBEDDED_PACKAGE", "fake_pgserver")
    return monkeypatch


def make_embedded(monkeypatch, tmp_path):
    site = tmp_path / "site"
    make_bindir(site / "fake_pgserver" / "pginstall" / "bin", "16.14")
    make_bindir(site / "fake_pgserver" / "pginstall18" / "bin", "18.4")
    (site / "fake_pgserver" / "__init__.py").write_text("raise RuntimeError('was imported')")
    (site / "fake_pgserver.libs").mkdir()
    (site / "fake_pgserver.libs" / "libpq.so.5").write_text("library")
    monkeypatch.syspath_prepend(site)
    return site


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 150018),
        ("postgres (PostgreSQL) 16.14\n", 160014),
        ("postgres (PostgreSQL) 18beta1", 180000),
        ("postgres (PostgreSQL) 19devel", 190000),
    ],
)
def test_versions_are_read(text, version):
    assert parse_version(text) == version


def test_text_without_version_is_an_error():
    with pytest.raises(ValueError, match="no version"):
        parse_version("mysqld 8.0")


def test_given_directory_is_used_and_incomplete_ones_are_reported(tmp_path):
    bindir = make_bindir(tmp_path / "bin dir", "17.2")
    found = find_installation(str(bindir), SELF, tmp_path / "cache")
    assert found == Installation(bindir, 170002)
    assert found.major == 17
    assert found.program("postgres") == bindir / "postgres"
    with pytest.raises(BinaryMissingError, match="initdb"):
        found.program("initdb")
    with pytest.raises(BinaryMissingError, match="install PostgreSQL"):
        find_installation(str(tmp_path), SELF, tmp_path / "cache")


def test_program_that_fails_is_reported_in_its_own_words(tmp_path):
    bindir = make_bindir(tmp_path / "bin", "17.2")
    (bindir / "postgres").write_text("#!/bin/sh\necho 'libfoo.so is missing' >&2; exit 127\n")
    with pytest.raises(BinaryMissingError, match=r"libfoo.so is missing"):
        find_installation(str(bindir), SELF, tmp_path)


def test_newest_packaged_version_wins(nothing, tmp_path):
    for major in (9, 15, 17):
        make_bindir(tmp_path / "system" / str(major) / "bin", f"{major}.1")
    make_embedded(nothing, tmp_path)
    assert find_installation(None, SELF, tmp_path / "cache").version_num == 170001


def test_path_wins_over_packages(nothing, tmp_path):
    make_bindir(tmp_path / "system" / "17" / "bin", "17.1")
    nothing.setenv("PATH", str(make_bindir(tmp_path / "mine", "14.3")))
    assert find_installation("", SELF, tmp_path / "cache").version_num == 140003


def test_embedded_is_the_last_resort_and_never_imported(nothing, tmp_path):
    site = make_embedded(nothing, tmp_path)
    found = find_installation(None, SELF, tmp_path / "cache")
    assert found == Installation(site / "fake_pgserver" / "pginstall18" / "bin", 180004)
    assert "fake_pgserver" not in sys.modules


def test_embedded_version_can_be_asked_for(nothing, tmp_path):
    make_embedded(nothing, tmp_path)
    assert find_installation("embedded:16", SELF, tmp_path / "cache").version_num == 160014
    assert find_installation("embedded", SELF, tmp_path / "cache").version_num == 180004
    with pytest.raises(BinaryMissingError, match=r"no embedded PostgreSQL 12 .*16, 18"):
        find_installation("embedded:12", SELF, tmp_path / "cache")


def test_nothing_found_says_what_was_tried_and_what_to_do(nothing, tmp_path):
    with pytest.raises(BinaryMissingError) as caught:
        find_installation(None, SELF, tmp_path / "cache")
    for part in ("on PATH", "system/*/bin", "fake_pgserver", "apt install"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def unreadable_below(monkeypatch, directory):
    """Let every path below `directory` be out of reach, without needing another user."""
    real = osuser.obstacle

    def obstacle(path, user):
        below = os.path.realpath(path).startswith(f"{os.path.realpath(directory)}/")
        return directory if below else real(path, SELF)

    for module in (install, osuser):
        monkeypatch.setattr(module, "obstacle", obstacle)


def test_unreadable_embedded_tree_is_copied_once_with_its_libraries(nothing, tmp_path):
    site = make_embedded(nothing, tmp_path)
    unreadable_below(nothing, site)
    cache = tmp_path / "cache"
    found = find_installation("embedded", SELF, cache)
    assert found.bindir.is_relative_to(cache)
    assert found.program("postgres").is_file()
    libraries = found.bindir.parents[2] / "fake_pgserver.libs"
    assert (libraries / "libpq.so.5").read_text() == "library"
    assert (found.bindir / "postgres").stat().st_mode & 0o777 == 0o755
    assert (libraries / "libpq.so.5").stat().st_mode & 0o777 == 0o644
    marker = found.bindir / "kept"
    marker.write_text("")
    assert find_installation("embedded", SELF, cache) == found
    assert marker.exists()
    assert len(list(cache.iterdir())) == 1


def test_interrupted_copy_leaves_nothing_that_could_be_used(nothing, tmp_path):
    site = make_embedded(nothing, tmp_path)
    unreadable_below(nothing, site)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    nothing.setattr(shutil, "copytree", full)
    with pytest.raises(BinaryMissingError, match="No space left"):
        find_installation("embedded", SELF, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_unreadable_given_directory_is_a_matter_of_privileges(nothing, tmp_path):
    bindir = make_bindir(tmp_path / "home" / "bin", "17.2")
    unreadable_below(nothing, tmp_path / "home")
    with pytest.raises(PrivilegeError, match="cannot be entered"):
        find_installation(str(bindir), SELF, tmp_path / "cache")
