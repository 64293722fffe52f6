"""A Query that is known by its shape is one that would have passed every look."""

from __future__ import annotations

import struct

import pytest
from follow_kit import Watched
from hypothesis import given
from hypothesis import strategies as st
from scan_kit import message

from metako.pgwire.follow import following_client_layouts, following_server_layouts
from metako.pgwire.shapes import DIGITS, LEARN_EVERY, SHAPE_BYTES_MAX, SHAPES_MAX, Shapes
from metako.proxy.concern import concerns

PARTS = (
    *("1", "2", "34", "0", "9", " ", ";", "'", '"', "E'", "\\", "\\061", "--", "\n", "/*", "*/"),
    *("select ", "a1", "a2", "1e5", "(", ")", ",", "U&", "temp", "temp1", "pg_temp_3", "$", "$1"),
    *("set_config1(", "set_config(", "currval", "advisory", "into temp t", "begin", "currval2"),
)


def query(text: str) -> bytes:
    return message("Q", text.encode() + b"\0")


def known(shapes: Shapes, piece: bytes) -> bool:
    """Ask as a pump does."""
    found = piece.translate(DIGITS) in shapes.known
    return found and piece[4] == (len(piece) - 1) & 0xFF


def learn(shapes: Shapes, piece: bytes) -> None:
    for _ in range(LEARN_EVERY):
        shapes.learn(piece)


def is_plain(piece: bytes) -> bool:
    return Watched().up.is_plain_query(piece)


@given(st.lists(st.sampled_from(PARTS), max_size=14), st.integers(0, 9))
def test_whether_a_text_concerns_anybody_depends_on_no_digit(parts, digit) -> None:
    text = b"select " + "".join(parts).encode()
    if b"$" not in text:
        other = text.translate(bytes.maketrans(b"0123456789", str(digit).encode() * 10))
        assert concerns(text) == concerns(other)


@given(
    st.lists(st.lists(st.sampled_from(PARTS), max_size=8), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(-12, 12),
    st.integers(0, 3),
)
def test_what_is_known_by_its_shape_is_a_plain_query(texts, digit, longer, place) -> None:
    shapes = Shapes()
    pieces = [query("select " + "".join(parts)) for parts in texts]
    for piece in pieces:
        if is_plain(piece):
            learn(shapes, piece)
    for piece in pieces:
        body = piece[5:].translate(bytes.maketrans(b"0123456789", str(digit).encode() * 10))
        # A length that is none of its own; one of its bytes is another.
        length = struct.pack("!I", max(len(piece) - 1 + longer, 0))
        header = bytearray(piece[:5])
        header[1 + place] = digit + 0x30
        for other in (piece[:5] + body, b"Q" + length + body, bytes(header) + body):
            assert not known(shapes, other) or is_plain(other)


@pytest.mark.parametrize("size", range(40, 70))
def test_queries_that_differ_in_digits_are_known_and_no_others(size) -> None:
    shapes = Shapes()
    text = "select a from t where id = ".ljust(size - 6) + "12345"
    learn(shapes, query(text))
    assert known(shapes, query(text.replace("12345", "98760")))
    assert not known(shapes, query(text.replace("12345", "9876")))
    assert not known(shapes, query(text.replace("from", "fram")))
    for low in range(0x30, 0x3A):  # lengths that look alike, once digits are
        other = b"Q\0\0\0" + bytes((low,)) + query(text)[5:]
        assert known(shapes, other) is (low == len(other) - 1)


def test_texts_with_a_dollar_sign_or_of_great_length_are_not_learnt() -> None:
    shapes = Shapes()
    for text in ("select $a1$ x $a1$", "select " + "1" * SHAPE_BYTES_MAX):
        assert is_plain(query(text))
        learn(shapes, query(text))
    assert not shapes.known


def test_few_are_kept_of_those_that_never_come_again_and_never_too_many() -> None:
    shapes = Shapes()
    for number in range(3 * LEARN_EVERY * SHAPES_MAX):
        shapes.learn(query(f"select '{chr(97 + number % 26) * (number // 26 % 900)}'"))
        assert len(shapes.known) <= SHAPES_MAX
    for _ in range(LEARN_EVERY):
        shapes.learn(query("select 1"))
    assert known(shapes, query("select 2"))


def test_what_one_session_has_shown_others_know_and_strangers_do_not() -> None:
    layouts = following_client_layouts(concerns), following_server_layouts()
    first, second = Watched(layouts), Watched(layouts)
    piece = query("select 17")
    for _ in range(LEARN_EVERY):
        assert first.up.is_plain_query(piece)
    assert piece.translate(DIGITS) in second.up.shapes
    assert not Watched().up.shapes


def test_a_text_that_concerns_somebody_is_not_learnt() -> None:
    session = Watched()
    for _ in range(2 * LEARN_EVERY):
        assert not session.up.is_plain_query(query("set a = 1"))
    assert not session.up.shapes


@pytest.mark.parametrize(
    "before", [b"Q\0\0", query("select 1")[:7], query("set a = 1"), message("P", b"\0select 1\0")]
)
def test_no_shape_is_taken_where_something_goes_on(before) -> None:
    """What a pump asks before it looks among the shapes."""
    session = Watched()
    session.send(before)
    up = session.up
    assert up.known is not up.usual or up.extended_open
