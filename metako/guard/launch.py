"""Run one program that ends when its starter ends: `python -I -S launch.py OPTIONS -- PROGRAM …`.

Options are `--parent=PID`, and `--uid= --gid= --groups=` if root is to become another user. The
parent-death signal must be set in the child, after the change of user, which would clear it. A
Python callback between fork and exec would do that too, but deadlocks in a process with threads.

Exits with 127 and a line on stderr if the program cannot be run. Imports the standard library only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def _main(arguments: list[str]) -> str:
    split = arguments.index("--")
    pairs = (argument.removeprefix("--").partition("=") for argument in arguments[:split])
    options = {key: value for key, _, value in pairs}
    argv = arguments[split + 1 :]
    libc = ctypes.CDLL(None)
    if "uid" in options:
        uid, gid = int(options["uid"]), int(options["gid"])
        os.setgroups([int(group) for group in options["groups"].split(",") if group])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(options["parent"]):
        return "the starter has gone"
    # Python ignores these; an executed program would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - running a program is the purpose
    except OSError as error:
        return f"cannot run {argv[0]}: {error.strerror}"


if __name__ == "__main__":
    sys.stderr.write(f"{_main(sys.argv[1:])}\n")
    sys.exit(127)
