"""All that is known of a session at rest, as one value that another process can go on with.

What a statement means is not in it: it follows from its text (`meaning`), which is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metako.proxy.changes import Tie
from metako.proxy.layers import Scope
from metako.proxy.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `tracked.Tracked` begins with in place of nothing."""

    scope: Scope  # as committed
    statements: Mapping[bytes, Prepared]  # by name, in the order of their creation
    overflown: bool  # there are statements that are not among these
    ties: tuple[Tie, ...]  # that no ROLLBACK undoes
    dirty: bool  # the server has something to forget before another client may use it
    reported: Mapping[str, str]  # what the client was told of the server's settings
    doubtful: bool  # how its texts are quoted is not certain; see `reported`

    def texts(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Give names and texts of what the protocol has prepared; None: it was too long."""
        for name, one in self.statements.items():
            if not one.sql:
                yield name, None if one.parse is None else one.parse.query
