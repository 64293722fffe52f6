"""Following a log loses no line, through rotation, truncation and torn lines."""

import itertools

import pytest

from metako.observability.follow import Follower, follow, tail
from metako.observability.record import LogRecord
from metako.observability.sinks import RotatingFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "n1.log"


def line(number):
    return f'{{"time": "2024-05-01T12:00:00.000Z", "level": "INFO", "msg": "{number}"}}'


def add(path, *numbers):
    with path.open("a") as file:
        file.writelines(line(number) + "\n" for number in numbers)


def messages(records):
    return [r.message if isinstance(r, LogRecord) else r for r in records]


def test_tail_returns_the_last_lines(path):
    add(path, *range(10))
    assert messages(tail(path, 3)) == ["7", "8", "9"]
    assert messages(tail(path, 99)) == [str(n) for n in range(10)]
    assert tail(path, 0) == []


def test_tail_of_a_missing_file_is_empty(path):
    assert tail(path, 3) == []


def test_new_lines_come_once_and_a_torn_one_when_it_is_whole(path):
    follower = Follower(path, last=0)
    add(path, 1)
    assert messages(follower.read_new()) == []
    add(path, 2)
    text = line(3)
    with path.open("a") as file:
        file.write(text[:20])
    assert messages(follower.read_new()) == ["2"]
    with path.open("a") as file:
        file.write(text[20:] + "\n")
    assert messages(follower.read_new()) == ["3"]
    follower.close()


def test_a_file_that_appears_later_is_read_from_its_beginning(path):
    follower = Follower(path, last=0)
    assert messages(follower.read_new()) == []
    add(path, 1, 2)
    assert messages(follower.read_new()) == ["1", "2"]
    follower.close()


def test_no_line_is_lost_when_the_sink_rotates(path):
    file = RotatingFile(path, rotation_bytes=200, retention=3)
    follower = Follower(path, last=0)
    seen = []
    for number in range(20):
        file.write_line(line(number))
        seen += messages(follower.read_new())
    file.close()
    follower.close()
    assert seen[-19:] == [str(n) for n in range(1, 20)]


def test_what_came_just_before_a_rotation_is_read_from_the_old_file(path):
    add(path, 1)
    follower = Follower(path)
    assert messages(follower.read_new()) == ["1"]
    add(path, 2)
    path.rename(path.with_name("old"))
    add(path, 3)
    assert messages(follower.read_new()) == ["2", "3"]
    follower.close()


def test_a_file_truncated_in_place_is_read_from_its_beginning(path):
    add(path, 1, 2, 3)
    follower = Follower(path)
    assert messages(follower.read_new()) == ["1", "2", "3"]
    path.write_text(line(4) + "\n")
    assert messages(follower.read_new()) == ["4"]
    follower.close()


def test_between_two_steps_of_a_rotation_nothing_happens(path):
    add(path, 1)
    follower = Follower(path)
    assert messages(follower.read_new()) == ["1"]
    path.rename(path.with_name("old"))
    assert messages(follower.read_new()) == []
    add(path, 2)
    assert messages(follower.read_new()) == ["2"]
    follower.close()


def test_a_foreign_line_comes_out_as_it_is(path):
    path.write_bytes(b"Traceback: \xff\n")
    assert tail(path, 5) == ["Traceback: �"]


def test_follow_goes_on_after_the_last_line(path):
    add(path, 1, 2)
    pauses = []

    def sleep(duration_s):
        pauses.append(duration_s)
        add(path, 2 + len(pauses))

    lines = follow(path, last=1, poll_interval_s=0.5, sleep=sleep)
    assert messages(itertools.islice(lines, 3)) == ["2", "3", "4"]
    lines.close()
    assert pauses == [0.5, 0.5]
