"""Unix sockets by which processes of one node find each other: listen at a path, connect to it.

In: a path of any length. Out: non-blocking `socket` objects.

Invariant: only the user who listens, and root, can connect, from the first moment that anybody
can: these permissions are all the authentication that there is.

Deliberately on the standard library alone: the command line loads this for a single question.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

PATH_BYTES_MAX = 107
"""Of a Unix socket's address on Linux, without the final zero."""
LISTEN_BACKLOG = 1024  # the kernel takes the lesser of this and net.core.somaxconn


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen at `path` inside the block, replacing what an earlier process left there.

    Afterwards the socket is closed, and removed unless another process listens there by then.
    Raises `OSError` before the block, with nothing made.
    """
    path.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        with _short_path(path) as short:
            sock.bind(short)
        # As long as the file is held its inode number is not given to another one, so that the
        # comparison at the end tells ours from a successor's, also if `sock` is closed by then.
        held = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        stack.callback(os.close, held)
        stack.callback(_remove, path, os.fstat(held).st_ino)
        # Before listen(): until then nobody can connect, so there is no moment without the mode.
        path.chmod(0o600)
        sock.listen(LISTEN_BACKLOG)
        yield sock


def connect(path: Path) -> socket.socket:
    """Return a connection to the Unix socket at `path`. Raises `OSError` at once if there is none.

    A full backlog is an error too (EAGAIN), so this never waits.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _short_path(path) as short:
            sock.connect(short)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove(path: Path, inode: int) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """Give `path` a name that fits a socket address, by way of a descriptor of its directory."""
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
