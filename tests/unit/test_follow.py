"""Episodes: what begins one, what is told during one, and that nothing is told outside of them."""

from __future__ import annotations

import itertools

import pytest
from follow_kit import (
    BOUND,
    EXECUTED,
    PARSED,
    SYNC,
    Watched,
    bind,
    close,
    done,
    error,
    execute,
    parse,
    query,
    ready,
)
from hypothesis import given
from hypothesis import strategies as st
from scan_kit import GOLDEN, Conversation, message, transcript

from metako.pgwire.follow import EARLIER_MAX, MARKED_MAX, TEXT_BYTES_MAX, FollowingClient
from metako.pgwire.scan import client_layouts

SELECT = message("T", b"\0\0") + message("D", b"\0\0") + done("SELECT 1")


def test_ordinary_work_is_told_of_in_no_word() -> None:
    watched = Watched()
    for sql, tag in (("begin", "BEGIN"), ("select ';'", "SELECT 1"), ("commit", "COMMIT")) * 3:
        watched.run(sql, tag)
        watched.send(parse(sql) + bind() + execute() + SYNC)
        watched.answer(EXECUTED, done(tag), ready())
    assert not watched.told
    assert watched.up.at_rest


def test_an_episode_is_told_of_in_full_and_ends_at_rest() -> None:
    watched = Watched()
    watched.send(query("set a = 1"))
    watched.send(parse("select 1") + bind() + execute() + SYNC)
    watched.answer(done("SET"), ready(), EXECUTED, SELECT, ready())
    assert watched.kinds() == "+QPBESCZ12CZ"
    watched.run("select 1", "SELECT 1")
    assert not watched.told


def test_an_episode_lasts_as_long_as_its_transaction() -> None:
    watched = Watched()
    watched.run("set a = 1; begin", "SET", "BEGIN", status="T")
    watched.run("select 1", "SELECT 1", status="T")
    watched.run("commit", "COMMIT")
    watched.run("select 1", "SELECT 1")
    assert watched.kinds() == "+QCCZQCZQCZ"


def test_an_opening_says_what_is_still_to_be_answered() -> None:
    watched = Watched()
    watched.send(query("select 1"), parse("select 1"), bind(), execute(), SYNC)
    watched.send(parse("begin"), bind(), execute())
    watched.send(parse("select 1"), bind(), execute(), parse("set a = 1"), bind(), execute(), SYNC)
    assert watched.told[0] == (">", b"+", b"\0\0\0\2\0PBEPBE")
    assert watched.kinds() == "+PBES"


def test_what_came_before_a_sync_is_no_part_of_an_opening() -> None:
    watched = Watched()
    watched.send(parse("select 1"), bind())
    watched.send(execute(), SYNC)
    watched.send(parse("set a = 1", "s"))
    assert watched.told[0] == (">", b"+", b"\0\0\0\1\0")


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
def test_an_opening_does_not_depend_on_where_pieces_end(step) -> None:
    watched = Watched()
    data = parse("select 1") + bind() + execute() + parse("set a = 1") + bind() + execute() + SYNC
    watched.feed(">", query("select 1") + data, step)
    assert watched.told[0] == (">", b"+", b"\0\0\0\1\0PBE")
    assert watched.kinds() == "+PBES"


