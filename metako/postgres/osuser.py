"""Which operating system user PostgreSQL runs as, and directories that it can use.

Input: a configured name and paths. Output: numeric identities, directories, or a PrivilegeError
that names the directory in the way. PostgreSQL refuses to run as root, so an agent that is root
runs it as another user, who must be able to traverse every parent of what it is given.

Does not know of PostgreSQL's own files.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from metako.model.errors import PrivilegeError

DEFAULT_USER = "postgres"
_ACL = "system.posix_acl_access"


@dataclass(frozen=True, slots=True)
class OsUser:
    """Who PostgreSQL runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]  # all, the primary one included
    switch: bool  # this process is root and must change user first


def resolve_os_user(name: str | None) -> OsUser:
    """Return the user that PostgreSQL runs as.

    Args:
        name: None or "" means the current user, or `postgres` if that is root.

    Raises:
        PrivilegeError: there is no such user, it is root, or this process may not become it.
    """
    own_uid = os.geteuid()
    if not name and own_uid != 0:
        return _own(own_uid)
    wanted = name or DEFAULT_USER
    try:
        entry = pwd.getpwnam(wanted)
    except KeyError:
        raise PrivilegeError(
            f"there is no operating system user {wanted!r}: create it (useradd --system {wanted}) "
            "or set postgresql.os_user to one that exists"
        ) from None
    if entry.pw_uid == 0:
        raise PrivilegeError(
            f"PostgreSQL refuses to run as {wanted!r} (uid 0): set postgresql.os_user to an "
            "unprivileged user"
        )
    if own_uid not in (0, entry.pw_uid):
        raise PrivilegeError(
            f"only root can run PostgreSQL as {wanted!r} (this is uid {own_uid}): start metako as "
            f"{wanted} or root, or remove postgresql.os_user"
        )
    if own_uid == entry.pw_uid:
        return _own(own_uid)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, switch=True)


def _own(uid: int) -> OsUser:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)  # containers run as numbers without a name
    return OsUser(name, uid, os.getegid(), tuple(os.getgroups()), switch=False)


def allows(status: os.stat_result, user: OsUser, wanted: int) -> bool:
    """Return whether mode bits grant `wanted` (a sum of 4 read, 2 write, 1 execute) to `user`."""
    if user.uid == 0:
        return True
    if status.st_uid == user.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == user.gid or status.st_gid in user.groups:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & wanted == wanted


def _has_acl(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, _ACL))
    except OSError:
        return False


def obstacle(path: str | os.PathLike[str], user: OsUser) -> Path | None:
    """Return the first parent directory of `path` that `user` cannot traverse, or None.

    Symbolic links are followed. Directories that do not exist yet are no obstacle, nor are those
    with an access control list, which may grant more than the mode bits show.
    """
    real = Path(os.path.realpath(path))
    for directory in reversed(real.parents):
        try:
            status = directory.stat()
        except FileNotFoundError:
            return None
        except PermissionError:
            return directory.parent
        if not allows(status, user, 1) and not _has_acl(directory):
            return directory
    return None


def ensure_traversable(path: str | os.PathLike[str], user: OsUser) -> None:
    """Check that `user` can reach `path` through all its parents.

    Raises:
        PrivilegeError: names the first directory in the way, with its mode.
    """
    directory = obstacle(path, user)
    if directory is None:
        return
    try:
        mode = f" has mode {stat.S_IMODE(directory.stat().st_mode):04o} and"
    except OSError:
        mode = ""
    raise PrivilegeError(
        f"the directory {directory}{mode} cannot be entered by user {user.name!r}, who needs "
        f"{path}: chmod o+x {directory}, or use a path elsewhere"
    )


def make_dir(path: str | os.PathLike[str], user: OsUser, mode: int = 0o700) -> None:
    """Make the directory, which then belongs to `user`. Missing parents stay this process's own.

    An existing directory keeps its mode, except that others lose the right to write to it. A
    directory that everybody shares, like /tmp, is refused rather than taken over.

    Raises:
        PrivilegeError: it cannot be made, entered or owned by `user`. Parents may have been made.
    """
    target = Path(os.path.abspath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        ensure_traversable(target, user)
        try:
            target.mkdir(mode=mode)
            created = True
        except FileExistsError:
            created = False
        status = target.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise PrivilegeError(f"{target} is not a directory")
        if status.st_mode & stat.S_ISVTX and status.st_mode & stat.S_IWOTH:
            raise PrivilegeError(f"{target} is shared by all users: use a directory below it")
        if status.st_uid != user.uid:
            _give(target, status, user)
        if created:
            target.chmod(mode)  # whatever the umask was
        elif status.st_mode & 0o022:
            target.chmod(stat.S_IMODE(status.st_mode) & ~0o022)
    except OSError as error:
        raise PrivilegeError(
            f"cannot make the directory {target}: {error.strerror}; make it by hand for user "
            f"{user.name!r} or use another path"
        ) from error


def _give(target: Path, status: os.stat_result, user: OsUser) -> None:
    """Change the owner; only root's own directories are given away."""
    if not user.switch or status.st_uid != os.geteuid():
        owner = status.st_uid
        raise PrivilegeError(
            f"the directory {target} belongs to uid {owner}, PostgreSQL runs as {user.name!r} "
            f"(uid {user.uid}): chown {user.name} {target}, or use another path"
        )
    os.chown(target, user.uid, user.gid)
