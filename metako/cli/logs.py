"""`metako logs`: the node's log file, readable, and followed across rotations.

In: the configuration, which names the file, and how many lines to begin with. Out: lines on
stdout. Invariant: every line passes the log's own formatter or `printable`, so that what a client
of the database wrote into a log line cannot steer the operator's terminal.

Deliberately unaware of how the file is written and rotated (`metako.observability`).
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from metako.cli.output import is_terminal, printable, write_line
from metako.model.errors import ConfigError, MetakoError
from metako.observability.follow import Follower, Line
from metako.observability.record import LogRecord, json_line, text_line

if TYPE_CHECKING:
    from metako.config.node_config import NodeConfig  # loaded by whoever passes it

POLL_INTERVAL_S = 0.2


def show_logs(config: NodeConfig, *, follow: bool, count: int, as_json: bool) -> int:
    """Print the last `count` lines of the node's log; with `follow`, what comes after them too.

    Raises:
        ConfigError: the node writes no file.
        MetakoError: there is no file yet, and nobody asked to wait for one.
    """
    path = config.logging.file
    if path is None:
        raise ConfigError(
            f"{config.path}: logging.file is not set, so the node logs to its standard error only: "
            "set it, or use `journalctl -u metako -f`"
        )
    if not follow and not path.exists():
        raise MetakoError(f"{path} does not exist: the node has not run yet; -f waits for it")
    follower = Follower(path, last=count)
    colour = is_terminal()
    try:
        while True:
            for line in follower.read_new():
                write_line(_json(line) if as_json else _text(line, colour=colour))
            if not follow:
                return 0
            time.sleep(POLL_INTERVAL_S)
    finally:
        follower.close()


def _text(line: Line, *, colour: bool) -> str:
    if isinstance(line, LogRecord):
        return text_line(line, colour=colour, show_node=True)
    return printable(line)


def _json(line: Line) -> str:
    # A line that is not ours still has to be JSON to whoever asked for JSON.
    return json_line(line) if isinstance(line, LogRecord) else json.dumps({"msg": line})
