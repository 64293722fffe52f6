"""The figures of the failover benchmark and what is said of them."""

import json
import random
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from bench_kit import course, group_of, round_of, series_of

from benchmarks.machine import Machine, file_system
from benchmarks.plot import LEFT, RIGHT, log_axis, svg
from benchmarks.report import Result, as_json, markdown, text
from benchmarks.results import ClientKind, Group, groups, interruption
from benchmarks.rounds import plan
from benchmarks.stats import percentile, summarize
from benchmarks.tables import Table
from benchmarks.targets import judge
from metako.demo.writer import Record

MACHINE = Machine(
    "A <fast> CPU", 2, 3.8, "6.1", "ext4", "3.12.1", "0.1", "0123456789", "2026-01-02 03:04", 0.1
)


def result_of(*series, finished: bool = True) -> Result:
    return Result(MACHINE, "scripts/bench failover --rounds 2", series, 1.5, finished)


# Percentiles


def test_percentile_is_a_value_that_was_measured():
    values = [float(n) for n in range(1, 11)]
    random.Random(1).shuffle(values)
    assert percentile(values, 0.9) == 9.0
    assert percentile(values, 0.91) == 10.0
    assert percentile(values, 0.99) == 10.0
    assert percentile(values, 1.0) == 10.0
    assert percentile([3.0], 0.01) == 3.0


def test_p99_is_the_maximum_until_there_are_a_hundred_values():
    few = summarize([float(n) for n in range(99)])
    many = summarize([float(n) for n in range(100)])
    assert few is not None
    assert many is not None
    assert (few.p99, few.p99_is_max) == (98.0, True)
    assert (many.p99, many.p99_is_max) == (98.0, False)
    assert many.p50 == 49.5


def test_of_no_values_there_is_no_summary():
    assert summarize([]) is None


# Outages


def record(acknowledged: list[tuple[float, float]]) -> Record:
    """Return a record of rows as (sent, acknowledged)."""
    return Record(
        acknowledged={row: done for row, (_, done) in enumerate(acknowledged)},
        begun={row: sent for row, (sent, _) in enumerate(acknowledged)},
    )


def around(rows: list[tuple[float, float]], **options) -> tuple[float | None, float | None]:
    return interruption(record(rows), fault_s=10.0, injected_s=10.25, **options)


def test_outage_ends_with_a_write_that_was_sent_after_the_fault():
    # The row that was under way is acknowledged first; it ends the gap but not the outage.
    rows = [(9.0, 9.5), (9.75, 12.0), (11.0, 12.5), (12.5, 12.75)]
    assert around(rows) == (2.5, 2.5)


def test_writes_that_the_dying_server_still_acknowledges_do_not_end_the_outage():
    rows = [(9.0, 9.5), (10.3, 10.5), (11.0, 13.0), (13.0, 13.5)]
    assert around(rows) == (3.0, 2.5)


def test_fault_that_need_not_stop_writes_has_a_gap_and_no_outage():
    assert around([(9.0, 9.5), (10.3, 10.5)], stops_writes=False) == (None, 1.0)


def test_without_acknowledgements_after_the_fault_nothing_is_known():
    assert around([(9.0, 9.5)]) == (None, None)


def test_faults_come_in_blocks_that_hold_each_once_and_equal_seeds_give_equal_orders():
    order = plan(("a", "b", "c"), 20, random.Random("1/fast"))
    assert len(order) == 60
    assert all(sorted(order[i : i + 3]) == ["a", "b", "c"] for i in range(0, 60, 3))
    assert order == plan(("a", "b", "c"), 20, random.Random("1/fast"))
    assert len({tuple(order[i : i + 3]) for i in range(0, 60, 3)}) > 1


# Targets


def verdict(group: Group, figure: str):
    (found,) = (v for v in judge([group]) if v.figure == figure and v.client is ClientKind.KEPT)
    return found


def test_target_is_met_up_to_its_limit():
    group = group_of([round_of(0.3), round_of(0.3), round_of(0.8)])
    assert [verdict(group, figure).met for figure in ("p50", "p99")] == [True, True]
    assert verdict(group, "p99").is_max
    assert verdict(group, "p50").blamed == ()


def test_missed_p50_names_the_phases_that_take_the_most():
    group = group_of([round_of(0.5, vote=0.2, activate=0.15)] * 3)
    assert not verdict(group, "p50").met
    assert [name for name, _ in verdict(group, "p50").blamed] == ["vote", "activate"]
    assert verdict(group, "p99").met


def test_missed_p99_is_blamed_on_the_rounds_that_missed_it():
    group = group_of([*[round_of(0.2, vote=0.1)] * 20, round_of(1.5, pre_vote=1.2)])
    assert verdict(group, "p50").met
    name, value = verdict(group, "p99").blamed[0]
    assert name == "pre-vote"
    assert value == pytest.approx(1.2)


def test_each_profile_has_its_own_limits_and_a_fault_without_a_target_has_no_verdict():
    default = group_of([round_of(2.0, fault="kill-host")])
    fast = group_of([round_of(2.0, fault="kill-host", timing="fast")])
    assert verdict(default, "p50").met
    assert not verdict(fast, "p50").met
    assert judge([group_of([round_of(9.0, fault="kill-host", timing="wan")])]) == []
    assert judge([group_of([round_of(9.0, fault="stop-agent")])]) == []


