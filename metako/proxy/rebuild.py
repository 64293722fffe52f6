"""Tell a new server what a session consists of, and judge its answers.

In: a `Tracked` session at rest without an obstacle, then every message of the new server. Out: the
messages to send, and whether the session may be moved.

The settings come first, in the order in which they were last set, then the prepared statements in
the order of their creation. Each is a request of its own, with a ReadyForQuery of its own, so one
that fails does not keep the next from being tried; all are sent at once, and cost one round trip.

A statement is prepared with the search_path that it was prepared with, since its text may mean
nothing with the present one, which is set again at the end. (The server analyses it anew when it
is executed with another one, there as here.)

Any failure means that the session cannot be moved, with one exception: a *statement of the
protocol* that the new server refuses because something it names does not exist (any more). The old
server would have refused to execute it as well, since it analyses a statement anew after a change
of what it names. Such a statement is left out: the client gets an error when it executes it, as it
would have got one, only with 26000 instead of the other code. What was prepared by SQL is treated
alike. The exception is not made where a transaction may have had a search_path of its own.

The values that a server reports of its own accord are compared as well: `news` is what the client
must be told that it has not been told, such as another `server_version`. Which of them forbid a
move is for the caller to say.

Invariant: a client that was moved finds the settings and statements that it made. What is not
rebuilt is what nobody can know of; see `tracked`.

Deliberately unknown here: the login, and who sends and receives.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from metako.pgwire.messages import (
    SYNC,
    TransactionStatus,
    parameter_status,
    parse,
    parse_parameter_status_untrusted,
    parse_ready_untrusted,
    query,
)
from metako.pgwire.startup import PgWireError, decode_text, parse_error_untrusted
from metako.proxy.settings import SEARCH_PATH
from metako.proxy.tracked import Tracked

# What a statement names is not there: schema, table, column, function, type or the like.
_GONE = frozenset(("3F000", "42P01", "42703", "42883", "42704", "42P02"))
# Answers that say nothing of success.
_PASSED_OVER = frozenset((b"1", b"T", b"D", b"C", b"N", b"A", b"n", b"t"))


class Progress(enum.Enum):
    """How far the rebuilding is."""

    UNDER_WAY = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class _Request:
    """One thing that is rebuilt."""

    data: bytes
    what: str  # for an error message
    statement: bytes | None = None  # the name, if it is a prepared statement that may be left out


class Rebuild:
    """See the module's docstring.

    Args:
        tracked: the session; it learns of the outcome if that is `DONE`.
        reported: what the new server has reported during the login, by name.
    """

    def __init__(self, tracked: Tracked, reported: Mapping[str, str]) -> None:
        self.failure = ""  # why it failed
        # What the client must be told of changed values; b"" before `DONE`.
        self.news = b""
        self.left_out: list[bytes] = []  # names of statements that cannot be prepared any more
        self._tracked = tracked
        self._reported = dict(reported)
        self._requests = _requests(tracked)
        self._answered = 0  # requests whose ReadyForQuery has come
        self._error = ""  # of the present request
        self._error_code = ""
        obstacle = tracked.obstacle
        if obstacle is not None:
            self.failure = str(obstacle)

    @property
    def data(self) -> bytes:
        """All that is to be sent; b"" if nothing has to be rebuilt."""
        return b"".join(request.data for request in self._requests)

    @property
    def progress(self) -> Progress:
        if self.failure:
            return Progress.FAILED
        done = self._answered == len(self._requests)
        return Progress.DONE if done else Progress.UNDER_WAY

    def receive(self, kind: bytes, body: bytes) -> Progress:
        """Take the next message of the new server; return the progress.

        Nothing may be received after `DONE` or `FAILED`.
        """
        try:
            if kind == b"S":
                name, value = parse_parameter_status_untrusted(body)
                self._reported[name] = value
            elif kind == b"E":
                fields = parse_error_untrusted(body)
                self._error = self._error or fields.get("M", "an error")
                self._error_code = self._error_code or fields.get("C", "XX000")
                if fields.get("V", fields.get("S")) in ("FATAL", "PANIC"):
                    self.failure = self._error
            elif kind == b"Z":
                self._end_request(parse_ready_untrusted(body))
            elif kind not in _PASSED_OVER:
                self.failure = f"an unexpected answer of type {kind!r}"
        except PgWireError as error:
            self.failure = str(error)
        return self.conclude()

    def conclude(self) -> Progress:
        """Return the progress; if there is nothing to wait for, the session has moved.

        To be called at once if `data` is empty.
        """
        if self.progress is Progress.DONE:
            known = self._tracked.reported
            self.news = b"".join(
                parameter_status(name, value)
                for name, value in self._reported.items()
                if known.get(name) != value
            )
            self._tracked.moved(self.left_out, self._reported)
        return self.progress

    def _end_request(self, status: TransactionStatus) -> None:
        if self._answered >= len(self._requests):
            self.failure = "more answers than requests"
            return
        request = self._requests[self._answered]
        self._answered += 1
        if self._error and request.statement is not None and self._error_code in _GONE:
            self.left_out.append(request.statement)
        elif self._error:
            self.failure = f"{request.what}: {self._error} ({self._error_code})"
        elif status is not TransactionStatus.IDLE:
            self.failure = f"{request.what}: a transaction was left open"
        self._error = self._error_code = ""


def _requests(tracked: Tracked) -> list[_Request]:
    found = [
        _Request(query(sql), f"setting {decode_text(name)}")
        for name, statements in tracked.settings.items()
        for sql in statements
    ]
    final = path = tracked.settings.get(SEARCH_PATH, ())
    for name, prepared in tracked.statements.items():
        if prepared.path != path:
            path = prepared.path
            found += _path(path)
        what = f"prepared statement {decode_text(name)}"
        optional = None if prepared.local else name
        if prepared.parse is not None:
            found.append(_Request(parse(prepared.parse) + SYNC, what, optional))
        elif prepared.sql:
            found.append(_Request(query(prepared.sql), what, optional))
    return found if path == final else found + _path(final)


def _path(statements: tuple[bytes, ...]) -> list[_Request]:
    return [
        _Request(query(sql), "setting search_path")
        for sql in statements or (b"RESET " + SEARCH_PATH,)
    ]
