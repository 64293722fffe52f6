"""What a new snapshot sees: the values of a key, in the order of the WAL.

A cache of the rows that the WAL made up to some record, extended as replay or commits go on and
thrown away when the WAL was replaced. On a primary, commits whose wait has not ended are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.postgres.wal import Record, count_until

if TYPE_CHECKING:
    from sim.postgres.server import SimServer


class Tables:
    """The rows of one server."""

    __slots__ = ("_applied", "_rows", "_server", "_wal")

    def __init__(self, server: SimServer) -> None:
        self._server = server
        self._wal: list[Record] = []  # the list that the cache was made from
        self._applied = 0  # records of it
        self._rows: dict[str, list[str]] = {}

    def read(self, key: str) -> tuple[str, ...]:
        """Return the values of a key; the server must have data and be up."""
        server = self._server
        primary, startup, data = server.primary, server.startup, server.data
        assert data is not None
        wal = data.wal
        if primary is None:
            self._apply(wal, startup.replayed if startup is not None else 0)
            return tuple(self._rows.get(key, ()))
        first = primary.first_invisible_lsn()
        visible = len(wal) if first is None else count_until(wal, first - 1)
        self._apply(wal, visible)
        seen = list(self._rows.get(key, ()))
        if visible < len(wal):
            hidden = primary.invisible()
            for record in wal[visible:]:
                if record not in hidden:
                    seen += [value for name, value in record.values if name == key]
        return tuple(seen)

    def _apply(self, wal: list[Record], count: int) -> None:
        if wal is not self._wal or count < self._applied:
            self._wal, self._applied, self._rows = wal, 0, {}
        rows = self._rows
        for record in wal[self._applied : count]:
            for key, value in record.values:
                rows.setdefault(key, []).append(value)
        self._applied = max(self._applied, count)
