"""A directory of PostgreSQL's programs in which some behave otherwise.

In: the real programs, and the environment that the server is to have. Out: a directory of links,
with scripts for three. As long as a counter beside pg_rewind or pg_basebackup is above 0, a run
counts it down, does its work for a while, and fails. postgres is started with more environment than
its parent gives it. Knows nothing of what metako makes of that.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = ("pg_rewind", "pg_basebackup")
SERVER = "postgres"
_SCRIPT = """\
#!/bin/sh
# Fails as often as the file beside it says.
left=$(cat '{counter}' 2>/dev/null || echo 0)
case $1 in --version | -V) left=0 ;; esac
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > '{counter}'
    {failing}
    echo '{program}: told to fail' >&2
    exit 1
fi
exec '{real}' "$@"
"""
_SERVER = """\
#!/bin/sh
{exports}
exec '{real}' "$@"
"""
_FAILING = {
    # Its work is done, and nobody is told so: the directory cannot be trusted.
    "pg_rewind": "'{real}' \"$@\"",
    "pg_basebackup": "timeout --signal=KILL 0.3 '{real}' \"$@\"",
}


class Wrappers:
    """The programs of one node."""

    def __init__(
        self, directory: Path, real: Path, server_environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self._real = real
        self._server_environment = server_environment or {}

    def make(self) -> None:
        """Make the directory, for every user to read and to count in."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o777)  # PostgreSQL's user counts down
        for program in sorted(self._real.iterdir()):
            path = self.directory / program.name
            if program.name == SERVER and self._server_environment:
                path.write_text(self._server_script(program))
                path.chmod(0o755)
                continue
            if program.name not in PROGRAMS:
                path.symlink_to(program)
                continue
            failing = _FAILING[program.name].format(real=program)
            text = _SCRIPT.format(
                counter=self._counter(program.name),
                failing=failing,
                program=program.name,
                real=program,
            )
            path.write_text(text)
            path.chmod(0o755)
            self.fail(program.name, 0)

    def _server_script(self, program: Path) -> str:
        """Return what becomes the server by exec: its parent knows it by its pid."""
        exports = "\n".join(
            f"export {name}={shlex.quote(value)}"
            for name, value in self._server_environment.items()
        )
        return _SERVER.format(exports=exports, real=program)

    def fail(self, program: str, times: int) -> None:
        """Let the next runs of a program fail; 0: none of them."""
        counter = self._counter(program)
        counter.write_text(f"{times}\n")
        os.chmod(counter, 0o666)

    def failures(self, program: str) -> int:
        """Return how many runs are still to fail."""
        try:
            return int(self._counter(program).read_text())
        except (OSError, ValueError):
            return 0

    def _counter(self, program: str) -> Path:
        return self.directory / f"{program}.failures"
