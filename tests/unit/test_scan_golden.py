"""Conversations of real clients with PostgreSQL 15, and what is known at every turn of them."""

from __future__ import annotations

import pytest
from scan_kit import GOLDEN, Conversation, transcript

TRANSCRIPTS = sorted(GOLDEN.glob("*.txt"))


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) > 5


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("step", [1, 3, 7, 100_000])
def test_state_of_a_conversation(path, step) -> None:
    conversation = Conversation()
    for number, piece in enumerate(transcript(path)):
        found = ""
        for begin in range(0, len(piece.data), step):
            part = piece.data[begin : begin + step]
            if conversation.feed(piece.direction, part) != len(part):
                found = " terminate"
                break
        assert conversation.state() + found == piece.state, f"turn {number}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_known_layouts_change_nothing(path) -> None:
    first = Conversation()
    layouts = first.up._layouts, first.down._layouts
    for conversation in (first, *(Conversation(layouts) for _ in range(4))):
        for piece in transcript(path):
            passed = conversation.feed(piece.direction, piece.data)
            found = "" if passed == len(piece.data) else " terminate"
            assert conversation.state() + found == piece.state
