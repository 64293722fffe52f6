"""The console of a proxy: what an administrator asks with psql, and how it is answered.

    psql -p 6432 metako          SHOW POOLS; PAUSE app; KILL CLIENT 7; ...

In: bytes of a client that has logged in. Out: commands, one after the other, and bytes for the
client once somebody has said what came of each.

It speaks the simple query protocol, which is what psql and drivers without parameters use; what
belongs to the extended protocol is refused and skipped up to its Sync. A text of several commands
ends at the first that fails, as PostgreSQL does it.

Deliberately unknown here: sockets, who may log in here, and what the commands do.

Source: the names of commands and columns are PgBouncer's where they mean the same, because tools
and people know them (PgBouncer documentation, "Admin console").
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from metako.pgwire import rows
from metako.pgwire.messages import (
    EMPTY_QUERY,
    TransactionStatus,
    command_complete,
    parse_query_untrusted,
    ready_for_query,
)
from metako.pgwire.reader import Message, MessageReader
from metako.pgwire.rows import Table
from metako.pgwire.startup import PgWireError, SqlState, decode_text, error_response

DATABASE = "metako"  # the name that is connected to
QUERY_BYTES_MAX = 8192
COMMANDS_MAX = 16  # in one text
_EXTENDED_KINDS = frozenset(b"PBDECHF")


class Verb(enum.StrEnum):
    """What is to be done."""

    SHOW = "SHOW"
    PAUSE = "PAUSE"  # no client begins a transaction any more
    RESUME = "RESUME"
    RELOAD = "RELOAD"
    KILL = "KILL"  # clients of a database, or one client


class Shown(enum.StrEnum):
    """What can be shown."""

    HELP = "HELP"
    VERSION = "VERSION"
    POOLS = "POOLS"
    CLIENTS = "CLIENTS"
    SERVERS = "SERVERS"
    STATS = "STATS"
    CONFIG = "CONFIG"
    DATABASES = "DATABASES"
    USERS = "USERS"


@dataclass(frozen=True, slots=True)
class Command:
    """One command. Which of the fields are set follows from the verb."""

    verb: Verb
    shown: Shown | None = None
    database: str | None = None  # of PAUSE, RESUME and KILL; None: all, which KILL needs in words
    client: str | None = None  # of KILL CLIENT, as SHOW CLIENTS names it


@dataclass(frozen=True, slots=True)
class Done:
    """It was done, and there is nothing to be shown."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It was not done."""

    message: str
    sqlstate: str = SqlState.INTERNAL_ERROR
    hint: str = ""


Outcome = Table | Done | Failed

HELP = Table(
    ("command", "meaning"),
    (
        ("SHOW POOLS", "clients and connections to servers, by user and database"),
        ("SHOW CLIENTS", "who is connected to this node's proxy"),
        ("SHOW SERVERS", "connections to servers"),
        ("SHOW STATS", "what passed so far: statements, reads, writes, failures, bytes"),
        ("SHOW CONFIG", "the settings that are in force"),
        ("SHOW DATABASES, SHOW USERS", "connections and limits of each"),
        ("SHOW VERSION", "the version of metako"),
        ("PAUSE [database]", "let no client begin a transaction; those that run go on"),
        ("RESUME [database]", "let them begin again"),
        ("RELOAD", "read limits, timeouts and admins from the configuration again"),
        ("KILL database", "end all clients of a database at once"),
        ("KILL CLIENT id", "end one client, named as in SHOW CLIENTS"),
    ),
)


def parse_untrusted(text: str) -> list[Command]:
    """Return the commands of a text; none if it is empty.

    Raises:
        PgWireError: it is not what this console understands; nothing is to be done.
    """
    commands: list[Command] = []
    for part in _split(text):
        if len(commands) == COMMANDS_MAX:
            raise _wrong(f"more than {COMMANDS_MAX} commands at once")
        commands.append(_parse_one(part))
    return commands


def _wrong(message: str) -> PgWireError:
    return PgWireError(message, SqlState.SYNTAX_ERROR, detail="Try SHOW HELP.")


