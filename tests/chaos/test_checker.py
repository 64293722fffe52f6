"""Each check finds a forged history that breaks it, and passes a neighbour that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import checker
from chaos.facts import EVIDENCE_MAX, FINDINGS_MAX
from chaos.forge import NODES, Forged, Story, finals_only, finish, simple
from chaos.history import (
    HISTORY_FILE,
    Fault,
    FaultEnd,
    Operation,
    Outcome,
    Writer,
)

UNKNOWN, FAILED = Outcome.UNKNOWN, Outcome.FAILED


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


def test_the_earliest_end_counts_and_not_the_end_of_the_earliest() -> None:
    story = Story(server="n2", timeline=2)
    story.write(1.0, took=4.0)
    story.write(2.0)
    story.server, story.timeline = "n1", 1
    story.write(4.0, took=9.0)
    story.promote("n2")
    assert finish(story).violated() == {"two_acknowledge"}


def test_the_latest_begin_counts_and_not_the_begin_of_the_latest() -> None:
    story = Story()
    story.write(1.0, took=8.0)
    story.write(6.0)
    story.promote("n2")
    story.write(4.0)
    assert finish(story).violated() == {"two_acknowledge"}


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


def test_answers_of_an_unnamed_process_far_apart_prove_nothing() -> None:
    def probed(until: float) -> Story:
        story = Story()
        story.probe("n1", 1.0)
        story.probe("n2", 1.5)
        story.probe("n1", until)
        return story

    assert finish(probed(2.0)).noted() == {"two_writable"}
    assert finish(probed(3.0)).noted() == set()


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
