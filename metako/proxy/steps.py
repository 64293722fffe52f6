"""The answers that are waited for while a session is followed, and what their tags tell."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from metako.pgwire.messages import Parse
from metako.proxy.changes import NOTHING, Meaning

MEANINGS_MAX = 512  # of statements that have one, and of portals
STEPS_MAX = 8192  # answers that are waited for
HEAVY_STEPS_MAX = 512  # the same, if a text is kept until the answer comes

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


class Awaited(deque[Step]):
    """The answers that are waited for, first to come first."""

    __slots__ = ()

    def expect(self, step: Step) -> bool:
        """Add one; False if there are too many already."""
        if len(self) >= (STEPS_MAX if step.light else HEAVY_STEPS_MAX):
            return False
        self.append(step)
        return True

    def skip(self) -> bool:
        """Forget what a server skips after an error: all that is left of a Query, or up to the
        Sync. Return whether it goes on skipping what is sent from now on.
        """
        while self and self[0].kind != b"Z":
            self.popleft()
        return not self

    def begin_copy(self) -> None:
        """Forget a Sync that was sent with the Execute of a COPY: the server swallows it."""
        if len(self) > 1 and self[0].extended and self[1].kind == b"Z":
            del self[1]

    def end_request(self) -> None:
        """Forget what was not answered before a ReadyForQuery: it was skipped."""
        while self and self.popleft().kind != b"Z":
            pass

    def end_requests(self) -> None:
        """The same, if no other is owed. The end of a COPY may have made one too many."""
        while any(step.kind == b"Z" for step in self):
            self.popleft()


def remember(meanings: dict[bytes, Meaning], name: bytes, meaning: Meaning) -> None:
    """Note what executing `name` means from now on, if that is anything."""
    if meaning == NOTHING:
        meanings.pop(name, None)
    else:
        meanings[name] = meaning
