"""The rig's record, and one history out of many parts."""

import json
import time

import pytest

from chaos.recorder import Recorder, merge


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path / "rig.jsonl")
    yield made
    made.close()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_fact_has_its_time_and_its_kind(recorder, tmp_path):
    recorder.write("phase", name="peace")
    (line,) = lines(tmp_path / "rig.jsonl")
    assert line["e"] == "phase"
    assert line["name"] == "peace"
    assert 0 <= line["t"] < 5


def test_what_a_log_tells_is_recorded_as_of_then(recorder, tmp_path):
    recorder.write("log", at_s=recorder.at_s(time.time() - 3), n="n1")
    (line,) = lines(tmp_path / "rig.jsonl")
    assert -3.5 < line["t"] < -2.5


def test_parts_become_one_history_in_the_order_of_time(tmp_path):
    one, two, whole = (tmp_path / name for name in ("1", "2", "whole"))
    one.write_text('{"t": 1, "e": "a"}\n{"t": 4, "e": "d"}\n{"t": 2, "e": "b"}\n')
    two.write_text('{"t": 3, "e": "c"}\n{"t": 5, "e": "tor')
    assert merge([one, two], whole) == 4
    assert [line["e"] for line in lines(whole)] == ["a", "b", "c", "d"]


def test_numbers_of_faults_are_given_once(recorder):
    assert [recorder.next_number() for _ in range(3)] == [0, 1, 2]