def test_too_much_before_an_episode_is_said_to_be_cut() -> None:
    watched = Watched()
    for _ in range(EARLIER_MAX // 2 + 1):
        watched.send(bind(), execute())
    watched.up.scan(parse("x", "name"), len(parse("x", "name")))
    note = watched.up.notes[0]
    assert not note.whole
    assert len(note.body) == 5 + EARLIER_MAX


def test_executing_a_marked_statement_begins_an_episode() -> None:
    watched = Watched()
    watched.send(parse("set a = 1", "s"), SYNC)
    watched.answer(PARSED, ready())
    watched.kinds()
    for _ in range(4):
        watched.send(bind("other"), execute(), SYNC)
        watched.answer(BOUND, SELECT, ready())
        assert not watched.told
        watched.send(bind("s"), execute(), SYNC)
        watched.answer(BOUND, done("SET"), ready())
        assert watched.kinds() == "+BES2CZ"


def test_the_unnamed_statement_is_marked_until_another_takes_its_place() -> None:
    watched, size = learnt("select 1")
    watched.send(parse("set a = 1"), SYNC)
    watched.answer(PARSED, ready())
    assert watched.kinds() == "+PS1Z"
    watched.send(bind(), execute(), SYNC)
    assert watched.told[0] == (">", b"+", b"\0\0\0\0\1")
    watched.answer(BOUND, done("SET"), ready())
    assert watched.kinds() == "+BES2CZ"
    assert not watched.up.known
    for _ in range(2):
        watched.send(parse("select 1"), bind(), execute(), SYNC)
        watched.answer(EXECUTED, SELECT, ready())
    assert not watched.told
    assert size in watched.up.known


def test_with_too_many_marked_statements_every_bind_begins_an_episode() -> None:
    watched = Watched()
    for number in range(MARKED_MAX + 1):
        watched.send(parse("set a = 1", f"s{number}"), SYNC)
        watched.answer(PARSED, ready())
    watched.kinds()
    watched.send(bind("other"), execute(), SYNC)
    assert watched.kinds() == "+BES"
    assert len(watched.up._marked) == MARKED_MAX


def test_closing_a_statement_is_told_of_and_closing_a_portal_is_not() -> None:
    watched = Watched()
    watched.send(message("C", b"Pname\0"), SYNC)
    watched.answer(message("3"), ready())
    assert not watched.told
    watched.send(close("name"), SYNC)
    assert watched.kinds() == "+CS"


def test_a_tag_that_nobody_expected_is_told_of() -> None:
    watched = Watched()
    watched.send(query("select 1"))
    watched.answer(done("SET"), ready())
    assert watched.kinds() == "C"


def test_a_text_that_is_not_kept_in_full_begins_an_episode() -> None:
    watched = Watched()
    watched.send(query("select '" + "x" * TEXT_BYTES_MAX + "'"))
    assert watched.told[1][2] == b"select '" + b"x" * 248
    watched.answer(SELECT, ready())
    assert watched.kinds() == "+QCZ"


def test_copy_in_the_extended_protocol_keeps_the_count_during_an_episode() -> None:
    watched = Watched()
    watched.send(parse("set a = 1"), bind(), execute(), SYNC)
    watched.send(parse("copy t from stdin"), bind(), execute(), SYNC)
    watched.answer(EXECUTED, done("SET"), ready("T"), EXECUTED, message("G", b"\0\0\0"))
    watched.send(message("d", b"1\n"), message("c"), SYNC)
    assert watched.up.watching
    watched.answer(done("COPY 1"), ready())
    assert not watched.up.watching
    assert watched.kinds() == "+PBESPBES12CZ12GSCZ"


# -- layouts ----------------------------------------------------------------------------------


def learnt(sql: str) -> tuple[Watched, int]:
    """Return a conversation after a text was sent a few times, and the size of the piece."""
    watched = Watched()
    piece = parse(sql) + bind() + execute() + SYNC
    for _ in range(4):
        watched.send(piece)
        watched.answer(EXECUTED, SELECT, ready())
    return watched, len(piece)


def test_a_repeated_text_is_recognised_by_its_layout() -> None:
    watched, size = learnt("select 1")
    assert size in watched.up.known
    assert watched.down.known
    assert not watched.told


@pytest.mark.parametrize("other", ["set a=1 ", "select 2", "begin;;;"])
def test_a_text_of_the_same_length_is_not_taken_for_another(other) -> None:
    watched, size = learnt("select 1")
    piece = parse(other) + bind() + execute() + SYNC
    assert len(piece) == size
    get, expected, _ = watched.up.known[size]
    assert get(piece) != expected
    watched.send(piece)
    assert watched.kinds() == ("+PBES" if other.startswith("set") else "")


def test_a_longer_text_that_begins_alike_is_not_taken_for_a_shorter_one() -> None:
    shorter = message("P", b"\0select 1\0\0\1\0\0\0\x17") + bind() + execute() + SYNC
    longer = message("P", b"\0select 1;set\0\0\0") + bind() + execute() + SYNC
    assert len(longer) == len(shorter)
    watched = Watched()
    for _ in range(4):
        watched.send(shorter)
        watched.answer(EXECUTED, SELECT, ready())
    assert len(shorter) in watched.up.known
    watched.send(longer)
    assert watched.kinds() == "+PBES"


def test_a_text_that_concerns_somebody_is_never_learnt() -> None:
    watched, size = learnt("set a = 1")
    assert size not in watched.up._layouts.known


def test_no_layout_is_taken_during_an_episode() -> None:
    watched, size = learnt("select 1")
    watched.run("begin; set a = 1", "BEGIN", "SET", status="T")
    assert not watched.up.known
    assert not watched.down.known
    watched.run("rollback", "ROLLBACK")
    assert size in watched.up.known
    assert watched.down.known


def test_layouts_that_are_not_for_following_are_refused() -> None:
    with pytest.raises(ValueError, match="not for following"):
        FollowingClient(client_layouts())


# -- the same, wherever it is cut -------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
@pytest.mark.parametrize("step", [1, 3, 7, 100_000])
def test_the_state_is_that_of_a_scanner_that_does_not_follow(path, step) -> None:
    plain = Conversation()
    watched = Watched()
    watched.up.owed, watched.down.status = 1, 0
    whole = Watched()
    whole.up.owed = 1
    for piece in transcript(path):
        plain.feed(piece.direction, piece.data)
        watched.feed(piece.direction, piece.data, step)
        whole.feed(piece.direction, piece.data)
        assert watched.up.owed == plain.up.owed
        assert watched.down.status == plain.down.status
        assert watched.up.at_rest is plain.up.at_rest
        assert watched.up.copying_in is plain.up.copying_in
        assert watched.down.copy == plain.down.copy
        assert watched.told == whole.told


TEXTS = st.sampled_from(["select 1", "set a = 1", "begin", "", "select 1; set b = 2", "x" * 300])
NAMES = st.sampled_from(["", "s", "t"])
MESSAGES = st.one_of(
    st.builds(query, TEXTS),
    st.builds(parse, TEXTS, NAMES),
    st.builds(bind, NAMES, NAMES),
    st.builds(execute, NAMES),
    st.builds(close, NAMES),
    st.sampled_from([SYNC, SYNC, message("H"), message("D", b"P\0"), message("F", bytes(20))]),
    st.binary(max_size=9).map(lambda body: message("B", body)),
    st.binary(max_size=9).map(lambda body: message("P", body)),
)
ANSWERS = st.one_of(
    st.sampled_from([PARSED, BOUND, message("3"), message("I"), message("s"), SELECT]),
    st.sampled_from(["SET", "BEGIN", "COMMIT", "LISTEN"]).map(done),
    st.just(error("42601")),
    st.sampled_from("ITE").map(ready),
)
PLACES = st.lists(st.integers(0, 1_000_000), max_size=20)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(borders)]


