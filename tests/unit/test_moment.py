"""Points in time: as ISO 8601 on the wire, and as an operator types them after `--at`."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from metako.cli.at_time import parse_at
from metako.cli.upkeep_text import both_zones, duration_words, when_words
from metako.model.errors import UsageError
from metako.model.moment import format_moment, parse_moment_ms, why_not_at
from metako.model.orders import SCHEDULE_MAX_S

AT_MS = 1_796_090_400_000  # 2026-12-01 02:00 UTC


@pytest.fixture
def berlin(monkeypatch):
    """This machine is in a zone whose clocks change."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# ---------------------------------------------------------------- on the wire


@pytest.mark.parametrize(
    "text",
    [
        "2026-12-01T02:00Z",
        "2026-12-01T02:00:00Z",
        "2026-12-01 02:00:00.000Z",
        "2026-12-01T03:00+01:00",
        "2026-12-01T03:00:00+0100",
        "2026-11-30T20:30:00-05:30",
    ],
)
def test_every_zone_is_the_same_moment(text):
    assert parse_moment_ms(text) == AT_MS


def test_what_is_written_is_read_back():
    assert format_moment(AT_MS) == "2026-12-01T02:00:00Z"
    assert format_moment(AT_MS + 250) == "2026-12-01T02:00:00.250Z"
    for ms in (AT_MS, AT_MS + 1, 0, 253_402_300_799_999):
        assert parse_moment_ms(format_moment(ms)) == ms
    # A document of another version may hold anything.
    assert format_moment(2**62) == format_moment(253_402_300_799_999)
    assert format_moment(-5) == format_moment(0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-12-01T02:00", "names no time zone: end it with Z"),
        ("2026-12-01", "not a date and time"),
        ("02:00", "not a date and time"),
        ("", "not a date and time"),
        ("2026-12-01T02:00 Europe/Berlin", "not a date and time"),
        ("2026-13-01T02:00Z", "month"),
        ("2026-02-30T02:00Z", "day"),
        ("2026-12-01T25:00Z", "hour"),
        ("2026-12-01T02:00+99:00", "offset"),
        ("2026-W49-2T02:00Z", "not a date and time"),
        ("x" * 9999, "not a date and time"),
    ],
)
def test_what_is_no_moment_says_why(text, why):
    with pytest.raises(ValueError, match=why) as error:
        parse_moment_ms(text)
    assert len(str(error.value)) < 200


def test_only_what_is_ahead_and_not_too_far_can_be_scheduled():
    most = AT_MS + SCHEDULE_MAX_S * 1000
    assert [bool(why_not_at(at, AT_MS)) for at in (AT_MS, AT_MS + 1, most, most + 1)] == [
        *(True, False),
        *(False, True),
    ]
    assert "has passed: it is 2026-12-01T02:00:00Z now" in why_not_at(AT_MS - 1, AT_MS)
    assert "366 days ahead" in why_not_at(most + 1, AT_MS)


# ---------------------------------------------------------------- as typed


def now(text="2026-12-01T12:00:00+01:00"):
    return datetime.fromisoformat(text).astimezone()


@pytest.mark.parametrize(
    ("typed", "utc"),
    [
        ("12:01", "2026-12-01T11:01:00"),
        ("23:59:58", "2026-12-01T22:59:58"),
        ("2:00", "2026-12-02T01:00:00"),  # tomorrow: today's has passed
        ("12:00", "2026-12-02T11:00:00"),
        ("+90s", "2026-12-01T11:01:30"),
        ("+10m", "2026-12-01T11:10:00"),
        ("+2h", "2026-12-01T13:00:00"),
        ("+1d", "2026-12-02T11:00:00"),
        ("2026-12-24T18:00", "2026-12-24T17:00:00"),
        ("2026-12-24 18:00:30", "2026-12-24T17:00:30"),
        ("2026-12-24T18:00Z", "2026-12-24T18:00:00"),
        ("2027-06-01T12:00", "2027-06-01T10:00:00"),  # by the clocks of that day
    ],
)
def test_every_form_that_is_documented(berlin, typed, utc):
    assert parse_at(typed, now()) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("soon", "not a time; write HH:MM"),
        ("", "not a time"),
        ("+10", "not a time"),
        ("-10m", "not a time"),
        ("+1w", "not a time"),
        ("25:00", "no such time of day"),
        ("12:60", "no such time of day"),
        ("+0s", "has passed"),
        ("2026-12-01T11:59", "has passed"),
        ("+367d", "days ahead"),
        ("+99999999d", "no calendar"),
        ("9999-12-30T23:59", "days ahead|no calendar"),
        ("0001-01-01T00:00", "no calendar|has passed"),
        ("2027-03-28T02:30", "show that never"),
        ("2027-10-31T02:30", "show that twice"),
    ],
)
def test_every_mistake_says_what_and_what_to_do(berlin, typed, why):
    with pytest.raises(UsageError, match=why) as error:
        parse_at(typed, now())
    assert str(error.value).startswith(f"--at {typed}: ")


def test_the_hour_that_comes_twice_can_be_given_as_the_text_proposes(berlin):
    with pytest.raises(UsageError) as error:
        parse_at("2027-10-31T02:30", now())
    proposed = str(error.value).rsplit(" ", 1)[1]
    assert parse_at(proposed, now()) == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)


def test_tomorrow_is_by_the_calendar_and_not_a_day_of_24_hours_later(berlin):
    before = now("2027-03-27T12:00:00+01:00")
    assert parse_at("11:00", before) - before == timedelta(hours=22)


# ---------------------------------------------------------------- shown


def test_both_zones_are_shown_where_there_are_two(berlin):
    moment = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
    assert both_zones(moment) == "2026-12-01 03:00:00 CET (2026-12-01 02:00:00 UTC)"


def test_a_machine_in_utc_shows_one(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    moment = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
    assert both_zones(moment) == "2026-12-01 02:00:00 UTC"
    monkeypatch.undo()
    time.tzset()


def test_how_long_it_takes_is_told_in_two_units():
    shown = {0: "0 s", 59: "59 s", 60: "1 min", 61: "1 min 1 s", 11_520: "3 h 12 min"}
    shown |= {3605: "1 h", 86_400: "1 d", 90_061: "1 d 1 h"}
    assert {seconds: duration_words(seconds) for seconds in shown} == shown


def test_the_date_is_left_out_today():
    here = datetime(2026, 12, 1, 0, 0, tzinfo=UTC)
    assert when_words(here + timedelta(minutes=192), here) == "at 03:12:00 (in 3 h 12 min)"
    assert when_words(here + timedelta(days=2), here) == "at 2026-12-03 00:00:00 (in 2 d)"
    assert when_words(here, here) == "at 00:00:00 (now)"
