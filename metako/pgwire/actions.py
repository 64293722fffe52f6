"""What each type of message asks of a scanner, as tables, and how much of a body is kept.

There is one table for each thing that a scanner may be in the middle of, so its loop need not ask.
"""

from __future__ import annotations

# What a type byte of a client asks of the scanner. The order matters: what is frequent is least.
NEUTRAL, EXTENDED, SYNC, REQUEST, KEPT, COPY_END, TERMINATE, UNKNOWN = range(8)
# The same for a server.
PLAIN, READY, TAG, REPORT = range(4)

SYNC_KIND = ord("S")
EXTENDED_KINDS = frozenset(b"PBDEC")

# How much of a body is kept. A Parse that is longer is of no use in part, but for its name.
PARSE_BYTES_MAX = 65_536
PARSE_PEEK_BYTES = 256
CLIENT_LIMITS = {ord("P"): PARSE_BYTES_MAX, ord("C"): 256, ord("Q"): 2048}
# The SQLSTATE is among the first fields of an error; tags and names of channels are short.
SERVER_LIMITS = {ord("E"): 1024, ord("N"): 1024, ord("S"): 8192, ord("C"): 64, ord("A"): 256}


def _table(default: int, entries: dict[str, int]) -> tuple[int, ...]:
    actions = [default] * 256
    for kinds, action in entries.items():
        for kind in kinds:
            actions[ord(kind)] = action
    return tuple(actions)


_CLIENT = {
    # Flush asks for nothing: libpq in pipeline mode sends one even behind a Sync.
    "dpH": NEUTRAL,
    "BDE": EXTENDED,
    "S": SYNC,
    "QF": REQUEST,
    "PC": KEPT,
    "cf": COPY_END,
    "X": TERMINATE,
}
_SERVER = {"Z": READY, "C": TAG, "ENSAGHW": REPORT}

CLIENT = _table(UNKNOWN, _CLIENT)
# "Ignore Flush/Sync for the convenience of client libraries (such as libpq) that may send those
# without noticing that the command they just sent was COPY." (CopyGetData)
CLIENT_COPY_IN = tuple(NEUTRAL if kind == SYNC_KIND else act for kind, act in enumerate(CLIENT))
SERVER = _table(PLAIN, _SERVER)

# The same for those who follow a session; see `follow`.
CLIENT_MARKED = _table(UNKNOWN, _CLIENT | {"B": KEPT})
CLIENT_WATCHED = _table(UNKNOWN, _CLIENT | {"BE": KEPT, "S": REQUEST})
SERVER_WATCHED = _table(PLAIN, _SERVER | {"123Is": REPORT})


def _tags(*names: bytes) -> frozenset[int]:
    return frozenset(int.from_bytes(name, "big") for name in names)


# CommandComplete tags that tell nothing: by their first four bytes, which no other tag shares.
FREQUENT_TAGS = _tags(
    *(b"SELE", b"INSE", b"UPDA", b"DELE", b"FETC", b"COPY", b"MOVE", b"MERG"),
)
# Nor do these tell anything about what a session leaves behind. (COMM is COMMENT as well.)
HARMLESS_TAGS = FREQUENT_TAGS | _tags(
    *(b"BEGI", b"STAR", b"COMM", b"ROLL", b"SAVE", b"RELE", b"SHOW", b"EXPL"),
    # A cursor without HOLD ends with its transaction.
    *(b"NOTI", b"LOCK", b"TRUN", b"ANAL", b"VACU", b"DECL"),
)
NO_TAGS: frozenset[int] = frozenset()

# What counts as reading and as writing; see `tally`. DO and CALL are neither, since nobody can see
# what they do, nor is what concerns transactions or the session alone.
READ_TAGS = _tags(b"SELE", b"FETC", b"MOVE", b"SHOW", b"EXPL")
WRITE_TAGS = _tags(
    *(b"INSE", b"UPDA", b"DELE", b"MERG", b"TRUN", b"REFR"),
    *(b"CREA", b"ALTE", b"DROP", b"GRAN", b"REVO", b"REAS", b"SECU", b"IMPO"),
    *(b"VACU", b"ANAL", b"CLUS", b"REIN", b"REPA"),
)
# These are one or the other, which their first four bytes do not tell.
(COPY_TAG,), (COMMENT_TAG,) = _tags(b"COPY"), _tags(b"COMM")
