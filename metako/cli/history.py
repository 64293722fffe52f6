"""`metako history`: what was decided in the cluster, as one node knows it, newest last.

In: the URL of a node's API. Out: a line for each change, with the parts of an election below it, or
JSON. What is told of a time is local time; JSON has it in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from metako.api.client import fetch_history
from metako.cli.output import printable, write_json, write_line
from metako.model.status import HISTORY_MAX

PARTS = ("silence", "delay", "votes", "document", "promotion", "commit")
"""Of an election, in their order; `Took` says what they are."""
UNKNOWN_TIME = "-" * 19
ELECTION = "election"


def show_history(
    url: str, *, limit: int, elections_only: bool, timeout_s: float, as_json: bool
) -> int:
    """Show the newest entries of the history; return the exit code."""
    asked = limit if not elections_only else HISTORY_MAX
    entries = [e for e in fetch_history(url, timeout_s, asked) if isinstance(e, dict)]
    if elections_only:
        entries = [entry for entry in entries if entry.get("kind") == ELECTION][-limit:]
    if as_json:
        write_json(entries)
        return 0
    if not entries:
        write_line("nothing has happened yet")
    for entry in entries:
        for line in _lines(entry):
            write_line(line)
    return 0


def _lines(entry: Mapping[str, object]) -> Iterator[str]:
    kind, text = printable(str(entry.get("kind"))), printable(str(entry.get("text")))
    yield f"{_time(entry.get('at'))}  term {entry.get('term')}  {kind:<10}  {text}"
    if kind != ELECTION:
        return
    place = f"timeline {entry.get('timeline')} from {printable(str(entry.get('lsn')))}"
    parts = [
        f"{part} {ms / 1000:.2f} s" if ms >= 1000 else f"{part} {ms} ms"
        for part in PARTS
        if isinstance(ms := entry.get(f"{part}_ms"), int)
    ]
    yield " " * len(UNKNOWN_TIME) + "  " + ", ".join([*parts, place])


def _time(at: object) -> str:
    """Return a time of the API as local time."""
    try:
        return datetime.fromisoformat(str(at)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return UNKNOWN_TIME
