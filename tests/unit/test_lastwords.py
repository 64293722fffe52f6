"""The last words of a server: found among what comes unasked, and only those of the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scan_kit import message

from metako.pgwire.lastwords import LAST_WORDS_BYTES_MAX, Unasked, find_last_words
from metako.pgwire.startup import error_of_fields, error_response

SHUTDOWN = error_response("57P01", "terminating connection due to administrator command")
NOTICE = message("N", b"SNOTICE\0C01000\0Mwait\0\0")
SETTING = message("S", b"TimeZone\0UTC\0")


@pytest.mark.parametrize("sqlstate", ["57P01", "57P02"])
def test_the_end_of_a_server_is_found(sqlstate) -> None:
    words = error_response(sqlstate, "the end")
    assert find_last_words(words, len(words)) == Unasked(0, words)


def test_what_comes_before_is_told_apart_and_what_comes_after_is_dropped() -> None:
    piece = NOTICE + SETTING + SHUTDOWN + NOTICE
    assert find_last_words(piece, len(piece)) == Unasked(len(NOTICE + SETTING), SHUTDOWN)


@pytest.mark.parametrize("sqlstate", ["57P05", "57P04", "40001", "XX000", ""])
def test_an_error_about_the_session_is_the_clients(sqlstate) -> None:
    words = NOTICE + error_response(sqlstate, "the end")
    assert find_last_words(words, len(words)) == Unasked(len(words), b"")


def test_an_error_that_ends_nothing_is_the_clients() -> None:
    words = error_response("57P01", "not the end", severity="ERROR")
    assert find_last_words(words, len(words)) == Unasked(len(words), b"")


def test_the_severity_of_a_server_in_another_language_is_understood() -> None:
    words = error_of_fields({"S": "FATALE", "V": "FATAL", "C": "57P01", "M": "fin"})
    assert find_last_words(words, len(words)).words == words
    old = error_of_fields({"S": "FATAL", "C": "57P01", "M": "before 9.6"})
    assert find_last_words(old, len(old)).words == old


@pytest.mark.parametrize("size", range(len(NOTICE), len(NOTICE + SHUTDOWN)))
def test_an_error_that_is_cut_is_not_taken_for_one(size) -> None:
    assert find_last_words(NOTICE + SHUTDOWN, size) == Unasked(size, b"")


def test_an_error_beyond_the_limit_is_the_clients() -> None:
    words = error_response("57P01", "x" * LAST_WORDS_BYTES_MAX)
    assert find_last_words(words, len(words)) == Unasked(len(words), b"")


@given(st.binary(max_size=200), st.integers(0, 200))
def test_anything_at_all_is_left_to_the_scanner(data, size) -> None:
    size = min(size, len(data))
    before, words = find_last_words(bytearray(data), size)
    assert 0 <= before <= size
    assert before == size or words
