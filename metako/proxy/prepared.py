"""The prepared statements of a session: those of the protocol and those of SQL share their names.

A statement outlives the transaction in which it was prepared, even if that is rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass

from metako.pgwire.messages import Parse
from metako.proxy.changes import Tie

STATEMENTS_MAX = 512
STATEMENTS_BYTES_MAX = 524_288  # of all their texts together


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared statement that the session has."""

    parse: Parse | None  # None if it was prepared by SQL, or was not kept
    sql: bytes = b""  # the PREPARE
    # The SQL that had set search_path by then; () if nothing had. What the names in the text mean
    # was looked up there, and the statement cannot be prepared where they mean nothing.
    path: tuple[bytes, ...] = ()
    local: bool = False  # whether there may have been another, for that transaction only

    @property
    def size_bytes(self) -> int:
        if self.parse is None:
            return len(self.sql)
        return len(self.parse.query) + 4 * len(self.parse.type_oids)


class PreparedStatements:
    """What was prepared and not given back, within the limits."""

    __slots__ = ("_bytes", "by_name", "overflown")

    def __init__(self) -> None:
        self.by_name: dict[bytes, Prepared] = {}  # in the order of their creation
        self.overflown = False  # there are some that are not known here
        self._bytes = 0  # of all texts

    @property
    def tie(self) -> Tie | None:
        """Why they cannot be prepared elsewhere; None if they can."""
        if self.overflown:
            return Tie.STATEMENTS
        unkept = any(not one.sql and one.parse is None for one in self.by_name.values())
        return Tie.LONG_STATEMENT if unkept else None

    def add(self, name: bytes, prepared: Prepared) -> None:
        self.remove(name)
        size = prepared.size_bytes
        if len(self.by_name) >= STATEMENTS_MAX or self._bytes + size > STATEMENTS_BYTES_MAX:
            self.overflown = True
            return
        self.by_name[name] = prepared
        self._bytes += size

    def remove(self, name: bytes) -> None:
        gone = self.by_name.pop(name, None)
        if gone is not None:
            self._bytes -= gone.size_bytes

    def clear(self) -> None:
        self.by_name.clear()
        self.overflown = False
        self._bytes = 0
