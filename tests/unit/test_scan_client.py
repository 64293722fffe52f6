"""What a client may not do, where it says goodbye, and what is kept of what it sends."""

from __future__ import annotations

import struct

import pytest
from scan_kit import Conversation, message

from metako.pgwire.scan import CLIENT_MESSAGE_BYTES_MAX
from metako.pgwire.startup import PgWireError


def header(kind: bytes, length: int) -> bytes:
    return kind + struct.pack("!I", length)


@pytest.mark.parametrize(
    "stream",
    [
        header(b"Q", 3),
        header(b"Q", 0),
        header(b"d", CLIENT_MESSAGE_BYTES_MAX + 1),
        header(b"Q", 0xFFFFFFFF),
        b"G",
        b"\0",
        message("S") + b"\x16\x03\x01",
        message("Q", b"select 1\0") + header(b"T", 20),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_impossible_messages_are_a_violation(stream, step) -> None:
    conversation = Conversation()
    with pytest.raises(PgWireError):  # noqa: PT012 - whichever part it is that breaks it
        for begin in range(0, len(stream), step):
            conversation.feed(">", stream[begin : begin + step])


def test_the_longest_message_is_accepted_and_counted_through() -> None:
    conversation = Conversation()
    conversation.feed(">", header(b"d", CLIENT_MESSAGE_BYTES_MAX) + b"x" * 10)
    assert not conversation.up.at_boundary
    left = CLIENT_MESSAGE_BYTES_MAX - 4 - 10
    assert conversation.up.scan(b"", left) == left
    assert conversation.up.at_boundary


@pytest.mark.parametrize("goodbye", [message("X"), b"X", b"X\0\0", header(b"X", 1)])
def test_terminate_is_stopped_before(goodbye) -> None:
    conversation = Conversation()
    before = message("Q", b"select 1\0")
    assert conversation.feed(">", before + goodbye) == len(before)
    assert conversation.up.owed == 2
    assert conversation.up.at_boundary


def test_an_x_inside_of_a_body_is_no_goodbye() -> None:
    conversation = Conversation()
    data = message("Q", message("X"))
    assert conversation.feed(">", data) == len(data)


def test_long_statements_are_kept_in_part_and_say_so() -> None:
    conversation = Conversation()
    text = b"select 1 -- " + b"x" * 3000 + b"\0"
    conversation.feed(">", message("Q", text))
    conversation.feed(">", message("P", b"name\0" + b"x" * 65_536))
    conversation.feed(">", message("P", b"name\0" + b"x" * 1000))
    found = [(note.kind, len(note.body), note.whole) for note in conversation.up.notes]
    assert found == [(b"Q", 2048, False), (b"P", 256, False), (b"P", 1005, True)]


def test_what_is_kept_of_a_cut_message_is_bounded() -> None:
    conversation = Conversation()
    conversation.feed(">", header(b"P", 1_000_000) + b"a")
    for _ in range(20):
        conversation.feed(">", b"x" * 40_000)
    assert [len(note.body) for note in conversation.up.notes] == [256]
    assert conversation.up._gathered is None


def test_sizes_without_end_do_not_fill_the_memory_of_layouts() -> None:
    conversation = Conversation()
    layouts = conversation.up._layouts
    for size in range(3000):
        for _ in range(2):
            conversation.feed(">", message("B", b"x" * size) + message("S"))
    assert 0 < len(layouts.known) <= 512
    assert len(layouts._misses) <= 512


def test_a_repeated_piece_is_recognised_by_its_layout() -> None:
    conversation = Conversation()
    for number in range(3):
        data = message("B", b"%d" % number) + message("E", b"") + message("S")
        conversation.feed(">", data)
    assert list(conversation.up._layouts.known) == [len(data)]
    assert conversation.up.owed == 4


@pytest.mark.parametrize("bad", [message("Z"), message("Z", b"II"), header(b"D", 3)])
def test_a_server_that_speaks_something_else_is_a_violation(bad) -> None:
    with pytest.raises(PgWireError):
        Conversation().feed("<", bad)


def test_unknown_messages_of_a_server_are_passed_on() -> None:
    conversation = Conversation()
    data = message("!", b"new in PostgreSQL 30") + message("Z", b"I")
    assert conversation.feed("<", data) == len(data)
    assert conversation.down.status == ord("I")


def test_without_notes_the_state_is_the_same_and_nothing_is_kept() -> None:
    kept, bare = Conversation(), Conversation(keeps=False)
    for conversation in (kept, bare):
        conversation.feed(">", message("Q", b"begin\0") + message("P", b"name\0select 1\0\0\0")[:9])
        conversation.feed("<", message("S", b"a\0b\0") + message("C", b"BEGIN\0"))
        conversation.feed("<", message("E", b"C25006\0\0") + message("Z", b"E"))
    assert not bare.up.notes + bare.down.notes
    assert bare.up._gathered is None
    assert kept.state().startswith(bare.state())
