"""Conversations on record, and a scanner that is slow and plain enough to be believed.

A transcript has one message a line, `>` from the client and `<` from the server, with its type and
its body; a line of `=` states what is known of the conversation at that point. The first message
is the one that follows the startup packet.
"""

from __future__ import annotations

import ast
import struct
from dataclasses import dataclass, field
from pathlib import Path

from metako.pgwire.scan import ClientScanner, ServerScanner, client_layouts, server_layouts
from metako.pgwire.stream import Note

GOLDEN = Path(__file__).parent.parent / "golden" / "pgwire"
FREQUENT = ("SELECT", "INSERT", "UPDATE", "DELETE", "FETCH", "COPY", "MOVE", "MERGE")
READING = {"SELECT", "FETCH", "MOVE", "SHOW", "EXPLAIN"}
WRITING = {"INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "ALTER", "DROP", "TRUNCATE", "COMMENT"}
LIMITS_UP = {"P": 65_536, "C": 256, "Q": 2048}
LIMITS_DOWN = {"E": 1024, "N": 1024, "S": 8192, "C": 64, "A": 256}


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


class Conversation:
    """Both scanners of one client and one server."""

    def __init__(self, layouts=None, *, keeps: bool = True) -> None:
        up, down = layouts or (client_layouts(), server_layouts())
        self.up = ClientScanner(up, keeps=keeps)
        self.up.owed = 1
        self.down = ServerScanner(self.up, down, keeps=keeps)

    def feed(self, direction: str, data: bytes) -> int:
        scanner = self.up if direction == ">" else self.down
        # What lies behind the piece in the buffer is old and must not be looked at.
        return scanner.scan(bytearray(data + b"Z\0\0\0\5IZ\0\0\0\5I"), len(data))

    def state(self) -> str:
        """Return what the `=` lines of a transcript state, and forget the notes."""
        up, down = self.up, self.down
        words = [f"owed={up.owed}", f"status={chr(down.status) if down.status else '-'}"]
        words += [name for name in ("extended_open", "copying_in", "at_rest") if getattr(up, name)]
        words += [f"copy={chr(down.copy)}"] if down.copy else []
        words += [
            f"inside={side}" for side in ("up", "down") if not getattr(self, side).at_boundary
        ]
        words += [describe(note) for note in up.notes + down.notes]
        up.notes.clear()
        down.notes.clear()
        return " ".join(words)


def describe(note: Note) -> str:
    said = note.sqlstate if note.kind in (b"E", b"N") else repr(note.body)[1:]
    return f"{note.kind.decode()}:{said}{'' if note.whole else '...'}"


@dataclass
class Piece:
    """Messages of one side in a row, and the state after them."""

    direction: str
    data: bytes = b""
    state: str = ""


def transcript(path: Path) -> list[Piece]:
    pieces: list[Piece] = []
    for line in path.read_text().splitlines():
        if line.startswith("="):
            pieces[-1].state = line[2:]
        elif line and not line.startswith("#"):
            direction, kind, body = line.split(" ", 2)
            if not pieces or pieces[-1].direction != direction or pieces[-1].state:
                pieces.append(Piece(direction))
            pieces[-1].data += message(kind, ast.literal_eval(body))
    return pieces


@dataclass
class SlowClient:
    """What `ClientScanner` is to know of a whole stream, without any COPY."""

    owed: int = 0
    extended_open: bool = False
    inside: bool = False
    notes: list[Note] = field(default_factory=list)

    @classmethod
    def of(cls, stream: bytes) -> SlowClient:
        found = cls()
        while stream:
            kind, body, stream, found.inside = _next(stream)
            if kind is None:
                break
            found.owed += kind in "QSF"
            if kind in "PBDECQSF":
                found.extended_open = kind in "PBDEC"
            unnamed = kind == "P" and body.startswith(b"\0")
            if kind in LIMITS_UP and not unnamed:
                limit = LIMITS_UP[kind]
                if kind == "P" and len(body) > limit:
                    limit = 256
                found.notes.append(Note(kind.encode(), body[:limit], len(body) <= limit))
        return found


@dataclass
class SlowServer:
    """What `ServerScanner` is to know of a whole stream."""

    ready: int = 0
    status: int = 0
    copy: int = 0
    inside: bool = False
    reads: int = 0
    writes: int = 0
    notes: list[Note] = field(default_factory=list)

    @classmethod
    def of(cls, stream: bytes) -> SlowServer:
        found = cls()
        while stream:
            kind, body, stream, found.inside = _next(stream)
            if kind is None:
                break
            if kind == "Z":
                found.ready, found.status, found.copy = found.ready + 1, body[0], 0
            elif kind in "GHW":
                found.copy = ord(kind)
            elif kind in LIMITS_DOWN:
                found.copy = 0 if kind == "E" else found.copy
                if kind == "C":
                    word = body.rstrip(b"\0").decode().partition(" ")[0]
                    copies_out = found.copy == ord("H")
                    found.reads += word in READING or (word == "COPY" and copies_out)
                    found.writes += word in WRITING or (word == "COPY" and not copies_out)
                limit = LIMITS_DOWN[kind]
                if kind != "C" or not body.startswith(tuple(tag[:4].encode() for tag in FREQUENT)):
                    found.notes.append(Note(kind.encode(), body[:limit], len(body) <= limit))
        return found


def _next(stream: bytes) -> tuple[str | None, bytes, bytes, bool]:
    """Return type and body of the first message, the rest, and whether that one is not complete."""
    if len(stream) < 5:
        return None, b"", b"", True
    end = 1 + struct.unpack("!I", stream[1:5])[0]
    if len(stream) < end:
        return None, b"", b"", True
    return chr(stream[0]), stream[5:end], stream[end:], False
