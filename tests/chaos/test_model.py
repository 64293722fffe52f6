"""Whatever a right cluster does, the checker is content; whatever is then taken away, it is not.

The model is one table with a primary at a time. Operations overlap, answers get lost, rows of a
lost answer are there or not, clocks of servers disagree, and reads come at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from chaos.forge import NODES, Forged, Story, finish
from chaos.history import Kind, Operation, Outcome

STEPS_MAX = 60


@dataclass(frozen=True)
class Step:
    do: str
    keys: tuple[int, ...]
    outcome: Outcome
    executed: bool  # of a write in doubt
    pause_ms: int
    ahead_ms: int  # how long before its effect the operation began
    behind_ms: int  # how long after its effect the answer came
    clock_ms: int  # how wrong the clock of the server is
    node: str


steps = st.lists(
    st.builds(
        Step,
        do=st.sampled_from(("write", "write", "write", "read", "read", "promote", "probe")),
        keys=st.lists(st.integers(0, 2), min_size=1, max_size=4, unique=True).map(tuple),
        outcome=st.sampled_from(Outcome),
        executed=st.booleans(),
        pause_ms=st.integers(1, 500),
        ahead_ms=st.integers(1, 800),
        behind_ms=st.integers(1, 800),
        clock_ms=st.integers(-5000, 5000),
        node=st.sampled_from(NODES),
    ),
    max_size=STEPS_MAX,
)


LAST_WRITE = Step("write", (0,), Outcome.OK, True, 1, 1, 1, 0, "n1")
LAST_READ = replace(LAST_WRITE, do="read", pause_ms=10)
LAST_FAILURE = replace(LAST_WRITE, outcome=Outcome.FAILED)


def play(told: list[Step]) -> Forged:
    """Carry the steps out one after the other at the moments of their effects."""
    story = Story()
    now = 10.0
    for step in told:
        now += step.pause_ms / 1000
        begin, took = now - step.ahead_ms / 1000, (step.ahead_ms + step.behind_ms) / 1000
        match step.do:
            case "write":
                story.write(
                    begin,
                    keys=step.keys,
                    outcome=step.outcome,
                    executed=step.executed if step.outcome is Outcome.UNKNOWN else None,
                    took=took,
                    via=f"proxy:{step.node}",
                    at_us=int(now * 1e6) + 10_000_000 + step.clock_ms * 1000,
                )
            case "read":
                story.read(begin, key=step.keys[0], took=took)
            case "promote":
                story.promote(step.node)
            case "probe":
                standby = step.node != story.server
                process = "standby" if standby else str(story.timeline)
                story.probe(step.node, now, in_recovery=standby, process=process)
    return finish(story)


@given(steps)
def test_a_right_history_is_never_found_wrong(told: list[Step]) -> None:
    assert play(told).judge().violations == ()


@given(steps, st.data())
def test_any_acknowledged_value_that_is_taken_away_is_missed(
    told: list[Step], data: st.DataObject
) -> None:
    forged = play(told)
    value = data.draw(st.sampled_from(_acknowledged(forged))).values[0]
    assert "lost" in forged.without_rows(value).violated()


@given(steps, st.data())
def test_any_known_value_that_a_later_read_misses_is_noticed(
    told: list[Step], data: st.DataObject
) -> None:
    forged = play([*told, LAST_WRITE, LAST_READ])
    reads = [op for op in forged.history.of(Operation) if op.seen and not op.since_us]
    pairs = [
        (read, value)
        for op in _acknowledged(forged)
        for value in op.values
        for read in reads
        if value in read.seen and op.end < read.begin
    ]
    read, value = data.draw(st.sampled_from(pairs))
    blind = replace(read, seen=tuple(other for other in read.seen if other != value))
    found = forged.change(lambda record: blind if record == read else record)
    assert found.violated() == {"stale_primary_read"}


@given(steps)
def test_any_row_that_is_doubled_is_noticed(told: list[Step]) -> None:
    forged = play(told)
    assert "duplicated" in forged.with_rows(forged.finals["n1"][0]).violated()


@given(steps)
def test_any_failed_value_that_appears_is_noticed(told: list[Step]) -> None:
    forged = play([*told, LAST_FAILURE])
    failed = [
        op
        for op in forged.history.of(Operation)
        if op.outcome is Outcome.FAILED and op.kind is Kind.APPEND
    ]
    assert "surplus" in forged.with_rows((failed[0].keys[0], failed[0].values[0])).violated()


def _acknowledged(forged: Forged) -> list[Operation]:
    return [op for op in forged.history.of(Operation) if op.writes and op.outcome is Outcome.OK]