@given(
    st.lists(st.tuples(st.lists(MESSAGES, max_size=6), st.lists(ANSWERS, max_size=6)), max_size=4),
    PLACES,
)
def test_cutting_elsewhere_tells_nothing_else(turns, places) -> None:
    found = []
    for chosen in ([], places):
        watched = Watched()
        for up, down in turns:
            for part in cut(b"".join(up), chosen):
                watched.feed(">", part)
            for part in cut(b"".join(down), chosen):
                watched.feed("<", part)
        found.append((watched.told, watched.up.owed, watched.up.watching))
    assert found[0] == found[1]


def test_a_plain_query_is_told_from_everything_else() -> None:
    plain = query("select 1")
    for size in range(len(plain) + 1):
        assert Watched().up.is_plain_query(plain[:size]) is (size == len(plain))
    for other in (query("set a = 1"), plain + plain, parse("select 1"), SYNC, b"X\0\0\0\4"):
        assert not Watched().up.is_plain_query(other)


@pytest.mark.parametrize(
    "before",
    [
        [query("set a = 1")],  # an episode, until it is answered
        [parse("select 1", "")],  # lacks its Sync
        [query("select 1")[:7]],  # goes on
        [b"Q\0\0"],
    ],
)
def test_it_is_looked_at_in_full_where_something_goes_on(before) -> None:
    session = Watched()
    session.send(*before)
    plain = query("select 1")
    assert not session.up.is_plain_query(plain)
