"""The history of the cluster as this node knows it: kept in memory to be shown, and in a file.

In: `history` events, and the document, whose timelines name every election. Out: entries, oldest
first, as plain JSON objects. The file outlives the agent; what a full or hanging disk does not take
is still shown until the agent ends, and elections are found in the document whatever was lost.

Does not know what a change means.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from metako.cluster.history import election_event
from metako.model.document import ClusterDocument
from metako.model.events import Event
from metako.model.status import HISTORY_MAX
from metako.observability.sinks import QueuedSink, RotatingFile

Entry = dict[str, object]

FILE_NAME = "history.jsonl"
ROTATION_BYTES = 1 << 20
RETENTION = 3
"""Files beside the newest one."""
READ_BYTES_MAX = 512 << 10
"""Of the newest file, at the start."""
ELECTION = "election"


class HistoryBook:
    """See the module's docstring. `close` writes what is left, within bounded time."""

    def __init__(self, directory: Path) -> None:
        """Read what was written before; a file that cannot be read is as good as none."""
        path = directory / FILE_NAME
        self._entries: deque[Entry] = deque(_read_untrusted(path), HISTORY_MAX)
        file = RotatingFile(path, rotation_bytes=ROTATION_BYTES, retention=RETENTION)
        self._sink = QueuedSink(file, name="history")

    def add(self, event: Event) -> None:
        """Take the next change. Never blocks."""
        entry = entry_of(event)
        self._entries.append(entry)
        self._sink.put(json.dumps(entry, ensure_ascii=False))

    def entries(self, document: ClusterDocument | None) -> list[Entry]:
        """Return what is known, oldest first.

        Args:
            document: the newest; elections that it names and this node did not see are put in.
        """
        return with_elections(self._entries, document)

    def close(self) -> None:
        self._sink.close()


def entry_of(event: Event) -> Entry:
    """Return a change as it is shown and written; what is not known is null."""
    fields = dict(event.fields)
    when_ms = fields.pop("when_ms", None)
    at = None
    if isinstance(when_ms, int):
        at = datetime.fromtimestamp(when_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return {"at": at, "kind": fields.pop("kind", None), "text": event.message, **fields}


def with_elections(entries: Iterable[Entry], document: ClusterDocument | None) -> list[Entry]:
    """Return the entries and the elections of a document that are not among them, in order."""
    told = list(entries)
    known = {entry.get("timeline") for entry in told if entry.get("kind") == ELECTION}
    timelines = document.timelines if document is not None else ()
    missed = [entry for entry in timelines if entry.confirmed and entry.tli not in known]
    for timeline in reversed(missed):
        later = (i for i, entry in enumerate(told) if _term(entry) >= timeline.term)
        told.insert(next(later, len(told)), entry_of(election_event(timeline)))
    return told


def _term(entry: Entry) -> int:
    term = entry.get("term")
    return term if isinstance(term, int) else 0


def _read_untrusted(path: Path) -> Iterable[Entry]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - READ_BYTES_MAX))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the first may be the end of one, the last torn
        if isinstance(entry, dict):
            yield entry
