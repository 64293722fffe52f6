"""What the requests would do that a server has not answered: read, write, commit.

In: the bytes that a client has sent. Out: its requests, each with the kinds of its statements, in
the order of their execution. Whatever cannot be read with certainty is `Kind.OPAQUE`.

A statement is a *read* only if its tokens show it: it begins like a query, locks nothing, stores
nothing, and calls no function but those of a short list. What a view, an operator, a cast or a
policy calls is not seen; that they only read is assumed. (A read may be sent to two servers, so a
mistake here would execute a side effect twice.)

Deliberately unknown here: whether a transaction is open, and what the client is told; see `loss`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from metako.pgwire.messages import parse_parse_untrusted
from metako.pgwire.startup import PgWireError
from metako.proxy.prepared import Prepared
from metako.proxy.sqltext import Kind as TokenKind
from metako.proxy.sqltext import Statement, Token, read_script

_header = struct.Struct("!BI").unpack_from
HEADER_BYTES = 5
_QUERY, _PARSE, _BIND, _EXECUTE, _CLOSE, _SYNC, _CALL = b"QPBECSF"


class Kind(enum.Enum):
    """What a statement does, as far as a loss of its server makes a difference."""

    READ = enum.auto()
    WRITE = enum.auto()  # what is lost with its transaction
    OPAQUE = enum.auto()  # perhaps a write that does not wait for the end of a transaction
    SESSION = enum.auto()  # what is lost with its session
    BEGIN = enum.auto()
    COMMIT = enum.auto()  # or PREPARE TRANSACTION
    ROLLBACK = enum.auto()
    ROLLBACK_TO = enum.auto()  # a savepoint: a failed transaction goes on
    RESOLVE = enum.auto()  # COMMIT PREPARED, ROLLBACK PREPARED


@dataclass(slots=True)
class Request:
    """All up to one ReadyForQuery."""

    kinds: list[Kind] = field(default_factory=list)
    complete: bool = False  # whether its last byte, of a Query or a Sync, has been sent
    prepares: bool = False  # it prepares or closes a named statement


@dataclass(slots=True)
class Requests:
    """What a client has sent."""

    found: list[Request] = field(default_factory=list)  # the last may be incomplete
    # It has data of a COPY, among which a Sync may stand that is none: how many answers belong to
    # it cannot be counted.
    copies: bool = False


def read_requests(data: bytes, statements: Mapping[bytes, Prepared]) -> Requests:
    """Return the requests in `data`, which begins with one and may end anywhere.

    Args:
        statements: that were prepared before, by name.
    """
    reader = _Reader(statements)
    position = 0
    while position + HEADER_BYTES <= len(data):
        kind, length = _header(data, position)
        body = data[position + HEADER_BYTES : position + 1 + length]
        position += 1 + length
        if position > len(data):
            break  # a message that was not sent in full is not executed
        reader.read(kind, body)
    if reader.open.kinds or reader.open.prepares or position != len(data):
        reader.requests.found.append(reader.open)
    return reader.requests


class _Reader:
    """Follows which statement an Execute executes."""

    def __init__(self, statements: Mapping[bytes, Prepared]) -> None:
        self.requests = Requests()
        self.open = Request()
        self._prepared = statements
        self._parsed: dict[bytes, list[Kind]] = {}
        self._portals: dict[bytes, list[Kind]] = {}

    def read(self, kind: int, body: bytes) -> None:
        if kind == _QUERY:
            self.open.kinds += kinds_of(body[:-1])
            self._end()
        elif kind == _SYNC:
            self._end()
        elif kind == _CALL:
            self.open.kinds.append(Kind.OPAQUE)
            self._end()
        elif kind == _PARSE:
            try:
                parse = parse_parse_untrusted(body)
            except PgWireError:
                return  # the server refuses it as well
            self._parsed[parse.name] = kinds_of(parse.query)
            self.open.prepares = self.open.prepares or bool(parse.name)
        elif kind == _BIND:
            portal, _, rest = body.partition(b"\0")
            self._portals[portal] = self._kinds(rest.partition(b"\0")[0])
        elif kind == _EXECUTE:
            portal = body.partition(b"\0")[0]
            self.open.kinds += self._portals.get(portal, [Kind.OPAQUE])
        elif kind in b"dcf":
            self.requests.copies = True
        elif kind == _CLOSE and body[:1] == b"S":
            self.open.prepares = True

    def _kinds(self, name: bytes) -> list[Kind]:
        if name in self._parsed:
            return self._parsed[name]
        prepared = self._prepared.get(name)
        if prepared is None or prepared.parse is None:
            return [Kind.OPAQUE]
        return kinds_of(prepared.parse.query)

    def _end(self) -> None:
        self.open.complete = True
        self.requests.found.append(self.open)
        self.open = Request()


# -- statements -------------------------------------------------------------------------------

_QUERIES = (b"select", b"with", b"values", b"table")
_BY_WORD = {
    **dict.fromkeys((b"insert", b"update", b"delete", b"merge", b"copy", b"truncate"), Kind.WRITE),
    **dict.fromkeys((b"lock", b"notify"), Kind.WRITE),
    **dict.fromkeys((b"set", b"reset", b"listen", b"unlisten", b"deallocate"), Kind.SESSION),
    **dict.fromkeys((b"declare", b"close", b"move", b"savepoint", b"release"), Kind.SESSION),
    **dict.fromkeys((b"discard", b"load"), Kind.SESSION),
    **dict.fromkeys((b"begin", b"start"), Kind.BEGIN),
    b"show": Kind.READ,
}
# What follows INTO, or a locking clause, or writes from within a query.
_WRITING_WORDS = frozenset((b"into", b"insert", b"update", b"delete", b"merge"))
_LOCKING_WORDS = frozenset((b"update", b"share", b"no", b"key"))
# What may stand before a parenthesis without being the name of a function.
_SYNTAX = frozenset(
    (
        *(b"select", b"from", b"where", b"and", b"or", b"not", b"in", b"exists", b"any", b"all"),
        *(b"some", b"as", b"on", b"using", b"over", b"filter", b"within", b"by", b"having"),
        *(b"union", b"intersect", b"except", b"distinct", b"values", b"join", b"lateral", b"when"),
        *(b"then", b"else", b"case", b"with", b"materialized", b"limit", b"offset", b"between"),
        *(b"array", b"row", b"rollup", b"cube", b"sets", b"is", b"like", b"ilike", b"order"),
        *(b"varchar", b"char", b"character", b"varying", b"numeric", b"decimal", b"bit"),
        *(b"timestamp", b"timestamptz", b"time", b"interval", b"float"),
    )
)
_HARMLESS_FUNCTIONS = frozenset(
    (
        *(b"count", b"sum", b"avg", b"min", b"max", b"array_agg", b"string_agg", b"bool_and"),
        *(b"bool_or", b"json_agg", b"jsonb_agg", b"json_build_object", b"jsonb_build_object"),
        *(b"row_number", b"rank", b"dense_rank", b"lag", b"lead", b"first_value", b"last_value"),
        *(b"coalesce", b"nullif", b"greatest", b"least", b"cast", b"extract", b"date_part"),
        *(b"date_trunc", b"now", b"age", b"to_char", b"to_date", b"to_timestamp", b"to_number"),
        *(b"lower", b"upper", b"length", b"char_length", b"substring", b"substr", b"trim"),
        *(b"ltrim", b"rtrim", b"btrim", b"position", b"left", b"right", b"replace", b"concat"),
        *(b"concat_ws", b"split_part", b"format", b"md5", b"round", b"abs", b"floor", b"ceil"),
        *(b"ceiling", b"mod", b"power", b"sqrt", b"random", b"generate_series", b"unnest"),
        *(b"version", b"current_setting", b"pg_is_in_recovery", b"current_schema", b"pg_sleep"),
        *(b"row_to_json", b"to_json", b"to_jsonb", b"array_length", b"cardinality", b"grouping"),
    )
)


def kinds_of(text: bytes) -> list[Kind]:
    """Return the kinds of the statements in `text`."""
    # What would be read otherwise with another setting is not read at all.
    script = read_script(text, doubtful=True)
    if not script.certain or not script.whole:
        return [Kind.OPAQUE]
    return [kind_of(statement) for statement in script.statements]


def kind_of(statement: Statement) -> Kind:
    """Return what a statement does."""
    tokens = statement.tokens
    words = [token.value if token.kind is TokenKind.WORD else b"" for token in tokens]
    first = words[0]
    if first in _QUERIES or tokens[0].value == b"(":
        return Kind.READ if _only_reads(tokens, words) else Kind.WRITE
    if first == b"explain":
        # Without a word of ANALYZE nothing is executed.
        return Kind.OPAQUE if b"analyze" in words or b"analyse" in words else Kind.READ
    if first in (b"commit", b"end"):
        return Kind.RESOLVE if words[1:2] == [b"prepared"] else Kind.COMMIT
    if first in (b"rollback", b"abort"):
        if words[1:2] == [b"prepared"]:
            return Kind.RESOLVE
        return Kind.ROLLBACK_TO if b"to" in words[1:3] else Kind.ROLLBACK
    if first == b"prepare":
        return Kind.COMMIT if words[1:2] == [b"transaction"] else Kind.SESSION
    if first == b"copy" and tokens[1:2] and tokens[1].names and b"from" not in words:
        to = words.index(b"to") if b"to" in words else 0
        return Kind.READ if words[to + 1 : to + 2] == [b"stdout"] else Kind.WRITE
    return _BY_WORD.get(first, Kind.OPAQUE)


def _only_reads(tokens: list[Token], words: list[bytes]) -> bool:
    if not _WRITING_WORDS.isdisjoint(words):
        return False
    for index, token in enumerate(tokens[:-1]):
        after = tokens[index + 1]
        if token.value == b"for" and after.value in _LOCKING_WORDS and token.names:
            return False
        if not token.names or after.value != b"(" or after.kind is not TokenKind.SYMBOL:
            continue
        qualified = index > 0 and tokens[index - 1].value == b"."
        if token.kind is TokenKind.WORD and token.value in _SYNTAX and not qualified:
            continue
        if token.value not in _HARMLESS_FUNCTIONS:
            return False
        if qualified and tokens[index - 2].value != b"pg_catalog":
            return False
    return True
