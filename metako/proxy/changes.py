"""What may change in a session: the words in which `meaning` tells `tracked`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Tie(enum.StrEnum):
    """What ties a session to its server: why it cannot be rebuilt at another one."""

    UNCLEAR = "a statement's effect on the session could not be followed"
    TEMPORARY = "it has used temporary tables"
    LOCKS = "it may hold a session-level advisory lock"
    LISTENS = "it listens for notifications"
    CURSORS = "it has a cursor WITH HOLD"
    LIBRARY = "it has loaded a library"
    CONFIG = "it has changed a setting with set_config() in a way that cannot be repeated"
    SEQUENCES = "it depends on the state of sequences (currval, lastval)"
    SEED = "it has set the seed of random()"
    STATEMENTS = "it has more prepared statements than are remembered"
    LONG_STATEMENT = "the text of a prepared statement is longer than what is remembered"
    SETTINGS = "it has changed more settings than are remembered"


# -- changes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Set:
    """Settings get new values. Each is repeated by a statement of its own."""

    statements: tuple[tuple[bytes, bytes], ...]  # name in lower case, SQL


@dataclass(frozen=True, slots=True)
class Reset:
    """A setting gets back the value that it had at the begin of the session."""

    name: bytes | None  # None: all but role and session_authorization


@dataclass(frozen=True, slots=True)
class Listen:
    """LISTEN, or UNLISTEN if `begins` is False."""

    channel: bytes | None  # None: all
    begins: bool


@dataclass(frozen=True, slots=True)
class Prepare:
    """A statement is prepared by SQL."""

    name: bytes
    sql: bytes


@dataclass(frozen=True, slots=True)
class Deallocate:
    """A prepared statement is given back."""

    name: bytes | None  # None: all


@dataclass(frozen=True, slots=True)
class Execute:
    """A prepared statement is executed by SQL."""

    name: bytes


@dataclass(frozen=True, slots=True)
class Hold:
    """A cursor WITH HOLD is opened."""

    name: bytes


@dataclass(frozen=True, slots=True)
class CloseCursor:
    """A cursor of any kind is closed."""

    name: bytes | None  # None: all


class Simple(enum.Enum):
    """Changes without a name."""

    LOCAL = enum.auto()  # a setting, until the end of the transaction
    TEMPORARY = enum.auto()  # something in a schema for temporary objects
    BEGIN = enum.auto()
    COMMIT = enum.auto()  # or PREPARE TRANSACTION
    ROLLBACK = enum.auto()
    DISCARD_ALL = enum.auto()
    DISCARD_TEMPORARY = enum.auto()
    DISCARD_SEQUENCES = enum.auto()
    UNLOCK_ALL = enum.auto()


class Point(enum.Enum):
    """What is done with a savepoint."""

    SET = enum.auto()
    RELEASE = enum.auto()
    ROLL_BACK_TO = enum.auto()


@dataclass(frozen=True, slots=True)
class Savepoint:
    """SAVEPOINT, RELEASE or ROLLBACK TO."""

    name: bytes
    action: Point


Change = (
    Set | Reset | Listen | Prepare | Deallocate | Execute | Hold | CloseCursor | Simple | Savepoint
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What is to be known of one statement."""

    change: Change | None = None  # takes place when the statement succeeds
    ties: tuple[Tie, ...] = ()  # assumed as soon as the statement is sent
    # Whether it may leave something behind of which another client of the server must not know.
    dirty: bool = False
    tags: tuple[bytes, ...] = ()  # one of them is the answer if `change` takes place; (): any


NOTHING = Meaning()
UNCLEAR = Meaning(ties=(Tie.UNCLEAR,), dirty=True)
