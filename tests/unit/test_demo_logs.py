"""Following the nodes' logs while other processes write them."""

import json

from metako.demo.logs import LogTail, last_lines, merge, parse_line


def line(second: float, event: str, **fields: object) -> str:
    time = f"2026-11-23T05:00:{second:06.3f}Z"
    return (
        json.dumps({"time": time, "level": "INFO", "msg": event, "event": event, **fields}) + "\n"
    )


def test_line_with_time_and_event_is_an_event():
    event = parse_line("n1", line(1.25, "promoted", term=4))
    assert event is not None
    assert (event.node, event.name, event.fields["term"]) == ("n1", "promoted", 4)
    assert round(event.time_s % 60, 3) == 1.25


def test_lines_that_are_no_events_are_skipped():
    for text in ("", "Traceback (most recent call last):", "{", "[]", "3", '{"time": 5}', "null"):
        assert parse_line("n1", text) is None


def test_half_a_line_is_kept_until_its_end_is_written(tmp_path):
    path = tmp_path / "log"
    tail = LogTail("n1", path)
    assert tail.read_new() == []
    whole = line(1, "promoted")
    path.write_text(whole[:20])
    assert tail.read_new() == []
    with path.open("a") as file:
        file.write(whole[20:] + line(2, "primary_active"))
    assert [e.name for e in tail.read_new()] == ["promoted", "primary_active"]
    assert tail.read_new() == []


def test_rotated_file_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "log"
    path.write_text(line(1, "promoted") * 3)
    tail = LogTail("n1", path)
    assert len(tail.read_new()) == 3
    path.rename(tmp_path / "log.1")
    path.write_text(line(2, "lease_lost") * 5)
    assert [e.name for e in tail.read_new()] == ["lease_lost"] * 5


def test_tail_from_the_end_shows_only_what_is_new(tmp_path):
    path = tmp_path / "log"
    path.write_text(line(1, "promoted"))
    tail = LogTail("n1", path, from_end=True)
    with path.open("a") as file:
        file.write(line(2, "lease_lost"))
    assert [e.name for e in tail.read_new()] == ["lease_lost"]


def test_events_of_several_nodes_are_ordered_by_time():
    one = [parse_line("n1", line(s, "status")) for s in (1, 3)]
    two = [parse_line("n2", line(s, "status")) for s in (2, 4)]
    assert [e.node for e in merge([one, two])] == ["n1", "n2", "n1", "n2"]


def test_last_lines_of_a_missing_file_are_none(tmp_path):
    assert last_lines(tmp_path / "log", 3) == []
    (tmp_path / "log").write_text("a\nb\nc\nd\n")
    assert last_lines(tmp_path / "log", 2) == ["c", "d"]
