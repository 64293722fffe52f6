"""Reads and writes: which tag is which, and that nothing counts differently by how it came."""

from __future__ import annotations

import itertools

import pytest
from follow_kit import BOUND, EXECUTED, PARSED, Watched, done, error, query, ready
from hypothesis import given
from hypothesis import strategies as st
from scan_kit import GOLDEN, Conversation, SlowServer, message, transcript

from metako.pgwire.layout import MESSAGES_MAX, SIZES_MAX

READS = ("SELECT 1", "SELECT 0", "FETCH 5", "MOVE 3", "SHOW", "EXPLAIN")
WRITES = (
    *("INSERT 0 1", "UPDATE 2", "DELETE 0", "MERGE 1", "COPY 9", "TRUNCATE TABLE", "COMMENT"),
    *("CREATE TABLE", "CREATE TABLE AS", "CREATE ROLE", "ALTER SYSTEM", "DROP INDEX", "DROP OWNED"),
    *("GRANT", "GRANT ROLE", "REVOKE", "REVOKE ROLE", "REASSIGN OWNED", "SECURITY LABEL"),
    *("IMPORT FOREIGN SCHEMA", "REFRESH MATERIALIZED VIEW"),
    *("VACUUM", "ANALYZE", "CLUSTER", "REINDEX", "REPACK"),
)
NEITHER = (
    *("BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"),
    *("PREPARE TRANSACTION", "COMMIT PREPARED", "ROLLBACK PREPARED", "LOCK TABLE"),
    *("SET", "SET CONSTRAINTS", "RESET", "DISCARD ALL", "PREPARE", "DEALLOCATE", "DEALLOCATE ALL"),
    *("DECLARE CURSOR", "CLOSE CURSOR", "LISTEN", "UNLISTEN", "NOTIFY"),
    *("DO", "CALL", "LOAD", "CHECKPOINT", "WAIT", "", "a tag that nobody knows"),
)
CLASSES = [
    *((tag, (1, 0)) for tag in READS),
    *((tag, (0, 1)) for tag in WRITES),
    *((tag, (0, 0)) for tag in NEITHER),
]
COPY_OUT = message("H", b"\0\0\0") + message("d", b"1\n") + message("c")
COPY_IN = message("G", b"\0\0\0")


KINDS = ("followed", "episode", "kept", "passed on")


class Counted:
    """One session of some kind, and what is counted of it and of all with the same layouts."""

    def __init__(self, kind: str, like: Counted | None = None) -> None:
        self.kind = kind
        self.layouts = None if like is None else like.layouts
        made: Watched | Conversation
        if kind in ("followed", "episode"):
            made = Watched(self.layouts)
        else:
            made = Conversation(self.layouts, keeps=kind == "kept")
        self.layouts = made.up._layouts, made.down._layouts
        self._made = made

    def answer(self, data: bytes, places: tuple[int, ...] = ()) -> None:
        """Take the answer to a request, in pieces that are cut at these places."""
        borders = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
        if self.kind == "episode":
            self._made.feed(">", query("set a = 1"))
        for begin, end in itertools.pairwise(borders):
            self._made.feed("<", data[begin:end])

    @property
    def found(self) -> tuple[int, int]:
        tally = self._made.down._layouts.tally
        return tally.reads, tally.writes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tag", "expected"), CLASSES, ids=[tag for tag, _ in CLASSES])
def test_a_tag_is_a_read_or_a_write_or_neither(tag, expected, kind) -> None:
    data = EXECUTED + done(tag) + ready()
    for step in range(1, len(data) + 1):
        counted = Counted(kind)
        counted.answer(data, tuple(range(0, len(data), step)))
        assert counted.found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_to_the_client_reads_and_all_others_write(kind) -> None:
    counted = Counted(kind)
    counted.answer(COPY_OUT + done("COPY 1") + ready())
    assert counted.found == (1, 0)
    counted.answer(COPY_IN + done("COPY 1") + ready())
    assert counted.found == (1, 1)
    for _ in range(8):  # with files of the server; so often that the layout is learnt
        counted.answer(done("COPY 1") + ready())
    assert counted.found == (1, 9)
    counted.answer(COPY_OUT + done("COPY 1") + COPY_IN + done("COPY 1") + ready())
    assert counted.found == (2, 10)


