"""Passing over many messages at once finds what passing them one by one does."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scan_kit import Conversation, message

from metako.pgwire.actions import SERVER
from metako.pgwire.runs import AHEAD, pass_over
from metako.pgwire.startup import PgWireError
from metako.pgwire.stream import HEADER_BYTES

PLAIN_KINDS = "DdT12"
# Bodies that look like headers must not be taken for any.
BODY = st.one_of(
    st.sampled_from([0, 1, 5, 9, 14, 250, 251, 252]).map(lambda size: b"x" * size),
    st.just(b"D\0\0\0\5D\0\0\0\5"),
    st.binary(max_size=12),
)
RUN = st.tuples(
    st.sampled_from(PLAIN_KINDS),
    BODY,
    st.one_of(st.integers(1, 12), st.integers(AHEAD - 2, AHEAD + 3), st.integers(570, 650)),
)
OTHER = st.sampled_from(
    [message("C", b"SELECT 1\0"), message("Z", b"I"), message("S", b"a\0b\0"), b"D\0\0\0\3", b"D\0"]
)


def one_by_one(data: bytes, position: int) -> tuple[int, int]:
    kind = 0
    while position + HEADER_BYTES <= len(data):
        (length,) = struct.unpack_from("!I", data, position + 1)
        if chr(data[position]) in "ZCENSAGHW" or length < 4:
            break
        kind = data[position]
        position += length + 1
    return position, kind


@given(
    st.lists(RUN, max_size=6),
    st.one_of(st.just(b""), OTHER),
    st.lists(RUN, max_size=2),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_messages_are_passed_over_as_one_by_one(runs, other, more, begin, cut) -> None:
    stream = b"?" * begin
    for kind, body, count in runs:
        stream += message(kind, body) * count
    stream += other + b"".join(message(kind, body) * count for kind, body, count in more)
    size = max(len(stream) - cut, begin)
    # What lies behind the piece goes on as if it belonged to it, and must not be looked at.
    buffer = bytearray(stream + message("D", b"x") * 10)
    position, kind, walked = pass_over(buffer, begin, size, SERVER)
    assert (position, kind) == one_by_one(stream[:size], begin)
    assert 0 <= walked <= size


def test_rows_of_one_length_are_not_looked_at_one_by_one() -> None:
    rows = message("D", b"x" * 95) * 5000
    assert pass_over(rows, 0, len(rows), SERVER) == (len(rows), ord("D"), 4)


@pytest.mark.parametrize("alike", [1, 3, 4, 5, 19, 20, AHEAD, AHEAD + 4, 9 * AHEAD])
def test_looking_ahead_in_vain_is_bounded(alike) -> None:
    """Messages that are alike just long enough to raise hopes, as small as they can be."""

    class Counted(bytearray):
        touched = 0

        def __getitem__(self, key):
            found = super().__getitem__(key)
            if isinstance(key, slice):
                Counted.touched += len(found)
            return found

    messages = 50_000
    block = message("d", b"") * alike + message("d", b"x")
    rows = Counted(block * (messages // (alike + 1)))
    position, _, walked = pass_over(rows, 0, len(rows), SERVER)
    assert position == len(rows)
    assert walked <= messages
    assert Counted.touched <= 50 * messages


@pytest.mark.parametrize("place", range(0, 4000, 7))
def test_a_scanner_understands_rows_wherever_they_are_cut(place) -> None:
    conversation = Conversation()
    conversation.up.owed = 1
    rows = message("T", b"\0\1") + message("D", b"x" * 9) * 200 + message("D", b"x" * 19) * 90
    stream = rows + message("C", b"SELECT 290\0") + message("Z", b"I")
    for part in (stream[:place], stream[place:]):
        assert conversation.feed("<", part) == len(part)
    down = conversation.down
    assert (conversation.up.owed, down.status, down.at_boundary) == (0, ord("I"), True)
    assert down._tally.reads == 1


def test_a_length_that_none_has_is_found_behind_rows() -> None:
    conversation = Conversation()
    with pytest.raises(PgWireError):
        conversation.feed("<", message("D", b"x" * 9) * 500 + b"D\0\0\0\3" + b"x" * 9)


def test_the_inside_of_a_body_needs_no_look() -> None:
    conversation = Conversation()
    down = conversation.down
    whole = message("D", b"x" * 1000)
    conversation.feed("<", whole[:100])
    assert down.pass_body(500)
    assert down.unread_body == 405
    assert not down.pass_body(405)  # what follows is not the inside of this one
    conversation.feed("<", whole[600:] + message("C", b"SELECT 1\0") + message("Z", b"I"))
    assert down.at_boundary
    assert conversation.up.owed == 0


def test_a_body_that_is_kept_is_not_passed_over() -> None:
    conversation = Conversation()
    notice = message("N", b"SNOTICE\0C00000\0Mlong\0\0")
    conversation.feed("<", notice[:12])
    assert not conversation.down.pass_body(3)
    conversation.feed("<", notice[12:])
    assert [note.whole for note in conversation.down.notes] == [True]
