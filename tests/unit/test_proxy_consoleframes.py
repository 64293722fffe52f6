"""Frames between consoles, the agent and workers; and one answer of many."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.pgwire.rows import Table
from metako.proxy import frames
from metako.proxy.console import Command, Done, Failed, Shown, Verb
from metako.proxy.consoleframes import (
    NOTICE_CHARS_MAX,
    ROOM_BYTES,
    ConsoleAsked,
    ConsoleTold,
    Part,
    PartTold,
    PartWanted,
    fitting,
    merged,
)
from metako.proxy.jsonline import FRAME_BYTES_MAX, FrameError
from metako.proxy.limits import Limits, Timeouts, Tuning

NUMBERS = st.integers(0, 2**60)
TEXTS = st.text(max_size=20)
COMMANDS = st.builds(
    Command,
    st.sampled_from(Verb),
    st.none() | st.sampled_from(Shown),
    st.none() | TEXTS,
    st.none() | TEXTS,
)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.builds(
        Table,
        st.lists(TEXTS, min_size=width, max_size=width).map(tuple),
        st.lists(
            st.lists(
                st.none() | TEXTS | st.integers(-(2**60), 2**60), min_size=width, max_size=width
            ).map(tuple),
            max_size=4,
        ).map(tuple),
    )
)
FAILURES = st.builds(Failed, TEXTS, st.just("XX000"), TEXTS)
PARTS = st.builds(
    Part,
    TABLES | st.just(Done()) | FAILURES,
    st.lists(st.text(min_size=1, max_size=20), max_size=3).map(tuple),
    NUMBERS,
)
SECONDS = st.floats(0, 1e9)
TUNINGS = st.builds(
    Tuning,
    NUMBERS,
    SECONDS,
    st.builds(Limits, *[NUMBERS] * 6),
    st.builds(Timeouts, *[SECONDS] * 5),
    st.lists(TEXTS, max_size=3).map(tuple),
)
STATS = Command(Verb.SHOW, shown=Shown.STATS)
KILL = Command(Verb.KILL, client="2.7")


@given(NUMBERS, COMMANDS, NUMBERS)
def test_commands_survive_the_journey(number: int, command: Command, room: int) -> None:
    asked, wanted = ConsoleAsked(number, command), PartWanted(number, command, room)
    assert frames.decode_from_worker(frames.encode(asked)) == asked
    assert frames.decode_from_agent(frames.encode(wanted)) == wanted


@given(NUMBERS, PARTS)
def test_answers_survive_the_journey(number: int, part: Part) -> None:
    told, all_told = PartTold(number, part), ConsoleTold(number, part)
    assert frames.decode_from_worker(frames.encode(told)) == told
    assert frames.decode_from_agent(frames.encode(all_told)) == all_told


@given(TUNINGS)
def test_a_tuning_survives_the_journey(tuning: Tuning) -> None:
    assert frames.decode_from_agent(frames.encode(tuning)) == tuning


@pytest.mark.parametrize(
    "body",
    [
        {"part_wanted": {"id": 1, "command": {"verb": "DROP"}, "room": 1}},
        {"part_wanted": {"id": 1, "command": {"verb": "SHOW", "shown": "ALL"}, "room": 1}},
        {"part_wanted": {"id": 1, "command": {"verb": "SHOW"}}},
        {"console_told": {"id": 1, "columns": ["a"], "rows": [["x", "y"]]}},
        {"console_told": {"id": 1, "columns": ["a"], "rows": [[1.5]]}},
        {"console_told": {"id": 1, "columns": [], "rows": []}},
        {"console_told": {"id": 1, "failed": {"message": 1}}},
        {"console_told": {"id": 1, "notices": "x"}},
        {"tuning": {"sessions_max": 1}},
        {"tuning": {"sessions_max": -1, "queue_timeout_s": 1, "limits": {}, "timeouts": {}}},
    ],
)
def test_nonsense_is_no_frame(body: dict[str, object]) -> None:
    with pytest.raises(FrameError):
        frames.decode_from_agent(json.dumps(body).encode())


def test_the_largest_answer_fits_into_a_frame() -> None:
    table = Table(("worker", "name"), tuple((1, "\u00e4" * 63) for _ in range(5000)))
    part = fitting(Part(table, ("n" * 5000,) * 70), ROOM_BYTES)
    assert len(frames.encode(ConsoleTold(2**60, part))) <= FRAME_BYTES_MAX
    assert part.notices[0] == f"only the first {len(part.outcome.rows)} of 5000 rows are shown"
    assert len(part.outcome.rows) > 100
    long = "\U0001f418" * 10_000
    failed = Part(Failed(long, hint=long), (long,) * 10)
    told = frames.decode_from_agent(frames.encode(ConsoleTold(1, failed)))
    assert told.part.outcome.message == long[:NOTICE_CHARS_MAX]


def test_what_is_alike_becomes_one_table_with_the_workers_first() -> None:
    parts = [
        (1, Part(Table(("a",), ((1,), (2,))))),
        (2, Part(Table(("b",), ((9,),)))),
        (3, Part(Table(("a",), ((3,),)), ("cut",))),
        (3, Part(Table(("a",), ((4,),)))),
    ]
    assert merged(STATS, parts, [4]) == Part(
        Table(("worker", "a"), ((1, 1), (1, 2), (3, 3), (3, 4))),
        ("worker 4 did not answer", "worker 3: cut", "worker 2 is of another version"),
    )


def test_a_failure_of_one_is_the_answer() -> None:
    found = merged(STATS, [(1, Part(Done())), (2, Part(Failed("no")))], [])
    assert found.outcome == Failed("worker 2: no")


def test_nobody_is_not_everybody() -> None:
    found = merged(STATS, [], [1])
    assert isinstance(found.outcome, Failed)
    assert found.notices == ("worker 1 did not answer",)


@pytest.mark.parametrize(
    ("counts", "missing", "fails"),
    [((0, 1), [], False), ((0, 0), [], True), ((0, 0), [3], False)],
)
def test_who_could_not_be_found_anywhere_does_not_exist(counts, missing, fails) -> None:
    parts = [(index, Part(Done(), count=count)) for index, count in enumerate(counts, 1)]
    assert isinstance(merged(KILL, parts, missing).outcome, Failed) is fails