def _split(text: str) -> list[list[str]]:
    """Return the words of every command. A name in double quotes is one word, with its quote."""
    commands: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        char = text[position]
        if char.isspace():
            position += 1
        elif char == ";":
            commands.append([])
            position += 1
        elif char == '"':
            end = text.find('"', position + 1)
            if end < 0:
                raise _wrong("a name without its closing quote")
            commands[-1].append(text[position:end])
            position = end + 1
        elif text.startswith("--", position):
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        else:
            end = position
            while end < len(text) and not text[end].isspace() and text[end] not in ';"':
                end += 1
            commands[-1].append(text[position:end])
            position = end
    return [words for words in commands if words]


def _parse_one(words: list[str]) -> Command:
    said = " ".join(words)[:100]
    try:
        verb = Verb(words[0].upper())
    except ValueError:
        raise _wrong(f"unknown command: {said}") from None
    rest = words[1:]
    if verb is Verb.SHOW:
        try:
            (name,) = rest
            return Command(verb, shown=Shown(name.upper()))
        except ValueError:
            raise _wrong(f"nothing is shown by: {said}") from None
    if verb is Verb.KILL and len(rest) == 2 and rest[0].upper() == "CLIENT":
        return Command(verb, client=_name(rest[1]))
    limit = 0 if verb is Verb.RELOAD else 1
    if len(rest) > limit or (verb is Verb.KILL and not rest):
        raise _wrong(f"wrong arguments: {said}")
    return Command(verb, database=_name(rest[0]) if rest else None)


def _name(word: str) -> str:
    """Return a name as it was meant: in quotes as it stands, else as SQL reads it."""
    return word[1:] if word.startswith('"') else word.lower()


_READY = ready_for_query(TransactionStatus.IDLE)


def _error(sqlstate: str, message: str, *, hint: str = "") -> bytes:
    return error_response(sqlstate, message, hint=hint, severity="ERROR")


class Console:
    """One client's conversation. `receive_untrusted`, then `answer` for each of `pending`."""

    def __init__(self) -> None:
        self.pending: deque[Command] = deque()  # of the query that is being answered
        self.ended = False  # the client said goodbye
        self._reader = MessageReader(body_bytes_max=QUERY_BYTES_MAX)
        self._skipping = False  # up to the next Sync

    def receive_untrusted(self, data: bytes) -> bytes:
        """Take what the client sent; return what can be said at once.

        Raises:
            PgWireError: the client broke the protocol. Its connection is to be closed.
        """
        self._reader.receive(data)
        return self._go_on()

    def answer(self, outcome: Outcome) -> bytes:
        """Return what the client is told of the first of `pending`, which is done with then."""
        command = self.pending.popleft()
        match outcome:
            case Table():
                said = rows.result(outcome, command.verb)
            case Done():
                said = command_complete(command.verb)
            case Failed():
                self.pending.clear()
                said = _error(outcome.sqlstate, outcome.message, hint=outcome.hint)
        if self.pending:
            return said
        return said + _READY + self._go_on()

    def _go_on(self) -> bytes:
        """Take messages until there is something to do for others."""
        said = b""
        while not self.pending and not self.ended:
            message = self._reader.next_untrusted()
            if message is None:
                break
            said += self._take(message)
        return said

    def _take(self, message: Message) -> bytes:
        kind = message.kind
        if kind == b"X":
            self.ended = True
            return b""
        if kind == b"S":
            self._skipping = False
            return _READY
        if kind == b"Q":
            return self._take_query(message.body)
        if kind[0] not in _EXTENDED_KINDS:
            raise PgWireError(f"invalid frontend message type {kind[0]}")
        if self._skipping:
            return b""
        self._skipping = True
        return _error(
            SqlState.FEATURE_NOT_SUPPORTED,
            "this console speaks the simple query protocol only",
            hint="Use psql, or a driver without parameters.",
        )

    def _take_query(self, body: bytes) -> bytes:
        try:
            self.pending.extend(parse_untrusted(decode_text(parse_query_untrusted(body))))
        except PgWireError as error:
            return _error(error.sqlstate, str(error), hint=error.detail) + _READY
        return b"" if self.pending else EMPTY_QUERY + _READY