# Reports


def test_run_is_good_only_if_every_series_ended_and_every_row_is_right():
    good = series_of([round_of(0.2)])
    assert result_of(good).good
    assert not result_of(good, series_of([round_of(0.2)], lost=1)).good
    assert not result_of(good, series_of([round_of(0.2)], error="no primary")).good
    assert not result_of(good, finished=False).good
    assert not result_of().good


def test_series_that_broke_before_its_rows_were_counted_is_not_called_right():
    broken = series_of([round_of(0.2)], error="no primary within 40 s\n--- log")
    broken.rows.clear()
    shown = text(result_of(broken))
    assert "not known. Not counted: default" in shown
    assert "BROKE OFF: no primary" in shown
    assert "--- log" not in markdown(result_of(broken), picture=None)


def test_text_counts_the_rows_of_both_kinds_of_clients():
    assert "Of 1000 acknowledged rows 0 are lost" in text(result_of(series_of([round_of(0.2)])))
    shown = text(result_of(series_of([round_of(0.2)], lost=2)))
    assert "4 are lost and 0 duplicated; 0 rows are there that certainly failed" in shown
    assert "(target: 0, 0, 0): MISSED." in shown


def test_contested_elections_are_counted():
    contested = replace(round_of(0.4), course=replace(course(0.4), candidacies=3))
    (line,) = (
        ln
        for ln in text(result_of(series_of([contested, round_of(0.4)]))).splitlines()
        if ln.startswith("rounds with more than one candidacy")
    )
    assert line.endswith(" 1 of 2")


def test_text_says_that_a_p99_of_few_rounds_is_the_maximum():
    assert "a p99 is the maximum; here it is of 2" in text(
        result_of(series_of([round_of(0.2)] * 2))
    )
    assert "the maximum" not in text(result_of(series_of([round_of(0.2)] * 100)))


def test_markdown_has_the_command_the_machine_and_the_picture():
    shown = markdown(result_of(series_of([round_of(0.4)])), picture="failover.svg")
    for part in ("scripts/bench failover --rounds 2", "A <fast> CPU", "0123456789", "16.4"):
        assert part in shown
    assert "(failover.svg)" in shown
    widths = {line.count("|") for line in shown.splitlines() if line.startswith("| phase")}
    assert widths == {3}


def test_json_has_every_round_with_phases_that_add_up():
    raw = json.loads(json.dumps(as_json(result_of(series_of([round_of(0.4), round_of(0.6)])))))
    assert raw["good"] is True
    rounds = raw["series"][0]["rounds"]
    assert [r["connections"]["kept"]["outage_ms"] for r in rounds] == [400.0, 600.0]
    for one in rounds:
        seen = one["connections"]["new"]
        assert sum(seen["phases_ms"].values()) == pytest.approx(seen["outage_ms"], abs=1)
    assert raw["outages"][0]["count"] == 2
    assert {t["figure"] for t in raw["targets"]} == {"p50", "p99"}


def test_bars_in_a_cell_do_not_break_a_markdown_table():
    assert Table(("a", "b"), [("x|y", "1")]).markdown().splitlines()[2] == "| x\\|y | 1 |"


def test_data_lie_on_the_file_system_of_the_deepest_mount(tmp_path):
    mounts = f"a / ext4 rw 0 0\nb {tmp_path.parent} xfs rw 0 0\nc {tmp_path}x tmpfs rw 0 0\n"
    assert file_system(tmp_path, mounts) == "xfs"


# The picture


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def texts(root: ElementTree.Element) -> list[str]:
    return [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text")]


def dots(root: ElementTree.Element) -> list[ElementTree.Element]:
    circles = root.iter("{http://www.w3.org/2000/svg}circle")
    return [c for c in circles if c.get("r") == "3"]


def test_picture_is_well_formed_and_has_a_dot_for_each_round_and_kind_of_client():
    rounds = [round_of(0.2 + i / 10) for i in range(7)]
    root = parsed(svg(groups([series_of(rounds)]), title="t"))
    assert len(dots(root)) == 14
    assert all(LEFT <= float(c.get("cx", "")) <= RIGHT for c in dots(root))


def test_names_in_a_picture_are_escaped():
    series = series_of([round_of(0.2, fault="<b>&\"'")])
    root = parsed(svg(groups([series]), title="a < b & \"c\" 'd'"))
    assert root.get("aria-label") == "a < b & \"c\" 'd'"
    assert "<b>&\"'" in texts(root)


def test_picture_needs_nothing_from_outside():
    picture = svg(groups([series_of([round_of(0.2)])]), title="t")
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in picture
    assert "prefers-color-scheme: dark" in picture


def test_picture_of_nothing_is_still_a_picture():
    assert dots(parsed(svg([], title="t"))) == []


def test_logarithmic_axis_keeps_equal_ratios_equally_long_and_everything_inside():
    axis = log_axis([0.1, 0.2, 0.4])
    assert axis.x(0.2) - axis.x(0.1) == pytest.approx(axis.x(0.4) - axis.x(0.2))
    assert axis.x(0.0) == LEFT
    assert axis.x(99.0) == RIGHT
    assert log_axis([]).ticks() == [1.0]


def test_forged_course_ends_where_the_outage_does():
    assert max(course(0.8).ends.values()) == pytest.approx(0.7)
