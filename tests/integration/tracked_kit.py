"""A client of a real server whose bytes pass both scanners of `follow`, and what they tell."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import contextmanager

from login_kit import real_server

from metako.pgwire.follow import (
    FollowingClient,
    FollowingServer,
    following_client_layouts,
    following_server_layouts,
)
from metako.pgwire.messages import SYNC as SYNC
from metako.pgwire.messages import message
from metako.pgwire.reader import MessageReader
from metako.pgwire.startup import parse_error_untrusted, startup_packet
from metako.proxy.concern import concerns
from metako.proxy.rebuild import Progress, Rebuild
from metako.proxy.tracked import Tracked

TIMEOUT_S = 20.0
BODY_BYTES_MAX = 1 << 20

# A SET LOCAL behind a RESET leaves the reset value with 'session' as its source.
SETTINGS_SQL = """
    select name, setting from pg_settings where source = 'session' and setting <> reset_val
    and name not in ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')
    union all select 'user', session_user || ' ' || current_user order by 1"""
STATEMENTS_SQL = """
    select name, from_sql::text || ' ' || parameter_types::text || ' ' ||
        case when from_sql then '' else statement end
    from pg_prepared_statements where name <> '' order by 1"""


@contextmanager
def numbers_server(bindir, *, keep: bool):
    """Run a server that has a table of numbers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with real_server(bindir, port, keep=keep) as running:
        running.run("create table numbers (n int primary key)")
        yield running


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "", *oids: int) -> bytes:
    types = struct.pack(f"!H{len(oids)}I", len(oids), *oids)
    return message(b"P", name.encode() + b"\0" + sql.encode() + b"\0" + types)


def bind(name: str = "", portal: str = "") -> bytes:
    return message(b"B", portal.encode() + b"\0" + name.encode() + b"\0" + bytes(6))


def execute(portal: str = "", rows: int = 0) -> bytes:
    return message(b"E", portal.encode() + b"\0" + struct.pack("!I", rows))


def run(name: str) -> bytes:
    return bind(name) + message(b"D", b"P\0") + execute()


def close(name: str) -> bytes:
    return message(b"C", b"S" + name.encode() + b"\0")


class Plain:
    """A connection that nobody follows."""

    def __init__(self, server, user: str = "postgres") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(server.socket_dir / f".s.PGSQL.{server.port}"))
        self.socket.sendall(startup_packet({"user": user, "database": "postgres"}))
        self.reader = MessageReader(body_bytes_max=BODY_BYTES_MAX)
        self.reported: dict[str, str] = {}
        self.until_ready()

    def close(self) -> None:
        self.socket.close()

    def next(self) -> tuple[bytes, bytes]:
        while (found := self.reader.next_untrusted()) is None:
            data = self.socket.recv(4096)
            assert data, "the server closed the connection"
            self.reader.receive(data)
        if found.kind == b"S":
            name, value, _ = found.body.split(b"\0")
            self.reported[name.decode()] = value.decode()
        return found

    def until_ready(self) -> list[tuple[bytes, bytes]]:
        found = [self.next()]
        while found[-1][0] != b"Z":
            found.append(self.next())
        return found

    def rows(self, sql: str) -> list[tuple[str, ...]]:
        self.socket.sendall(query(sql))
        found = []
        for kind, body in self.until_ready():
            assert kind != b"E", parse_error_untrusted(body)
            if kind == b"D":
                found.append(_fields(body))
        return found

    def state(self) -> list[tuple[str, ...]]:
        """Return what a session consists of, as the server sees it. Changes nothing of it."""
        return self.rows(SETTINGS_SQL) + self.rows(STATEMENTS_SQL)

    def rebuild(self, tracked: Tracked) -> Rebuild:
        """Make this connection what `tracked` was."""
        building = Rebuild(tracked, self.reported)
        self.socket.sendall(building.data)
        progress = building.conclude()
        while progress is Progress.UNDER_WAY:
            progress = building.receive(*self.next())
        return building


class Followed(Plain):
    """A connection whose bytes are cut at random, scanned and told of."""

    def __init__(self, server, user: str = "postgres", *, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.up = FollowingClient(following_client_layouts(concerns))
        self.down = FollowingServer(self.up, following_server_layouts())
        self.tracked = Tracked()
        self.errors: list[str] = []
        self.hear = lambda note: None  # told of every note
        self.up.owed = 1
        super().__init__(server, user)

    def until_ready(self):
        while not self.up.at_rest or not self.down.at_boundary:
            data = self.socket.recv(self.rng.choice((1, 7, 100, 4096)))
            assert data, "the server closed the connection"
            self._scan(self.down, data)
        return []

    def until_copying(self) -> None:
        """Wait until the server asks for data."""
        while not self.up.copying_in:
            self._scan(self.down, self.socket.recv(1))

    def _scan(self, scanner, data: bytes) -> None:
        assert scanner.scan(bytearray(data + b"Z\0\0\0\5IZ\0\0\0\5I"), len(data)) == len(data)
        for note in scanner.notes:
            if note.kind == b"E" and scanner is self.down:
                self.errors.append(note.sqlstate)
            self.tracked.note(note, scanner is self.up)
            self.hear(note)
        scanner.notes.clear()

    def send(self, data: bytes) -> None:
        """Send in pieces, without waiting for an answer."""
        self.socket.sendall(data)
        while data:
            size = self.rng.choice((1, 3, 11, len(data), len(data)))
            self._scan(self.up, data[:size])
            data = data[size:]

    def talk(self, *data: bytes) -> None:
        """Send, and wait for all answers."""
        for part in data:
            self.send(part)
        self.until_ready()

    def state(self):
        """As in `Plain`, behind the scanners' back."""
        self.until_ready, saved = super().until_ready, self.until_ready
        try:
            return super().state()
        finally:
            self.until_ready = saved


def _fields(body: bytes) -> tuple[str, ...]:
    found, position = [], 2
    for _ in range(struct.unpack_from("!H", body)[0]):
        (size,) = struct.unpack_from("!i", body, position)
        position += 4
        found.append("" if size < 0 else body[position : position + size].decode())
        position += max(size, 0)
    return tuple(found)
