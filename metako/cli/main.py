"""Entry of the `metako` command.

In: `sys.argv`. Out: the exit code; docs/commands.md lists them. Invariant: no way of ending,
an interrupt during start-up included, shows a traceback.

Deliberately thin: `--version` is answered before anything else is imported, because scripts and
packages ask for it, often, on slow machines.
"""

from __future__ import annotations

import os
import sys

from metako import __version__

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def main() -> None:
    """Run the command that `sys.argv` names and exit with its code."""
    _reserve_standard_descriptors()
    try:
        if sys.argv[1:] == ["--version"]:
            sys.stdout.write(f"metako {__version__}\n")
            sys.stdout.flush()
            return
        from metako.cli.app import build_app

        # As a module the first argument is the path of __main__.py, which nobody would type.
        build_app()(prog_name="metako")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _reserve_standard_descriptors() -> None:
    """Open /dev/null for every standard descriptor that the caller closed.

    Otherwise the first file or socket that is opened gets the number of stdout or stderr, and what
    a library prints there ends up in it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # open until the process ends
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # open until the process ends
