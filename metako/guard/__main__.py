"""Start of the guard: `python -I -S <this directory> --run-dir=… --data-dir=… …`.

Takes `--key=value` arguments: run-dir, data-dir, uid, gid, groups (comma separated), agent-uid,
orphan-timeout-s, and those of `watchdog.Wish` if there is one. Descriptor 3 is a pipe to the
starter, which gets one line: `ready`, `busy`, or what went wrong. The order matters: all imports,
then what only root may do, then the change of user, then the lock, the socket, and the loop.

Invariant: of two guards for one run directory only the one that holds the lock listens.
"""

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time

if __package__ in (None, ""):
    # Run by path: Python has put this directory in front of the standard library. Only the package
    # itself is wanted, behind it.
    sys.path[0:1] = []
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from metako.guard import device, linux, packets, program
from metako.guard.keeper import Keeper, open_keeper
from metako.guard.watchdog import Wish, wish_of

READY_FD = 3
NICE_GAIN = 10
_IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
)


def _options(arguments: list[str]) -> dict[str, str]:
    pairs = (argument.removeprefix("--").partition("=") for argument in arguments)
    return {key: value for key, _, value in pairs}


def _tell(word: str) -> None:
    with contextlib.suppress(OSError):
        os.write(READY_FD, word.encode("utf-8", "replace"))


def _listen(directory: int) -> socket.socket | None:
    """Return the listening socket in the run directory, or None if another guard has it.

    The directory's path may be longer than a socket address can be, so both names are relative to
    the working directory, which is put back to `/` at the end.
    """
    os.fchdir(directory)
    try:
        lock = os.open(packets.LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends
        except BlockingIOError:
            return None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(packets.SOCKET_NAME)  # a former guard's: it does not hold the lock any more
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(packets.SOCKET_NAME)
        listener.listen(program.BACKLOG)
        return listener
    finally:
        os.chdir("/")


def _open_watchdog(kernel: device.Kernel, wish: Wish | None, data_dir: str) -> Keeper:
    """Return the keeper of the watchdog.

    To open it is to take it over from a guard that was killed, and to stop it. A server which that
    guard has left, and which may be writable, is what it must go on counting for.
    """
    if wish is not None and linux.server_runs_in(data_dir):
        return Keeper(why=f"a PostgreSQL that no guard watches runs in {data_dir}")
    return open_keeper(kernel, wish)


def _warm_up() -> None:
    """Use once what might import something at its first use, while that is still possible."""
    own = os.getpid()
    linux.children_of(own)
    linux.is_stopped(own)
    packets.decode_untrusted(packets.encode({"at": time.strftime("%Z", time.gmtime())}))
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        socket.send_fds(one, [b"x"], [READY_FD])


def main(kernel: device.Kernel) -> int:
    """Run the guard that the arguments describe; return its exit code."""
    options = _options(sys.argv[1:])
    uid, gid = int(options["uid"]), int(options["gid"])
    groups = [int(group) for group in options["groups"].split(",") if group]
    with contextlib.suppress(OSError):
        os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > READY_FD:
            with contextlib.suppress(OSError):  # the listing's own descriptor
                os.close(int(name))
    os.umask(0o177)
    directory = os.open(options["run-dir"], os.O_RDONLY | os.O_DIRECTORY)

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):  # needs root; only makes the fence more punctual
        os.setpriority(os.PRIO_PROCESS, 0, nice - NICE_GAIN)
    memory_locked = linux.lock_memory()
    wish = wish_of(options)
    keeper = _open_watchdog(kernel, wish, options["data-dir"])
    _warm_up()
    if os.getuid() != uid:
        linux.drop_privileges(uid, gid, groups)
    linux.become_subreaper()

    listener = _listen(directory)
    if listener is None:
        keeper.close(in_good_order=True)
        _tell(packets.BUSY)
        return 0
    watch = program.Program(
        listener,
        program.Options(
            data_dir=options["data-dir"],
            agent_uid=int(options["agent-uid"]),
            orphan_timeout_s=float(options["orphan-timeout-s"]),
            nice=nice,
            memory_locked=memory_locked,
            watchdog_required=wish is not None and wish.required,
        ),
        keeper,
    )
    _tell(packets.READY)
    os.close(READY_FD)
    notes = watch.run()
    os.fchdir(directory)
    with contextlib.suppress(OSError):
        os.unlink(packets.SOCKET_NAME)  # still under the lock: nobody else's
    for note in notes:
        sys.stderr.write(f"{note}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(device.Linux()))
    except Exception as error:
        _tell(f"{type(error).__name__}: {error}")
        raise
