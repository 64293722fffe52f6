"""A log line is one line, gives no secret away and reads back as what was written."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metako.observability.record import (
    REDACTED,
    LogRecord,
    json_line,
    read_json_line_untrusted,
    text_line,
)

NOON = datetime(2024, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
PLAIN = st.none() | st.booleans() | st.integers() | st.text()


def test_json_line_begins_with_time_level_and_message():
    record = LogRecord(NOON, "INFO", "promoted", "n1", {"event": "promoted", "tli": 3})
    assert json_line(record) == (
        '{"time": "2024-05-01T12:00:00.123Z", "level": "INFO", "msg": "promoted", '
        '"node": "n1", "event": "promoted", "tli": 3}'
    )


def test_time_is_written_in_utc_wherever_it_was_read():
    east = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert '"2024-05-01T12:00:00.123Z"' in json_line(LogRecord(east, "INFO", "x"))


@settings(deadline=None)  # other tests share the processor
@given(st.text(), st.dictionaries(st.sampled_from(["a", "b", "tli", "reason"]), PLAIN))
def test_any_record_is_one_line_and_reads_back(message, fields):
    line = json_line(LogRecord(NOON, "INFO", message, "n1", fields)).encode("utf-8", "replace")
    assert b"\n" not in line
    back = read_json_line_untrusted(line)
    assert back is not None
    assert (back.level, back.node, set(back.fields)) == ("INFO", "n1", set(fields))


@settings(deadline=None)  # other tests share the processor
@given(st.text(), st.text())
def test_no_text_can_begin_a_line_or_steer_a_terminal(message, value):
    text = text_line(LogRecord(NOON, "INFO", message, "n1", {"reason": value}))
    assert text.isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "geheim"),
        ("replication_password", "geheim"),
        ("key", b"geheim"),
        ("gossip_key", "geheim"),
        ("keys", ["geheim"]),
        ("client_secret", {"a": "geheim"}),
        ("settings", {"password": "geheim", "deep": {"api_key": "geheim"}}),
        ("dsn", "postgresql://a:geheim@h/d"),
        ("reason", "could not connect to postgresql://app:geheim@host:5432/app"),
        ("reason", "conninfo: host=h password=geheim user=u"),
        ("reason", "conninfo: host=h PASSWORD = 'geheim' user=u"),
    ],
)
def test_a_secret_is_redacted_in_both_forms(name, value):
    record = LogRecord(NOON, "INFO", "x", fields={name: value})
    for line in (json_line(record), text_line(record)):
        assert "geheim" not in line
        assert REDACTED in line


def test_a_name_that_only_resembles_a_secret_is_shown():
    record = LogRecord(NOON, "INFO", "x", fields={"monkey": "m", "keyword": "k"})
    assert json.loads(json_line(record))["monkey"] == "m"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, object(), {1, 2}, b"x"])
def test_what_json_does_not_know_still_makes_valid_json(value):
    line = json_line(LogRecord(NOON, "INFO", "x", fields={"v": value}))
    assert json.loads(line, parse_constant=pytest.fail)["msg"] == "x"


def test_a_huge_value_is_cut():
    assert len(json_line(LogRecord(NOON, "INFO", "x", fields={"v": "y" * 1_000_000}))) < 10_000


def test_text_line_shows_key_value_pairs_without_the_events_name():
    record = LogRecord(NOON, "ERROR", "it broke", "n1", {"event": "x", "a": 1, "b": "two words"})
    assert text_line(record).endswith(' ERROR   it broke  a=1 b="two words"')
    assert " n1 it broke" in text_line(record, show_node=True)
    assert "\x1b[31mERROR" in text_line(record, colour=True)


@pytest.mark.parametrize(
    "line",
    ["", "x", "[]", "1", "{}", '{"time": 1}', '{"time": "x"}', '{"time": "2024-05-01"}', b"\xff{"],
)
def test_a_foreign_line_is_no_record(line):
    assert read_json_line_untrusted(line) is None
