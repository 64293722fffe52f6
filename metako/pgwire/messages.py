"""The messages of a session that are not on the hot path: built, and parsed within bounds.

In: the body of a message, as `MessageReader` gives it. Out: frozen values. The other way round,
values in and whole messages out. What a message says of a session's state is not judged here.

Builders raise ValueError for what would not come out as it went in, such as a name with a zero
byte: that is a mistake of the caller. Parsers end in `_untrusted` and raise `PgWireError` only.

SQL and the names of statements stay bytes: their encoding is the session's `client_encoding`,
which nobody here knows. Errors are built and parsed by `startup`, which needs them for the first
answer of a server; `authentication` has the messages of a login.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", Message Formats.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from metako.pgwire.startup import (
    CANCEL_KEY_BYTES_MAX,
    CANCEL_KEY_BYTES_MIN,
    PgWireError,
    decode_text,
    encode_text,
    error_response,
)

PARAMETER_TYPES_MAX = 65_535  # the field has 16 bits

# Messages that never differ.
PARSE_COMPLETE = b"1\0\0\0\4"
BIND_COMPLETE = b"2\0\0\0\4"
CLOSE_COMPLETE = b"3\0\0\0\4"
NO_DATA = b"n\0\0\0\4"
EMPTY_QUERY = b"I\0\0\0\4"
PORTAL_SUSPENDED = b"s\0\0\0\4"
SYNC = b"S\0\0\0\4"
FLUSH = b"H\0\0\0\4"
TERMINATE = b"X\0\0\0\4"

_HEADER = struct.Struct("!cI")
_INT32 = struct.Struct("!I")
_INT16 = struct.Struct("!H")


def message(kind: bytes, body: bytes) -> bytes:
    """Build a message of one letter and its body."""
    return _HEADER.pack(kind, len(body) + 4) + body


def string(value: bytes) -> bytes:
    """Build a string as messages carry it.

    Raises:
        ValueError: it has a zero byte.
    """
    if b"\0" in value:
        raise ValueError("a zero byte would end this string early")
    return value + b"\0"


def split_string_untrusted(body: bytes, what: str) -> tuple[bytes, bytes]:
    """Return the string at the begin of `body`, and what is behind its zero byte."""
    value, end, rest = body.partition(b"\0")
    if not end:
        raise PgWireError(f"{what}: a string without end")
    return value, rest


def only_string_untrusted(body: bytes, what: str) -> bytes:
    """Return the string that is all of `body`."""
    value, rest = split_string_untrusted(body, what)
    if rest:
        raise PgWireError(f"{what}: bytes behind the end")
    return value


# -- what a server says of a session ----------------------------------------------------------


class TransactionStatus(enum.Enum):
    """What a server is in when it is ready for the next query."""

    IDLE = b"I"
    IN_TRANSACTION = b"T"
    FAILED = b"E"


@dataclass(frozen=True, slots=True)
class BackendKey:
    """What cancels the statements of one session."""

    process_id: int
    secret_key: bytes = field(repr=False)


def parameter_status(name: str, value: str) -> bytes:
    """Build the report of a setting's value."""
    return message(b"S", string(encode_text(name)) + string(encode_text(value)))


def parse_parameter_status_untrusted(body: bytes) -> tuple[str, str]:
    """Return name and value of a reported setting."""
    name, rest = split_string_untrusted(body, "parameter status")
    return decode_text(name), decode_text(only_string_untrusted(rest, "parameter status"))


def backend_key_data(key: BackendKey) -> bytes:
    """Build the message that tells a client how to cancel."""
    if not CANCEL_KEY_BYTES_MIN <= len(key.secret_key) <= CANCEL_KEY_BYTES_MAX:
        raise ValueError("impossible length of a cancel key")
    return message(b"K", _INT32.pack(key.process_id) + key.secret_key)


def parse_backend_key_untrusted(body: bytes, *, long_keys: bool) -> BackendKey:
    """Return the key of a session; `long_keys` is whether it speaks protocol 3.2."""
    key = body[_INT32.size :]
    longest = CANCEL_KEY_BYTES_MAX if long_keys else CANCEL_KEY_BYTES_MIN
    if not CANCEL_KEY_BYTES_MIN <= len(key) <= longest:
        raise PgWireError("impossible length of a cancel key")
    return BackendKey(_INT32.unpack_from(body)[0], key)


def ready_for_query(status: TransactionStatus) -> bytes:
    """Build the message that asks a client for its next query."""
    return message(b"Z", status.value)


def parse_ready_untrusted(body: bytes) -> TransactionStatus:
    """Return what a server that is ready for the next query is in."""
    try:
        return TransactionStatus(body)
    except ValueError:
        raise PgWireError("an unknown transaction status") from None


def notice_response(sqlstate: str, text: str, *, severity: str = "NOTICE", hint: str = "") -> bytes:
    """Build a message for the user that ends nothing. `parse_error_untrusted` reads its body."""
    # The same fields as an error's, under another letter.
    return b"N" + error_response(sqlstate, text, severity=severity, hint=hint)[1:]


def command_complete(tag: str) -> bytes:
    """Build the end of a statement, such as "SELECT 1"."""
    return message(b"C", string(encode_text(tag)))


def parse_command_complete_untrusted(body: bytes) -> str:
    """Return the tag of a statement that ended."""
    return decode_text(only_string_untrusted(body, "command tag"))


# -- queries ----------------------------------------------------------------------------------


class CloseKind(enum.Enum):
    """What a client closes."""

    STATEMENT = b"S"
    PORTAL = b"P"


@dataclass(frozen=True, slots=True)
class Parse:
    """The client prepares a statement."""

    name: bytes  # b"": the unnamed one
    query: bytes
    type_oids: tuple[int, ...]  # of the first parameters; 0 where the server shall find out


@dataclass(frozen=True, slots=True)
class Close:
    """The client gives a prepared statement or a portal back."""

    kind: CloseKind
    name: bytes


def query(sql: bytes) -> bytes:
    """Build a simple query."""
    return message(b"Q", string(sql))


def parse_query_untrusted(body: bytes) -> bytes:
    """Return the text of a simple query."""
    return only_string_untrusted(body, "query")


def parse(statement: Parse) -> bytes:
    """Build the request to prepare a statement."""
    if len(statement.type_oids) > PARAMETER_TYPES_MAX:
        raise ValueError("more types of parameters than the field can count")
    body = string(statement.name) + string(statement.query)
    body += _INT16.pack(len(statement.type_oids))
    return message(b"P", body + b"".join(map(_INT32.pack, statement.type_oids)))


def parse_parse_untrusted(body: bytes) -> Parse:
    """Return which statement a client prepares."""
    name, rest = split_string_untrusted(body, "Parse")
    sql, rest = split_string_untrusted(rest, "Parse")
    if len(rest) < _INT16.size:
        raise PgWireError("Parse: no number of types")
    count: int = _INT16.unpack_from(rest)[0]
    if len(rest) != _INT16.size + count * _INT32.size:
        raise PgWireError("Parse: another number of types than it says")
    return Parse(name, sql, struct.unpack_from(f"!{count}I", rest, _INT16.size))


def close(target: Close) -> bytes:
    """Build the request to close a prepared statement or a portal."""
    return message(b"C", target.kind.value + string(target.name))


def parse_close_untrusted(body: bytes) -> Close:
    """Return what a client closes."""
    try:
        kind = CloseKind(body[:1])
    except ValueError:
        raise PgWireError("Close: neither a statement nor a portal") from None
    return Close(kind, only_string_untrusted(body[1:], "Close"))
