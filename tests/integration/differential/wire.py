"""A client of PostgreSQL that can send a statement and look later whether it was answered.

The simple query protocol over a Unix socket, without authentication: all that is needed to keep
many commits waiting at once and to see exactly how each of them ends. Blocking; every wait has a
deadline.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

PROTOCOL = 196608
TIMEOUT_S = 20.0
_CHUNK = 1 << 16


class ConnectionLostError(Exception):
    """The server closed the connection, or there is none to connect to."""


class StatementError(Exception):
    """The server refused the connection or a statement."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(f"{sqlstate}: {text}")
        self.sqlstate = sqlstate


@dataclass(slots=True)
class Answer:
    """How one query string ended."""

    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: StatementError | None = None
    lost: bool = False  # the connection broke before the server was ready again


class Connection:
    """One connection as the superuser; not for use by two threads at a time."""

    def __init__(self, directory: Path, port: int, *, user: str, database: str, name: str) -> None:
        self.backend_pid = 0
        self._buffer = b""
        self._answer: Answer | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(directory / f".s.PGSQL.{port}"))
            words = ("user", user, "database", database, "application_name", name)
            body = struct.pack("!i", PROTOCOL) + b"".join(w.encode() + b"\0" for w in words) + b"\0"
            self._socket.sendall(struct.pack("!i", len(body) + 4) + body)
            answer = self._wait(TIMEOUT_S)
        except OSError as error:
            self.close()
            raise ConnectionLostError(str(error)) from None
        if answer.error is not None or answer.lost:
            self.close()
            raise answer.error or ConnectionLostError("closed at login")

    def close(self) -> None:
        self._socket.close()

    def query(self, sql: str, timeout_s: float = TIMEOUT_S) -> list[tuple[str | None, ...]]:
        """Run one query string and return its rows.

        Raises:
            StatementError: it failed. The connection can be used.
            ConnectionLostError: the connection broke, or the server did not answer; it is closed.
        """
        self.send(sql)
        answer = self._wait(timeout_s)
        if answer.lost:
            self.close()
            raise ConnectionLostError(str(answer.error or sql))
        if answer.error is not None:
            raise answer.error
        return answer.rows

    def send(self, sql: str) -> None:
        """Begin a query string, without waiting for anything."""
        self._answer = None
        body = sql.encode() + b"\0"
        try:
            self._socket.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
        except OSError:
            self._answer = Answer(lost=True)

    def poll(self) -> Answer | None:
        """Return how the query that was sent has ended; None if it has not."""
        return self._advance(0)

    def _wait(self, timeout_s: float) -> Answer:
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._advance(max(0.0, deadline - time.monotonic()))
            if answer is not None:
                return answer
            if time.monotonic() >= deadline:
                self.close()
                raise ConnectionLostError(f"no answer within {timeout_s:g} s")

    def _advance(self, timeout_s: float) -> Answer | None:
        if self._answer is not None and self._answer.lost:
            return self._answer
        answer = self._answer = self._answer or Answer()
        while True:
            if self._parse(answer):
                return answer
            if not select.select([self._socket], [], [], timeout_s)[0]:
                return None
            try:
                chunk = self._socket.recv(_CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                answer.lost = True
                return answer
            self._buffer += chunk

    def _parse(self, answer: Answer) -> bool:
        """Take complete messages from the buffer; return whether the answer is complete."""
        while len(self._buffer) >= 5:
            (length,) = struct.unpack("!i", self._buffer[1:5])
            if len(self._buffer) < length + 1:
                return False
            kind, body = self._buffer[:1], self._buffer[5 : length + 1]
            self._buffer = self._buffer[length + 1 :]
            match kind:
                case b"Z":
                    return True
                case b"D":
                    answer.rows.append(_row(body))
                case b"K":
                    self.backend_pid = int(struct.unpack("!ii", body)[0])
                case b"E":
                    answer.error = StatementError(*_report(body))
                case b"N":
                    answer.warnings.append(_report(body)[1])
        return False


def _row(body: bytes) -> tuple[str | None, ...]:
    (count,) = struct.unpack("!h", body[:2])
    values: list[str | None] = []
    at = 2
    for _ in range(count):
        (length,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        values.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return tuple(values)


def _report(body: bytes) -> tuple[str, str]:
    found = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
    return found.get(b"C", ""), found.get(b"M", "")
