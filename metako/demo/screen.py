"""What the interactive demo shows: a table of the nodes, the newest events, the keys.

Input: the nodes' views, the log events, the writer's record. Output: rich renderables, or plain
lines where there is no terminal. Pure, except that rich measures the terminal when it prints.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from metako.demo.layout import Layout
from metako.demo.logs import LogEvent
from metako.demo.view import NodeView, active_primary
from metako.demo.writer import Record

EVENTS_SHOWN = 12
STALL_SHOWN_S = 0.5
KEYS = "k kill primary's PostgreSQL  h kill its host  p pause/resume it  r restart  q quit"
_QUIET_EVENTS = frozenset({"", "status", "document_adopted", "vote_granted"})
_COLUMNS = ("node", "role", "state", "tl", "LSN", "lag", "election", "term", "lease", "note")


@dataclass(slots=True)
class Screen:
    """Everything that is shown; the tasks of the demo fill it in."""

    layout: Layout
    views: Mapping[str, NodeView] = field(default_factory=dict)
    events: deque[LogEvent] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN))
    record: Record | None = None  # None while nothing is written
    paused: Collection[str] = ()
    dead: Collection[str] = ()
    note: str = ""  # the last thing the user did

    def add_events(self, events: Iterable[LogEvent]) -> list[LogEvent]:
        """Take in the events worth showing and return them."""
        shown = [e for e in events if e.name not in _QUIET_EVENTS or e.level == "ERROR"]
        self.events.extend(shown)
        return shown

    def renderable(self) -> RenderableType:
        """Return the whole picture."""
        primary = active_primary(self.views)
        title = f"metako · primary {primary.node if primary else '—'}"
        table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
        rows = {node.name: self._cells(node.name) for node in self.layout.nodes}
        for index, column in enumerate(_COLUMNS):
            # A terminal that is too narrow cuts the notes and nothing else.
            width = max(len(column), *(len(cells[index]) for cells in rows.values()))
            last = column == _COLUMNS[-1]
            table.add_column(column, no_wrap=True, min_width=None if last else width)
        for name, cells in rows.items():
            table.add_row(*cells, style=self._style(name))
        lines = [Text(event_line(e), style=_event_style(e), no_wrap=True) for e in self.events]
        dsn = self.layout.dsn(self.layout.nodes[0])
        return Group(
            table,
            Text(self.write_line()),
            *lines,
            Text(f"psql {dsn}", style="cyan"),
            Text(self.note, style="yellow"),
            Text(KEYS, style="bold"),
        )

    def _cells(self, name: str) -> list[str]:
        if name in self.paused:
            return [name, "", "paused", *[""] * 6, "host frozen (SIGSTOP)"]
        view = self.views.get(name)
        if view is None:
            return [name, "", "dead" if name in self.dead else "silent", *[""] * 7]
        own = view.member(name)
        return [
            name,
            view.server_role,
            own.server_state if own else "",
            str(own.timeline or "") if own else "",
            own.lsn if own else "",
            f"{own.lag_ms} ms" if own and own.lag_ms >= 0 else "",
            view.role,
            str(view.term),
            f"{view.lease_ms} ms" if view.lease_ms else "",
            view.blocked,
        ]

    def _style(self, name: str) -> str:
        view = self.views.get(name)
        if view is None or name in self.paused:
            return "red"
        return "bold green" if view.server_role == "primary" else ""

    def write_line(self) -> str:
        """Return how the writer fares, in one line."""
        record = self.record
        if record is None:
            return "the cluster is starting"
        silent_s = time.monotonic() - max(record.acknowledged.values(), default=time.monotonic())
        stall = f", none for {silent_s:.1f} s" if silent_s > STALL_SHOWN_S else ""
        return (
            f"writes through the proxies: {len(record.acknowledged)} acknowledged{stall}, "
            f"{record.errors} refused, {len(record.unknown)} in doubt"
        )


def event_line(event: LogEvent) -> str:
    """Return the event as one line for a person."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time_s))
    milliseconds = int(event.time_s * 1000) % 1000
    return f"{clock}.{milliseconds:03} {event.node} {event.name or event.level} {event.message}"


def _event_style(event: LogEvent) -> str:
    return {"WARNING": "yellow", "ERROR": "red"}.get(event.level, "dim")
