"""`metako status` and `metako members`: ask one node what it sees, and show it.

In: the URL of the API, or a configuration file that names it. Out: a table or JSON, and an exit
code: 0 while a primary is active, 1 while there is none, 11 if the agent does not answer.

Deliberately unaware of what makes a cluster healthy: the agent says so, this only shows it.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from metako.api.client import fetch_status
from metako.cli.output import is_terminal, plain_table, write_json, write_line
from metako.cli.status_data import Data
from metako.cli.status_text import (
    LOST_RECORD,
    MEMBER_COLUMNS,
    NO_MEMBER,
    STATUS_COLUMNS,
    Picture,
    has_primary,
    lines,
    member_rows,
    picture,
)
from metako.model.errors import UnreachableError

if TYPE_CHECKING:
    from rich.console import RenderableType  # loaded only when there is a terminal to draw on

EXIT_NO_PRIMARY = 1
_STYLES = {
    "primary": "bold green",
    "dead": "red",
    "failed": "red",
    "suspect": "yellow",
    "left": "dim",
    "unknown": "dim",
    LOST_RECORD: "red",
    NO_MEMBER: "dim",
}


def show_status(url: str, *, timeout_s: float, as_json: bool) -> int:
    """Show the status of the node at `url` once; return the exit code."""
    data = fetch_status(url, timeout_s)
    if as_json:
        write_json(data)
    else:
        _draw(picture(data, _now()))
    return 0 if has_primary(data) else EXIT_NO_PRIMARY


def watch_status(url: str, *, timeout_s: float, interval_s: float, as_json: bool) -> int:
    """Show the status again and again until interrupted; an agent that is away is waited for.

    In JSON each answer is one line, and a time without an answer says so on stderr.
    """
    if as_json or not is_terminal():
        while True:
            _print_once(url, timeout_s, as_json=as_json)
            time.sleep(interval_s)
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(_renderable(url, timeout_s), refresh=True)
            time.sleep(interval_s)


def show_members(url: str, *, timeout_s: float, as_json: bool) -> int:
    """List the members that the node at `url` knows, with their addresses and versions."""
    data = fetch_status(url, timeout_s)
    if as_json:
        write_json(data.get("members"))
        return 0
    for line in plain_table(MEMBER_COLUMNS, member_rows(data)):
        write_line(line)
    return 0


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


def _print_once(url: str, timeout_s: float, *, as_json: bool) -> None:
    try:
        data: Data = fetch_status(url, timeout_s)
    except UnreachableError as error:
        sys.stderr.write(f"metako: {error}\n")
        return
    if as_json:
        write_json(data, compact=True)
        return
    write_line("\n".join(lines(picture(data, _now()))) + "\n")


def _draw(shown: Picture) -> None:
    if not is_terminal():
        for line in lines(shown):
            write_line(line)
        return
    from rich.console import Console

    Console().print(_panel(shown))


def _renderable(url: str, timeout_s: float) -> RenderableType:
    from rich.text import Text

    try:
        return _panel(picture(fetch_status(url, timeout_s), _now()))
    except UnreachableError as error:
        return Text(f"metako: {error}", style="red")


def _panel(shown: Picture) -> RenderableType:
    """Return the picture as something rich can draw; text from outside is never markup."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for label, value in shown.facts:
        facts.add_row(Text(label, style="dim"), Text(value))
    table = Table(*STATUS_COLUMNS, header_style="bold")
    for row in shown.rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    trouble = Text(shown.trouble, style="bold red") if shown.trouble else Text("")
    return Group(facts, table, trouble)
