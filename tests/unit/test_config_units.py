"""Durations and sizes: Go's spellings, exactly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metako.config.units import format_duration_ms, parse_duration_ms, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("10s", 10_000),
        ("500ms", 500),
        ("1m30s", 90_000),
        ("1.5s", 1500),
        (".5s", 500),
        ("1.s", 1000),
        ("2h45m", 9_900_000),
        ("0", 0),
        ("0s", 0),
        ("2000us", 2),
        ("2000µs", 2),
        ("3000000ns", 3),
    ],
)
def test_go_durations_are_read(text, expected_ms):
    assert parse_duration_ms(text) == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "s",
        "10 s",
        "1d",
        "10S",
        "-1s",
        "+1s",
        "1s ",
        "1,5s",
        "1us",
        "1e3s",
        "9" * 80 + "s",
    ],
)
def test_what_is_no_whole_number_of_milliseconds_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a duration|is negative|is finer than"):
        parse_duration_ms(text)


@settings(deadline=None)  # other tests share the processor
@given(st.integers(min_value=0, max_value=10**10))
def test_a_formatted_duration_reads_back_the_same(value_ms):
    assert parse_duration_ms(format_duration_ms(value_ms)) == value_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50 MB", 50_000_000), ("1MiB", 1 << 20), ("16kB", 16_000), ("1.5KiB", 1536), ("7B", 7)],
)
def test_sizes_are_read(text, expected):
    assert parse_size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "1", "MB", "1mb", "-1MB", "1 M B", "1MB2"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size_bytes(text)