@pytest.mark.parametrize("kind", ["followed", "passed on"])
def test_every_statement_of_a_known_piece_is_counted(kind) -> None:
    counted = Counted(kind)
    piece = BOUND + done("SELECT 1") + BOUND + done("INSERT 0 1") + BOUND + done("SELECT 7")
    for _ in range(100):
        counted.answer(piece + ready())
    assert counted.found == (200, 100)


def test_a_statement_that_is_suspended_counts_once_and_one_that_fails_does_not() -> None:
    counted = Counted("followed")
    counted.answer(EXECUTED + message("D", b"\0\0") + message("s") + ready("T"))
    counted.answer(message("D", b"\0\0") + done("SELECT 1") + ready("T"))
    assert counted.found == (1, 0)
    counted.answer(error("22012") + ready("E"))
    assert counted.found == (1, 0)


def test_layouts_that_are_forgotten_take_no_count_with_them() -> None:
    counted = Counted("followed")
    _, layouts = counted.layouts
    done_twice = done("SELECT 1") + done("UPDATE 1") + ready()
    for _ in range(10):
        counted.answer(done_twice)
    assert layouts.known
    for size in range(SIZES_MAX):
        counted.answer(message("D", bytes(size)) + done_twice)
    assert not layouts.known
    assert counted.found == (10 + SIZES_MAX, 10 + SIZES_MAX)


def test_what_is_remembered_is_bounded() -> None:
    counted = Counted("passed on")
    for reads in range(MESSAGES_MAX + 5):
        for _ in range(4):
            counted.answer(done("SELECT 1") * reads + done("DELETE 1") + ready())
    _, layouts = counted.layouts
    assert len(layouts.tally._mixes) < MESSAGES_MAX + 3
    assert counted.found == (4 * sum(range(MESSAGES_MAX + 5)), 4 * (MESSAGES_MAX + 5))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
@pytest.mark.parametrize("step", [1, 3, 7, 100_000])
def test_real_conversations_count_the_same_in_any_pieces(path, step) -> None:
    watched, passed_on, stream = Watched(), Counted("passed on"), b""
    watched.up.owed, watched.down.status = 1, 0
    for piece in transcript(path):
        watched.feed(piece.direction, piece.data, step)
        if piece.direction == "<":
            passed_on.answer(piece.data, tuple(range(0, len(piece.data), step)))
            stream += piece.data
    slow, tally = SlowServer.of(stream), watched.down._layouts.tally
    assert (tally.reads, tally.writes) == passed_on.found == (slow.reads, slow.writes)


# -- the same, wherever it is cut and whatever is known ------------------------------------------

TAGS = st.sampled_from(
    ["SELECT 1", "INSERT 0 1", "COPY 3", "COMMENT", "COMMIT", "CREATE TABLE", "DO", "S", "x" * 80]
)
PARTS = st.one_of(
    TAGS.map(done),
    st.sampled_from(
        [PARSED, BOUND, message("D", b"\0\1"), COPY_OUT, COPY_IN, error("22012"), ready("T")]
    ),
)
REPLIES = st.lists(PARTS, max_size=6).map(lambda parts: b"".join(parts) + ready())
PLACES = st.lists(st.integers(0, 10_000), max_size=8).map(tuple)


@given(
    st.sampled_from([KINDS[:2], KINDS[2:]]),  # those who share layouts
    st.lists(REPLIES, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.just(()) | PLACES), max_size=20),
)
def test_neither_cuts_nor_layouts_change_a_count(kinds, replies, turns) -> None:
    first = Counted(kinds[0])
    sessions = first, Counted(kinds[1], first)
    reads = writes = 0
    for session, number, places in turns:
        reply = replies[number % len(replies)]
        sessions[session].answer(reply, places)
        slow = SlowServer.of(reply)
        reads, writes = reads + slow.reads, writes + slow.writes
    assert first.found == (reads, writes)


@given(st.sampled_from(KINDS), st.lists(PARTS, max_size=6), st.integers(0, 30), PLACES)
def test_a_stream_that_breaks_off_counts_the_same_in_any_pieces(kind, parts, lost, places) -> None:
    stream = b"".join(parts)
    stream = stream[: max(len(stream) - lost, 0)]
    found = []
    for chosen in ((), places):
        counted = Counted(kind)
        counted.answer(stream, chosen)
        found.append(counted.found)
    assert found[0] == found[1]
