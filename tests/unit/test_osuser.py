"""Who PostgreSQL runs as, and the directories that it is given."""

import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from metako.model.errors import PrivilegeError
from metako.postgres import osuser
from metako.postgres.osuser import OsUser, ensure_traversable, make_dir, resolve_os_user

STRANGER = OsUser("stranger", 54321, 54321, (54321,), switch=True)
GROUP_MEMBER = OsUser("member", 54322, 54322, (54322, 777), switch=True)
OWN_NAME = pwd.getpwuid(os.getuid()).pw_name
SELF = OsUser(OWN_NAME, os.getuid(), os.getgid(), tuple(os.getgroups()), switch=False)


def as_uid(monkeypatch, uid):
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_ordinary_user_runs_postgresql_itself(monkeypatch):
    as_uid(monkeypatch, 54321)
    user = resolve_os_user(None)
    assert (user.uid, user.switch) == (54321, False)
    assert resolve_os_user("") == user


def test_root_becomes_the_default_user(monkeypatch):
    as_uid(monkeypatch, 0)
    entry = pwd.struct_passwd(("postgres", "x", 54321, 54322, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", {"postgres": entry}.__getitem__)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 99])
    expected = OsUser("postgres", 54321, 54322, (54322, 99), switch=True)
    assert resolve_os_user(None) == expected


@pytest.mark.parametrize("own_uid", [0, 54321])
def test_root_as_database_user_is_refused(monkeypatch, own_uid):
    as_uid(monkeypatch, own_uid)
    with pytest.raises(PrivilegeError, match="refuses to run"):
        resolve_os_user("root")


def test_missing_user_is_named_with_what_to_do():
    with pytest.raises(PrivilegeError, match="useradd --system no-such-user"):
        resolve_os_user("no-such-user")


def test_ordinary_user_cannot_become_another(monkeypatch):
    as_uid(monkeypatch, 54321)
    with pytest.raises(PrivilegeError, match="only root"):
        resolve_os_user("daemon")


@pytest.mark.parametrize(
    ("mode", "user", "granted"),
    [
        (0o001, STRANGER, True),
        (0o770, STRANGER, False),
        (0o710, GROUP_MEMBER, True),
        (0o701, GROUP_MEMBER, False),  # the group's bits count for its members, not the others'
        (0o700, OsUser("owner", 1, 1, (), switch=True), True),
        (0o077, OsUser("owner", 1, 1, (), switch=True), False),
    ],
)
def test_mode_bits_are_read_as_the_kernel_does(mode, user, granted):
    status = os.stat_result((stat.S_IFDIR | mode, 0, 0, 0, 1, 777, 0, 0, 0, 0))
    assert osuser.allows(status, user, 1) is granted


def test_closed_parent_is_named_with_its_mode(tmp_path):
    closed = tmp_path / "closed"
    (closed / "deep").mkdir(parents=True)
    closed.chmod(0o700)
    # pytest's own directories are private too; the first one in the way is the one to name.
    first = next(d for d in reversed([closed, *closed.parents]) if not d.stat().st_mode & 1)
    with pytest.raises(PrivilegeError, match=f"{first} has mode 0700"):
        ensure_traversable(closed / "deep" / "data", STRANGER)


def test_missing_rights_of_the_last_directory_itself_are_no_obstacle():
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # made with mode 0700
        assert osuser.obstacle(directory, STRANGER) is None
        assert osuser.obstacle(Path(directory) / "data", STRANGER) == Path(directory)


def test_open_path_and_missing_directories_are_no_obstacle():
    ensure_traversable("/usr/bin/env", STRANGER)
    ensure_traversable("/usr/no/such/directory", STRANGER)


def test_directory_is_made_with_its_parents_and_its_mode(tmp_path):
    old = os.umask(0o077)
    try:
        make_dir(tmp_path / "a" / "b", SELF, 0o750)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o750
    make_dir(tmp_path / "a" / "b", SELF)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o750


def test_others_lose_the_right_to_write(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o777)
    make_dir(tmp_path / "d", SELF)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o755


def test_shared_directory_is_refused(tmp_path):
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(PrivilegeError, match="shared by all"):
        make_dir(shared, SELF)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


def test_directory_of_another_owner_is_not_taken_over(tmp_path):
    other = OsUser(OWN_NAME, os.getuid() + 1, os.getgid(), (os.getgid(),), switch=False)
    (tmp_path / "d").mkdir()
    tmp_path.chmod(0o755)
    with pytest.raises(PrivilegeError):
        make_dir(tmp_path / "d", other)
    assert (tmp_path / "d").stat().st_uid == os.getuid()


def test_file_in_the_way_is_reported(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(PrivilegeError, match="not a directory"):
        make_dir(tmp_path / "f", SELF)
    with pytest.raises(PrivilegeError, match="cannot make"):
        make_dir(tmp_path / "f" / "below", SELF)
