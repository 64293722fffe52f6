"""Each check finds a forged history that breaks it, and passes a neighbour that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import checker
from chaos.checker import check
from chaos.facts import EVIDENCE_MAX, FINDINGS_MAX
from chaos.forge import NODES, Forged, Story, finals_only, finish
from chaos.history import (
    HISTORY_FILE,
    Fault,
    FaultEnd,
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
    Writer,
)

UNKNOWN, FAILED = Outcome.UNKNOWN, Outcome.FAILED


def simple() -> Forged:
    """Ten acknowledged writes, a failover, ten more, and reads."""
    story = Story()
    for step in range(10):
        story.write(1.0 + step, keys=(1,))
    story.read(11.0)
    story.promote("n2")
    for step in range(10):
        story.write(21.0 + step, keys=(1, 2) if step % 2 else (1,))
    story.read(32.0)
    return finish(story)


def test_a_right_history_breaks_nothing() -> None:
    report = simple().judge()
    assert report.violations == ()
    assert report.notes == ()


# Rows at the end


def test_an_acknowledged_value_that_is_nowhere_is_lost() -> None:
    forged = simple().change(lambda r: None if isinstance(r, Operation) and r.seen else r)
    found = forged.without_rows("c1-5").judge().violations
    assert [finding.check for finding in found] == ["lost"]
    assert "c1-5 on n2 (primary)" in found[0].text
    assert "5.000–5.010; c1 via proxy:n1 append; c1-5 (key 1); ok" in found[0].evidence[0]


def test_an_acknowledged_value_missing_on_a_standby_is_lost() -> None:
    forged = simple().without_rows("c1-5", nodes=["n3"])
    # The read that saw it makes it vanish too; rows differ without a word about the hashes.
    assert forged.violated() == {"lost", "contents_differ"}


@pytest.mark.parametrize("executed", [True, False])
def test_a_value_in_doubt_may_be_there_or_not(executed: bool) -> None:
    story = Story()
    story.write(1.0, outcome=UNKNOWN, executed=executed)
    story.write(2.0, keys=(1, 2), outcome=UNKNOWN, executed=executed)
    assert finish(story).violated() == set()


def test_a_value_that_is_there_twice_is_duplicated() -> None:
    assert simple().with_rows((1, "c1-5")).violated() == {"duplicated"}


def test_a_read_that_sees_a_value_twice_shows_a_duplicate() -> None:
    forged = simple().change(
        lambda r: (
            replace(r, seen=(*r.seen, r.seen[0])) if isinstance(r, Operation) and r.seen else r
        )
    )
    assert forged.violated() == {"duplicated"}


def test_a_failed_value_that_is_there_is_surplus() -> None:
    story = Story()
    story.write(1.0, outcome=FAILED)
    assert finish(story).violated() == set()
    assert finish(story).with_rows((1, "c1-1")).violated() == {"surplus"}


def test_a_failed_value_that_was_seen_is_surplus() -> None:
    story = Story()
    story.write(1.0, outcome=FAILED)
    read = story.read(2.0)
    forged = finish(story)
    assert forged.violated() == set()
    dirty = forged.change(lambda r: replace(read, seen=("c1-1",)) if r == read else r)
    assert dirty.violated() == {"surplus"}


def test_half_a_transaction_is_torn_even_in_doubt() -> None:
    story = Story()
    story.write(1.0, keys=(1, 2, 3), outcome=UNKNOWN, executed=True)
    forged = finish(story)
    assert forged.violated() == set()
    assert forged.without_rows("c1-2").violated() == {"torn_txn"}
    assert forged.without_rows("c1-1", "c1-2", "c1-3").violated() == set()


def test_a_value_of_nobody_is_foreign() -> None:
    assert simple().with_rows((1, "c9-1")).violated() == {"foreign"}
    assert simple().with_rows((1, "what")).violated() == {"foreign"}


def test_a_value_under_another_key_is_foreign() -> None:
    forged = simple()
    moved = forged.change(lambda r: None if isinstance(r, Operation) and r.seen else r)
    assert moved.without_rows("c1-5").with_rows((4, "c1-5")).violated() == {"foreign"}


def test_the_last_operation_of_a_killed_client_is_a_note() -> None:
    forged = simple()
    last = max(int(row[1].partition("-")[2]) for row in forged.finals["n1"])
    assert forged.with_rows((1, f"c1-{last + 1}")).violated() == set()
    assert forged.with_rows((1, f"c1-{last + 1}")).noted() == {"unrecorded"}
    assert forged.with_rows((1, f"c1-{last + 5}")).violated() == {"foreign"}


# Servers


def test_reigns_of_two_servers_that_overlap_are_two_that_acknowledge() -> None:
    story = Story()
    story.write(1.0)
    story.server, story.timeline = "n2", 2
    story.write(2.0)
    story.write(4.0)
    story.server, story.timeline = "n1", 1
    story.write(3.0)
    story.promote("n2")
    (found,) = finish(story).judge().violations
    assert found.check == "two_acknowledge"
    assert "both reigned from 2.010 to 3.000" in found.text


def test_reigns_that_may_only_just_touch_are_right() -> None:
    story = Story()
    story.write(1.0)
    story.write(1.5, took=1.0)  # may have been acknowledged before n2 began
    story.promote("n2")
    story.write(2.0)
    story.write(4.0)
    assert finish(story).violated() == set()


def test_one_timeline_of_two_servers_is_two_that_acknowledge() -> None:
    story = Story()
    story.write(1.0)
    story.server = "n2"
    story.write(10.0)
    (found,) = finish(story).judge().violations
    assert found.check == "two_acknowledge"
    assert "same timeline" in found.text


def test_an_old_timeline_after_a_new_one_is_out_of_order() -> None:
    story = Story(timeline=2)
    story.write(1.0)
    story.server, story.timeline = "n2", 1
    story.write(2.0)
    story.server, story.timeline = "n1", 3
    found = finish(story).judge().violations
    assert [finding.check for finding in found] == ["two_acknowledge"]
    assert "began after one by n1 on timeline 2 had ended" in found[0].text


def test_a_server_may_reign_again_on_a_newer_timeline() -> None:
    story = Story()
    for step, node in enumerate(("n2", "n1", "n3")):
        story.write(1.0 + step)
        story.promote(node)
    assert finish(story).violated() == set()


def test_a_server_asked_by_loopback_is_the_node_of_the_proxy() -> None:
    story = Story()
    here = story.write(1.0, via="proxy:n1")
    other = story.write(2.0, via="proxy:n2")
    forged = finish(story)
    same = forged.change(lambda r: replace(here, server="127.0.0.1") if r == here else r)
    assert same.violated() == set()
    two = forged.change(lambda r: replace(other, server="127.0.0.1") if r == other else r)
    assert two.violated() == {"two_acknowledge"}


def two_probed(*, middle: bool | None = False) -> Story:
    story = Story()
    for at in (1.0, 2.0, 3.0):
        story.probe("n1", at)
        story.probe("n2", at + 0.5, in_recovery=middle)
    return story


def test_two_that_are_writable_are_a_note() -> None:
    assert finish(two_probed()).noted() == {"two_writable"}
    assert finish(two_probed()).violated() == set()


@pytest.mark.parametrize("middle", [True, None])
def test_a_standby_beside_a_primary_is_no_note(middle: bool | None) -> None:
    assert finish(two_probed(middle=middle)).noted() == set()


def test_two_processes_of_a_server_prove_nothing_of_the_time_between() -> None:
    def probed(process: str) -> Story:
        story = Story()
        story.probe("n1", 1.0, process="p")
        story.probe("n2", 2.0)
        story.probe("n1", 3.0, process=process)
        return story

    assert finish(probed("p")).noted() == {"two_writable"}
    assert finish(probed("q")).noted() == set()


def test_two_that_are_writable_and_acknowledge_are_a_violation() -> None:
    story = two_probed()
    story.write(1.6)
    story.promote("n2")
    story.write(2.2)
    assert finish(story).violated() == {"two_writable"}
    alone = two_probed()
    alone.write(1.6)
    alone.write(2.2)
    assert finish(alone).violated() == set()


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


# The end


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


def test_writes_past_the_proxies_do_not_make_them_available() -> None:
    def directly(record: Record) -> Record:
        if isinstance(record, Operation) and record.begin > 110.0 and record.outcome is Outcome.OK:
            return replace(record, via="direct:n2")
        return record

    tried = simple().change(directly)
    attempt = Operation(129.0, "c3", "proxy:n1", Kind.APPEND, (1,), ("c3-1",), 128.0, 129.0, FAILED)
    assert tried.add(attempt).violated() == {"unavailable"}


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


# Reports


def test_a_long_list_of_findings_is_cut() -> None:
    story = Story()
    story.write(1.0, keys=tuple(range(20)))
    for step in range(FINDINGS_MAX + 5):
        story.write(2.0 + step)
    values = [value for _, value, _ in story.rows]
    found = finish(story).without_rows(*values).judge().violations
    assert {finding.check for finding in found} == {"lost"}
    assert len(found) == FINDINGS_MAX + 1
    assert found[-1].text == "… and 6 more"
    assert all(len(finding.evidence) <= EVIDENCE_MAX + 1 for finding in found)


def test_statistics_name_outages_with_their_faults() -> None:
    faults = (
        Fault(12.0, 0, "isolate", "isolate n1", ("n1",), 3.0),
        FaultEnd(16.0, 0),
        Fault(17.0, 1, "kill", "kill n3", ("n3",), None),
        Fault(40.0, 2, "kill", "kill n2", ("n2",), None),
    )
    found = simple().add(*faults).judge(outage_s=2.0).statistics
    outage = found.outages[0]
    assert (outage.begin, outage.end) == (10.01, 21.01)
    assert outage.faults == ("isolate n1", "kill n3")
    assert found.outcomes == {
        "c1": {"ok": 50, "failed": 0, "unknown": 0},
        "c2": {"ok": 2, "failed": 0, "unknown": 0},
    }
    assert found.latencies["append"].p99_s == pytest.approx(0.01)


def save(forged: Forged, directory: Path) -> Path:
    for node in NODES:
        lines = [f"{key} {value}\n" for key, value in forged.finals[node]]
        (directory / f"final-{node}.txt").write_text("".join(lines))
    writer = Writer(directory / HISTORY_FILE)
    named = forged.change(finals_only(lambda f: replace(f, values_file=f"final-{f.n}.txt")))
    for record in named.history.records:
        writer.write(record)
    writer.close()
    return directory


def test_the_command_ends_with_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.mkdir()
    wrong.mkdir()
    assert checker.main([str(save(simple(), right))]) == 0
    assert capsys.readouterr().out.endswith("nothing is violated\n")
    save(simple().with_rows((1, "c1-5")), wrong)
    assert checker.main([str(wrong)]) == 1
    assert "VIOLATED duplicated: c1-5 is on n1 2 times" in capsys.readouterr().out
    assert checker.main([str(wrong), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert {finding["check"] for finding in found["violations"]} == {"duplicated"}


def test_what_cannot_be_read_is_neither_right_nor_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checker.main([str(tmp_path)]) == 3
    save(simple(), tmp_path)
    (tmp_path / "final-n2.txt").unlink()
    assert checker.main([str(tmp_path)]) == 3
    assert "final-n2.txt" in capsys.readouterr().err
