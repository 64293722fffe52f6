"""`python -m sim`: the commands of the simulator.

`metako simulate` runs this module too, and says with PROGRAM how it was called.
"""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count it
DEFAULT_PROGRAM = "python -m sim"


def main() -> None:
    """Run the command that `sys.argv` names and exit with its code."""
    try:
        from sim.cli.app import build_app

        build_app()(prog_name=globals().get("PROGRAM", DEFAULT_PROGRAM))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
