"""Forged histories for the checks of reads, of the end of a run and of the way there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.checker import check
from chaos.forge import Forged, Story, finals_only, finish, simple
from chaos.history import (
    Final,
    History,
    Kind,
    Left,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Record,
    Recovered,
)

UNKNOWN, FAILED = Outcome.UNKNOWN, Outcome.FAILED


# Reads


def test_a_read_on_a_primary_that_misses_what_another_saw_is_stale() -> None:
    story = Story()
    story.write(1.0)
    story.read(2.0)
    story.read(3.0, without=["c1-1"])
    (found,) = finish(story).judge().violations
    assert found.check == "stale_primary_read"
    assert any("first seen by 2.000" in line for line in found.evidence)


def test_a_value_seen_before_its_acknowledgement_stays() -> None:
    story = Story()
    story.write(1.0, took=9.0)
    story.read(2.0)
    story.read(3.0, without=["c1-1"])
    assert finish(story).violated() == {"stale_primary_read"}


def test_a_value_that_a_read_overlaps_may_be_missing() -> None:
    story = Story()
    story.write(1.0, took=9.0)
    story.read(2.0, without=["c1-1"])
    story.read(3.0)
    assert finish(story).violated() == set()


def test_a_standby_may_lag() -> None:
    story = Story()
    story.write(1.0)
    read = story.read(3.0, without=["c1-1"])
    forged = finish(story)
    assert forged.violated() == {"stale_primary_read"}
    lagging = forged.change(lambda r: replace(read, role="standby") if r == read else r)
    assert lagging.violated() == set()


def test_a_value_that_reads_miss_from_then_on_has_vanished() -> None:
    story = Story()
    story.write(1.0)
    story.read(2.0)
    story.read(3.0, without=["c1-1"])
    assert finish(story).without_rows("c1-1").violated() == {"vanished", "lost"}


def test_a_value_in_doubt_that_was_seen_may_vanish_with_a_note() -> None:
    story = Story()
    story.write(1.0, outcome=UNKNOWN, executed=True)
    story.read(2.0)
    story.read(3.0, without=["c1-1"])
    forged = finish(story).without_rows("c1-1")
    assert forged.violated() == set()
    assert forged.noted() == {"vanished_unacknowledged"}


def test_a_long_key_is_judged_as_far_back_as_its_list_goes() -> None:
    story = Story()
    for step in range(60):
        story.write(1.0 + step)
    story.read(70.0)
    assert finish(story).violated() == set()
    story.read(71.0, without=["c1-30"])
    assert finish(story).violated() == {"stale_primary_read"}


def test_an_old_row_of_a_slow_clock_is_not_looked_for_in_a_short_list() -> None:
    story = Story()
    for step in range(60):
        story.write(1.0 + step)
    story.write(62.0, at_us=5)  # another server's clock is far behind
    story.read(70.0)
    assert finish(story).violated() == set()


def test_rows_of_the_same_time_at_the_edge_of_a_list_are_not_looked_for() -> None:
    story = Story()
    for step in range(51):
        story.write(1.0 + step, at_us=max(step, 1))  # the first two have the same
    assert story.read(70.0).since_us == 1
    assert finish(story).violated() == set()


def test_a_full_list_that_does_not_say_how_far_it_goes_proves_nothing() -> None:
    story = Story()
    for step in range(60):
        story.write(1.0 + step)
    read = story.read(70.0, without=["c1-60"])
    forged = finish(story)
    assert forged.violated() == {"stale_primary_read"}
    mute = forged.change(lambda r: replace(read, since_us=0) if r == read else r)
    assert mute.violated() == set()


# The end


def test_a_torn_line_is_a_note() -> None:
    forged = simple()
    torn = Forged(replace(forged.history, torn=("history.jsonl:9: {",)), forged.finals)
    assert torn.violated() == set()
    assert torn.noted() == {"torn_line"}


def test_hashes_that_differ_are_contents_that_differ() -> None:
    forged = simple().change(
        finals_only(lambda final: replace(final, hash=final.n) if final.n == "n3" else final)
    )
    assert forged.violated() == {"contents_differ"}


def test_failed_checksums_are_a_violation_and_skipped_ones_a_note() -> None:
    def with_checksums(text: str) -> Forged:
        return simple().change(finals_only(lambda final: replace(final, checksums=text)))

    assert with_checksums("failed: block 7").violated() == {"checksums"}
    assert with_checksums("skipped: off").violated() == set()
    assert with_checksums("skipped: off").noted() == {"checksums"}


def late(record: Record, after_s: float) -> Record:
    if isinstance(record, Recovered) and record.n == "n3":
        return replace(record, after_s=after_s)
    return record


def test_a_node_that_is_back_late_is_not_streaming() -> None:
    assert simple().change(lambda r: late(r, 59.0)).violated() == set()
    assert simple().change(lambda r: late(r, 61.0)).violated() == {"not_streaming"}
    assert simple().change(lambda r: late(r, 61.0)).violated(recover_s=70.0) == set()


def test_a_node_that_never_is_back_is_not_streaming() -> None:
    forged = simple().change(lambda r: None if isinstance(r, Recovered) and r.n == "n3" else r)
    assert forged.violated() == {"not_streaming"}


def test_a_standby_that_does_not_stream_at_the_end_is_not_streaming() -> None:
    def silent(node: str) -> Forged:
        return simple().change(
            finals_only(lambda final: replace(final, streaming=final.n not in ("n2", node)))
        )

    assert silent("n2").violated() == set()  # the primary
    assert silent("n1").violated() == {"not_streaming"}


def test_the_only_silent_node_may_be_a_primary_that_nobody_named() -> None:
    forged = simple().change(lambda r: None if isinstance(r, NodeState) else r)
    assert forged.violated() == set()


@pytest.mark.parametrize("what", ["processes", "namespaces", "files"])
def test_anything_left_is_left_behind(what: str) -> None:
    assert simple().add(Left(140.0, **{what: ("it",)})).violated() == {"left_behind"}


def quiet(begin: float, end: float) -> Forged:
    """Writes through proxies fail for a while in the peace."""
    return simple().change(
        lambda r: (
            replace(r, outcome=UNKNOWN)
            if isinstance(r, Operation) and r.writes and begin < r.begin < end
            else r
        )
    )


def test_a_long_gap_in_the_settled_peace_is_unavailable() -> None:
    assert quiet(100.0, 114.0).violated() == set()  # not settled
    assert quiet(116.0, 120.0).violated() == set()
    assert quiet(116.0, 122.0).violated() == {"unavailable"}
    assert quiet(116.0, 122.0).violated(gap_s=8.0) == set()
    assert quiet(123.0, 140.0).violated() == {"unavailable"}


def test_a_gap_under_the_faults_of_a_later_round_is_none_of_the_peace() -> None:
    rounds = quiet(116.0, 125.0).add(Phase(115.5, "faults")).add(Phase(126.0, "peace"))
    assert rounds.violated(settle_s=2.0) == set()
    assert rounds.change(lambda r: None if _phase(r) == "faults" else r).violated() == {
        "unavailable"
    }


def test_the_slowest_return_of_several_rounds_counts() -> None:
    again = Recovered(139.0, "n1", 1.0)
    late = simple().change(lambda r: replace(r, after_s=70.0) if isinstance(r, Recovered) else r)
    assert simple().add(again).violated() == set()
    assert late.add(again).violated() == {"not_streaming"}


def test_writes_past_the_proxies_do_not_make_them_available() -> None:
    def directly(record: Record) -> Record:
        if isinstance(record, Operation) and record.begin > 110.0 and record.outcome is Outcome.OK:
            return replace(record, via="direct:n2")
        return record

    tried = simple().change(directly)
    attempt = Operation(129.0, "c3", "proxy:n1", Kind.APPEND, (1,), ("c3-1",), 128.0, 129.0, FAILED)
    assert tried.add(attempt).violated() == {"unavailable"}


def test_a_peace_in_which_nobody_uses_a_proxy_is_incomplete() -> None:
    forged = simple().change(
        lambda r: replace(r, via="direct:n2") if isinstance(r, Operation) and r.begin > 110 else r
    )
    assert forged.violated() == {"incomplete"}


def test_clients_that_stop_before_the_end_make_nothing_unavailable() -> None:
    late_end = simple().change(
        lambda r: replace(r, t=r.t + 100.0) if isinstance(r, Phase) and r.name == "end" else r
    )
    assert late_end.violated() == set()


def test_half_a_run_is_incomplete() -> None:
    def without(kind: type[Record], name: str = "") -> Forged:
        return simple().change(
            lambda r: (
                None
                if isinstance(r, kind) and (not name or name in (getattr(r, "n", ""), _phase(r)))
                else r
            )
        )

    assert without(Final, "n3").violated() == {"incomplete"}
    assert without(Left).violated() == {"incomplete"}
    assert without(Phase, "end").violated() == {"incomplete"}
    assert "incomplete" in without(Operation).violated()
    assert check(History(()), {}).ok is False


def _phase(record: Record) -> str:
    return record.name if isinstance(record, Phase) else ""


def test_rows_that_were_not_read_are_incomplete() -> None:
    forged = simple()
    del forged.finals["n3"]
    assert forged.violated() == {"incomplete"}
    short = simple()
    short.finals["n3"] = short.finals["n3"][:-1]
    assert "incomplete" in short.violated()


def test_a_value_given_twice_is_incomplete() -> None:
    forged = simple()
    again = next(op for op in forged.history.of(Operation) if op.writes)
    assert forged.add(replace(again, begin=50.0, end=51.0, t=51.0)).violated() >= {"incomplete"}
