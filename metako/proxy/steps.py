"""The answers that are waited for while a session is followed, and what their tags tell."""

from __future__ import annotations

from dataclasses import dataclass

from metako.pgwire.messages import Parse
from metako.proxy.changes import NOTHING, Meaning

# Tags that tell of a change of the session, whatever the statement said.
CERTAIN_TAGS = frozenset(
    (
        *(b"SET", b"RESET", b"LISTEN", b"UNLISTEN", b"PREPARE", b"DEALLOCATE", b"DEALLOCATE ALL"),
        *(b"DISCARD ALL", b"DISCARD TEMP", b"DISCARD SEQUENCES", b"LOAD"),
    )
)
# Tags that may tell of one, if nothing is known of the statement.
TELLING_TAGS = CERTAIN_TAGS | frozenset(
    (b"CREATE TABLE", b"CREATE TABLE AS", b"CREATE VIEW", b"CREATE SEQUENCE", b"DECLARE CURSOR")
)
# Tags that tell of a transaction's end or of a savepoint, which matters if it has changed anything.
TRANSACTION_TAGS = frozenset(
    (b"COMMIT", b"ROLLBACK", b"SAVEPOINT", b"RELEASE", b"PREPARE TRANSACTION")
)
# By the type of what the client sends.
ANSWERS = {ord("P"): b"1", ord("B"): b"2", ord("C"): b"3", ord("E"): b"C"}
# Large objects, which end with their transaction: lo_open and its kin, by their OIDs.
LARGE_OBJECT_FUNCTIONS = frozenset(
    (*range(952, 959), 715, 764, 767, 1004, *range(3170, 3173), *range(3457, 3462))
)


@dataclass(frozen=True, slots=True)
class Step:
    """One answer that is waited for."""

    kind: bytes  # C for the end of a statement, 1, 2, 3 or Z
    meaning: Meaning = NOTHING  # of the statement in a Query, or of what is parsed
    known: bool = True  # whether the statement was seen; the meaning says nothing if not
    extended: bool = False  # whether it was sent by an Execute
    parse: Parse | None = None  # what is prepared, if it has a name and was kept
    name: bytes | None = None  # the statement that is prepared, bound or closed, if any
    portal: bytes = b""  # that is bound or executed

    @property
    def light(self) -> bool:
        """Whether it keeps no text."""
        return self.parse is None and self.meaning is NOTHING


def remember(meanings: dict[bytes, Meaning], name: bytes, meaning: Meaning) -> None:
    """Note what executing `name` means from now on, if that is anything."""
    if meaning == NOTHING:
        meanings.pop(name, None)
    else:
        meanings[name] = meaning
