"""Sessions on PostgreSQL 15, and what is known of each after every turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from scan_kit import transcript
from session_kit import Session, describe

GOLDEN = Path(__file__).parent.parent / "golden" / "tracked"
TRANSCRIPTS = sorted(GOLDEN.glob("*.txt"))


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) > 3


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("step", [1, 4, 100_000])
def test_what_is_known_of_a_session(path, step) -> None:
    session = Session()
    for number, piece in enumerate(transcript(path)):
        session.feed(piece.direction, piece.data, step)
        if piece.state:
            assert describe(session.tracked) == piece.state, f"turn {number}"
