"""Records survive the way to the file and back; nothing malformed passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.history import (
    HISTORY_FILE,
    AgentLog,
    Fault,
    FaultEnd,
    Final,
    HistoryError,
    Kind,
    Left,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Probe,
    Record,
    Recovered,
    Role,
    Run,
    Skipped,
    Writer,
    decode,
    encode,
    read_directory,
    read_finals,
    read_history,
    read_values,
)

APPEND = Operation(
    t=2.0,
    client="c1",
    via="proxy:n1",
    kind=Kind.APPEND,
    keys=(3,),
    values=("c1-17",),
    begin=1.5,
    end=2.0,
    outcome=Outcome.OK,
    server="10.77.0.11",
    timeline=3,
)
EVERY_KIND: tuple[Record, ...] = (
    Run(0.0, "3fa1", "mixed", 7, {"probe_s": 0.5}, ("n1", "n2"), "2026-01-01T00:00:00Z", 12345.6),
    APPEND,
    Fault(1.0, 0, "isolate", "isolate n1 for 8s", ("n1",), 8.0),
    Fault(1.0, 1, "kill", "kill n1", ("n1",), None),
    FaultEnd(9.0, 0),
    Skipped(2.0, "kill", "kill n2", "it is dead"),
    NodeState(0.2, "n1", Role.PRIMARY, "steady", 3, 2, 1234, "n1"),
    AgentLog(0.3, "n1", "election_won", "won", {"term": 3}),
    Probe(1.24, "n1", 1.23, 1.24, None),
    Phase(10.0, "peace"),
    Final(20.0, "n1", 2, "abc", 3, True, "ok", "final-n1.txt"),
    Left(21.0, ("postgres 17",), (), ()),
    Recovered(14.2, "n1", 4.2),
)


def write(path: Path, *records: Record) -> Path:
    writer = Writer(path)
    for record in records:
        writer.write(record)
    writer.close()
    return path


def test_every_kind_survives_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / HISTORY_FILE, *EVERY_KIND)
    assert read_history(path).records == EVERY_KIND
    assert {type(record) for record in EVERY_KIND} == set(Record.__args__)


text = st.text(max_size=20)


@given(
    st.builds(
        Operation,
        t=st.floats(0, 1e6),
        client=text,
        via=text,
        kind=st.sampled_from(Kind),
        keys=st.lists(st.integers(), max_size=4).map(tuple),
        values=st.lists(text, max_size=4).map(tuple),
        begin=st.floats(0, 1e6),
        end=st.floats(0, 1e6),
        outcome=st.sampled_from(Outcome),
        error=text,
        warning=text,
        seen=st.lists(text, max_size=4).map(tuple),
    )
)
def test_any_operation_survives_a_line(operation: Operation) -> None:
    line = encode(operation)
    assert "\n" not in line
    assert decode(line) == operation


def test_the_line_of_an_append_is_as_others_expect_it() -> None:
    found = json.loads(encode(APPEND))
    assert (found["e"], found["key"], found["keys"], found["kind"]) == ("op", 3, [3], "append")


def test_an_operation_with_one_key_only_is_read() -> None:
    found = json.loads(encode(APPEND))
    del found["keys"]
    assert decode(json.dumps(found)) == APPEND


def test_an_unknown_field_is_ignored() -> None:
    assert decode('{"e":"phase","t":1,"name":"peace","more":[1]}') == Phase(1.0, "peace")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{",
        '{"t":1}',
        '{"e":"other","t":1}',
        '{"e":["phase"],"t":1}',
        '{"e":"phase","t":1}',
        '{"e":"phase","t":"1","name":"peace"}',
        '{"e":"phase","t":true,"name":"peace"}',
        '{"e":"phase","t":NaN,"name":"peace"}',
        '{"e":"fault_end","t":1,"id":1.5}',
        '{"e":"node","t":1,"n":"n1","role":"boss"}',
        '{"e":"left","t":1,"processes":"postgres"}',
        '{"e":"left","t":1,"processes":[1]}',
        '{"e":"probe","t":1,"n":"n1","asked":1,"answered":1,"in_recovery":"no"}',
    ],
)
def test_a_malformed_line_is_an_error(line: str) -> None:
    with pytest.raises(HistoryError):
        decode(line)


def test_a_torn_last_line_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / HISTORY_FILE, *EVERY_KIND)
    with path.open("a") as file:
        file.write('{"t":3,"e":"ph')
    found = read_history(path)
    assert found.records == EVERY_KIND
    assert found.torn == (f'{HISTORY_FILE}:{len(EVERY_KIND) + 1}: {{"t":3,"e":"ph',)
    with pytest.raises(HistoryError, match="torn"):
        Writer(path)


def test_a_malformed_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    path.write_text(encode(APPEND) + "\n{}\n" + encode(APPEND) + "\n")
    with pytest.raises(HistoryError, match=r"history\.jsonl:2: "):
        read_history(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HistoryError):
        read_directory(tmp_path)


def test_lines_of_two_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    one, two = Writer(path), Writer(path)
    for number in range(50):
        one.write(Phase(float(number), "one" * 1000))
        two.write(Phase(float(number), "two" * 1000))
    one.close()
    two.close()
    assert len(read_history(path).records) == 100


def test_files_of_clients_are_merged_once_and_in_order(tmp_path: Path) -> None:
    end = Phase(1.0, "end")
    write(tmp_path / HISTORY_FILE, end, APPEND)
    other = replace(APPEND, client="c2", t=0.5)
    write(tmp_path / "client-c1.jsonl", APPEND, other)
    assert read_directory(tmp_path).records == (other, end, APPEND)


def test_values_are_read_beside_the_history(tmp_path: Path) -> None:
    write(tmp_path / HISTORY_FILE, *EVERY_KIND)
    (tmp_path / "final-n1.txt").write_text("3 c1-17\n4 c1-18\n")
    found = read_finals(tmp_path, read_directory(tmp_path))
    assert found == {"n1": ((3, "c1-17"), (4, "c1-18"))}


@pytest.mark.parametrize("content", ["3\n", "a b\n", "3 c1-17"])
def test_malformed_values_are_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "values").write_text(content)
    with pytest.raises(HistoryError):
        read_values(tmp_path / "values")
