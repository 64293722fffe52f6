"""Both scanners of `follow`, fed with messages written out by hand."""

from __future__ import annotations

from scan_kit import message

from metako.pgwire.follow import (
    FollowingClient,
    FollowingServer,
    following_client_layouts,
    following_server_layouts,
)
from metako.pgwire.stream import Note
from metako.proxy.concern import concerns

SYNC = message("S")


class Watched:
    """One client and one server, logged in and idle, and what was told of them."""

    def __init__(self, layouts=None, *, concerns=concerns) -> None:
        up, down = layouts or (following_client_layouts(concerns), following_server_layouts())
        self.up = FollowingClient(up)
        self.down = FollowingServer(self.up, down, status=ord("I"))
        self.told: list[tuple[str, bytes, bytes]] = []

    def feed(self, direction: str, data: bytes, step: int = 1 << 30, quick: bool = False) -> int:
        """Have pieces of so many bytes scanned; `quick` as a pump does it, where that is enough."""
        if quick and direction == ">" and self.up.is_plain_query(data):
            self.up.asked += 1
            self.up.tail = ord("Q")
            return len(data)
        scanner = self.up if direction == ">" else self.down
        taken = 0
        for begin in range(0, len(data), step):
            part = data[begin : begin + step]
            # What lies behind the piece in the buffer is old and must not be looked at.
            passed = scanner.scan(bytearray(part + b"Z\0\0\0\5IZ\0\0\0\5I"), len(part))
            taken += passed
            for note in scanner.notes:
                self.told.append((direction, note.kind, note.body))
                self.hear(note, direction == ">")
            scanner.notes.clear()
            if passed != len(part):
                break  # at a Terminate
        return taken

    def hear(self, note: Note, from_client: bool) -> None:
        """Do with a note what others do."""

    def send(self, *data: bytes) -> None:
        self.feed(">", b"".join(data))

    def answer(self, *data: bytes) -> None:
        self.feed("<", b"".join(data))

    def kinds(self) -> str:
        """Return the types of what was told, and forget it."""
        kinds = "".join(kind.decode() for _, kind, _ in self.told)
        self.told.clear()
        return kinds

    def run(self, sql: str, *tags: str, status: str = "I") -> None:
        """Send a Query that succeeds."""
        self.send(query(sql))
        self.answer(*(done(tag) for tag in tags), ready(status))

    def fail(self, sql: str, *tags: str, status: str = "I") -> None:
        """Send a Query that fails behind some of its statements."""
        self.send(query(sql))
        self.answer(*(done(tag) for tag in tags), error("42601"), ready(status))


def query(sql: str) -> bytes:
    return message("Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "") -> bytes:
    return message("P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")


def bind(name: str = "", portal: str = "") -> bytes:
    return message("B", portal.encode() + b"\0" + name.encode() + b"\0" + bytes(6))


def execute(portal: str = "") -> bytes:
    return message("E", portal.encode() + b"\0\0\0\0\0")


def close(name: str) -> bytes:
    return message("C", b"S" + name.encode() + b"\0")


def done(tag: str) -> bytes:
    return message("C", tag.encode() + b"\0")


def error(sqlstate: str) -> bytes:
    return message("E", b"SERROR\0C" + sqlstate.encode() + b"\0\0")


def ready(status: str = "I") -> bytes:
    return message("Z", status.encode())


PARSED, BOUND, CLOSED = message("1"), message("2"), message("3")
EMPTY, SUSPENDED = message("I"), message("s")
EXECUTED = PARSED + BOUND
