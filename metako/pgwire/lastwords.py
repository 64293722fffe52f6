"""The last words of a server to a client that has asked nothing.

A server that is told to stop says so to every session, unasked, and closes the connection. Who
stands between can keep that from a client that is at rest, if its session can go on elsewhere. An
error that is about the session itself, such as the end of its time to be idle, is the client's.

Kept apart from the scanner, which runs for every piece: this runs only for what comes unasked.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from metako.pgwire.scan import READY_KIND
from metako.pgwire.startup import PgWireError, SqlState, parse_error_untrusted

HEADER_BYTES = 5
LAST_WORDS_BYTES_MAX = 8192  # a longer error is no such thing

# The server, or an administrator, ends the session; a process of the server has crashed.
_OF_THE_SERVER = frozenset({SqlState.ADMIN_SHUTDOWN, SqlState.CRASH_SHUTDOWN})
_FATAL = frozenset({b"FATAL", b"PANIC"})
_ERROR = ord("E")

_header = struct.Struct("!BI").unpack_from


class Unasked(NamedTuple):
    """What a piece of a server's stream consists of."""

    before: int  # bytes that come before the last words; all, if there are none
    words: bytes  # the error, b"" if there is none


def find_last_words(buffer: bytes | bytearray, size: int) -> Unasked:
    """Look for the end of a session in the first `size` bytes, which begin with a message.

    An error that the piece does not hold in full is not recognised. What follows the error is
    nothing that a client could use.
    """
    position = 0
    while position + HEADER_BYTES <= size:
        kind, length = _header(buffer, position)
        end = position + 1 + length
        if kind == _ERROR:
            if end <= size and length <= LAST_WORDS_BYTES_MAX:
                words = bytes(buffer[position:end])
                if _ends_server(words[HEADER_BYTES:]):
                    return Unasked(position, words)
            break
        if length < HEADER_BYTES - 1:
            break  # no message of PostgreSQL: the scanner says so
        position = end
    return Unasked(size, b"")


def whole_answers(buffer: bytes | bytearray, size: int) -> int:
    """Return how many of the first `size` bytes, whole messages, end with a ReadyForQuery.

    What follows is a part of an answer that the server broke off.
    """
    position = answered = 0
    while position < size:
        kind, length = _header(buffer, position)
        position += 1 + length
        if kind == READY_KIND:
            answered = position
    return answered


def is_fatal(body: bytes) -> bool:
    """Return whether the session ends with this error, of which the first fields suffice."""
    # "V" is the severity in English, whatever the language of the server.
    severities = [part[1:] for part in body.split(b"\0") if part[:1] in (b"V", b"S")]
    return bool(severities) and severities[-1] in _FATAL


def _ends_server(body: bytes) -> bool:
    try:
        fields = parse_error_untrusted(body)
    except PgWireError:
        return False
    return is_fatal(body) and fields.get("C") in _OF_THE_SERVER
