"""COPY FROM STDIN and layouts: where a message does not mean what it means elsewhere."""

from __future__ import annotations

from scan_kit import Conversation, message

COPY = message("Q", b"copy t from stdin\0")
EXECUTE = message("B", b"\0\0\0\0\0\0\0\0") + message("E", b"\0\0\0\0\0")
SYNC = message("S")
DATA_AND_END = message("d", b"1\n") + message("c")
COPY_IN = message("G", b"\0\0\1\0\0")
DONE = message("C", b"COPY 1\0") + message("Z", b"I")
FAILED = message("E", b"SERROR\0C42P01\0\0") + message("Z", b"I")


def logged_in() -> Conversation:
    conversation = Conversation()
    conversation.feed("<", message("Z", b"I"))
    return conversation


def test_data_that_were_sent_before_the_server_asked_are_over_when_it_asks() -> None:
    conversation = logged_in()
    conversation.feed(">", COPY + DATA_AND_END)
    conversation.feed("<", COPY_IN)
    assert not conversation.up.copying_in
    conversation.feed(">", EXECUTE + SYNC)
    assert conversation.up.owed == 2


def test_data_for_a_copy_that_was_refused_do_not_count_for_the_next_one() -> None:
    conversation = logged_in()
    conversation.feed(">", COPY + DATA_AND_END)
    conversation.feed("<", FAILED)
    assert conversation.up.at_rest
    conversation.feed(">", EXECUTE + SYNC)
    conversation.feed("<", COPY_IN)
    assert conversation.up.copying_in
    conversation.feed(">", DATA_AND_END + SYNC)
    conversation.feed("<", DONE)
    assert conversation.up.at_rest


def test_an_end_of_data_that_crossed_an_error_does_not_count_for_the_next_copy() -> None:
    conversation = logged_in()
    conversation.feed(">", EXECUTE + message("H"))
    conversation.feed("<", COPY_IN)
    conversation.feed("<", FAILED[:-6])
    conversation.feed(">", DATA_AND_END + SYNC)
    conversation.feed("<", FAILED[-6:])
    assert conversation.up.at_rest
    conversation.feed(">", EXECUTE + SYNC)
    conversation.feed("<", COPY_IN)
    assert conversation.up.copying_in


def learnt(direction: str, piece: bytes, answer: bytes) -> Conversation:
    """Return a conversation that knows the layout of `piece`."""
    conversation = logged_in()
    for _ in range(3):
        conversation.feed(direction, piece)
        conversation.feed("<" if direction == ">" else ">", answer)
    conversation.state()
    return conversation


def test_a_body_that_looks_like_a_known_layout_is_a_body() -> None:
    piece = EXECUTE + SYNC
    conversation = learnt(">", piece, message("Z", b"I"))
    assert len(piece) in conversation.up.known
    whole = message("d", piece * 2)
    for part in (whole[:5], piece, piece):
        assert not conversation.up.owed
        conversation.feed(">", part)
    assert not conversation.up.owed
    assert len(piece) in conversation.up.known


def test_a_named_statement_is_kept_though_an_unnamed_one_lay_like_it() -> None:
    unnamed = message("P", b"\0select 1\0\0\0") + SYNC
    conversation = learnt(">", unnamed, message("Z", b"I"))
    assert len(unnamed) in conversation.up.known
    conversation.feed(">", message("P", b"a\0elect 1\0\0\0") + SYNC)
    assert [note.kind for note in conversation.up.notes] == [b"P"]


def test_no_layout_is_taken_in_the_middle_of_a_copy() -> None:
    piece = EXECUTE + SYNC
    conversation = learnt(">", piece, message("Z", b"I"))
    conversation.feed(">", COPY)
    conversation.feed("<", COPY_IN)
    conversation.feed(">", piece)
    assert conversation.up.owed == 1


def test_a_parse_without_a_body_is_left_to_the_server() -> None:
    conversation = logged_in()
    for _ in range(3):
        conversation.feed(">", message("P") + SYNC)
    assert conversation.up.owed == 3
    assert not conversation.up.known
