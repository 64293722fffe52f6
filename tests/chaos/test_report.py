"""The report of a run: its numbers, its words, what hostile text may do, and its size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from chaos import report, report_kit
from chaos.report_data import EVENTS_MAX, FAULTS_MAX
from chaos.report_ops import BASE_BUCKETS_MAX, OPS_MAX, SLOW_MAX, bucket_width, percentile
from chaos.report_outages import outages
from chaos.report_read import TEXT_MAX, History, Row
from sim.timeline import asset

HOSTILE = "</script><script>alert(1)</script><!-- \u2028 & \" ' \ud800"
Data = dict[str, Any]
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def history_of(*rows: Row | None) -> History:
    return History.of([{"t": 0.0, "e": "run", "id": "3fa1", "nodes": ["n1", "n2"]}, *rows])


def op(begin: float, end: float, outcome: str = "ok", **more: object) -> Row:
    named: Row = {"client": "c1", "via": "proxy:n1", "kind": "append", "values": ["c1-1"]}
    return {"t": end, "e": "op", **named, "begin": begin, "end": end, "outcome": outcome, **more}


def log(t: float, n: str, name: str) -> Row:
    return {"t": t, "e": "log", "n": n, "name": name, "text": name, "fields": {}}


def steady(begin: float, end: float, every: float = 0.1) -> list[Row]:
    """Writes acknowledged at begin, begin + every, … before end."""
    count = round((end - begin) / every)
    return [op(begin + k * every - 0.004, begin + k * every) for k in range(count)]


def data_of(page: str) -> Data:
    found = DATA.findall(page)
    assert len(found) == 1
    data: Data = json.loads(found[0])
    return data


def shown(rows: Iterable[Row | None], verdict: Row | None = None) -> Data:
    return data_of(report.render(history_of(*rows), verdict))


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    report_kit.write_run(path, rate=5.0, failing=True)
    return path


@pytest.fixture(scope="module")
def page(run_directory: Path) -> str:
    return report.write_report(run_directory).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo(page: str) -> Data:
    return data_of(page)


# ---------------------------------------------------------------- numbers


def test_every_operation_is_counted_once(demo: Data, run_directory: Path) -> None:
    lines = (run_directory / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ops = [row for row in map(json.loads, lines) if row["e"] == "op"]
    for kind, names in (("writes", ("append", "txn")), ("reads", ("read",))):
        for outcome in ("ok", "failed", "unknown"):
            wanted = sum(o["kind"] in names and o["outcome"] == outcome for o in ops)
            assert demo["counts"][kind][outcome] == wanted
    acked = sum(o["outcome"] == "ok" and o["kind"] != "read" for o in ops)
    read = sum(o["outcome"] == "ok" and o["kind"] == "read" for o in ops)
    for level in demo["levels"]:
        assert (sum(level["writes"]), sum(level["reads"])) == (acked, read)
    assert sum(sum(client["counts"].values()) for client in demo["clients"]) == len(ops)


def test_the_outages_of_the_demonstration_are_its_failovers(demo: Data) -> None:
    assert len(demo["outages"]) == len(report_kit.FAILOVERS)
    for gap, failover in zip(demo["outages"], report_kit.FAILOVERS, strict=True):
        assert failover.at - 0.5 < gap["begin"] <= failover.at
        assert failover.end <= gap["end"] < failover.end + 1.0
        assert gap["ms"] == pytest.approx((gap["end"] - gap["begin"]) * 1000, abs=1.5)
        promoted = next(step for step in gap["steps"] if step["name"] == "promoted")
        assert (promoted["node"], promoted["t"]) == (failover.new, round(failover.promoted, 3))
        texts = [demo["faults"][at]["text"] for at in gap["faults"]]
        assert any(failover.old in text for text in texts)
    longest = max(gap["ms"] for gap in demo["outages"])
    assert demo["words"]["facts"][2] == ["longest outage", f"{longest / 1000:.2f} s", ""]


def test_an_outage_is_a_gap_of_more_than_half_a_second() -> None:
    gaps = outages(history_of(*steady(1.0, 2.0), op(1.95, 2.39), op(2.4, 2.9), op(2.91, 3.5)))
    assert [(gap.begin, gap.end, gap.open) for gap in gaps] == [
        (2.39, 2.9, False),
        (2.9, 3.5, False),
    ]


def test_a_gap_in_which_nobody_wrote_is_no_outage() -> None:
    paused = history_of(*steady(1.0, 2.0), *steady(8.0, 9.0))
    assert outages(paused) == []
    waited = history_of(*steady(1.0, 2.0), op(2.1, 8.2, "unknown"), *steady(8.0, 9.0))
    assert [round(gap.length, 1) for gap in outages(waited)] == [6.1]


def test_reads_and_writes_past_the_proxies_end_no_outage() -> None:
    others = [op(2.5, 2.6, via="direct:n2"), op(2.7, 2.8, kind="read")]
    (gap,) = outages(
        history_of(*steady(1.0, 2.0), op(2.1, 2.3, "failed"), *others, *steady(3.5, 4.0))
    )
    assert (round(gap.begin, 3), round(gap.end, 3), gap.failed) == (1.9, 3.5, 1)


def test_an_outage_without_end_lasts_as_long_as_somebody_tried() -> None:
    (gap,) = outages(history_of(*steady(1.0, 2.0), op(2.1, 4.0, "failed"), op(4.1, 6.0, "unknown")))
    assert (gap.open, round(gap.begin, 3), gap.end) == (True, 1.9, 6.0)
    assert (gap.failed, gap.unknown) == (1, 1)


def test_a_run_without_any_acknowledged_write_is_one_outage() -> None:
    (gap,) = outages(history_of(op(1.0, 2.0, "failed"), op(2.0, 4.0, "failed")))
    assert (gap.begin, gap.end, gap.open) == (1.0, 4.0, True)


def test_steps_lead_to_the_server_that_ended_the_outage() -> None:
    logs = [
        log(2.5, "n2", "member_suspect"),
        log(2.6, "n3", "candidacy_started"),  # won by n3, and it led to nothing
        log(2.7, "n3", "election_won"),
        log(3.0, "n1", "hold_expired"),
        log(3.01, "n2", "candidacy_started"),
        log(3.1, "n2", "election_won"),
        log(3.3, "n2", "promoted"),
        log(3.32, "n2", "primary_active"),
    ]
    (gap,) = outages(
        history_of(*steady(1.0, 2.1), *logs, op(2.1, 3.4, "failed"), *steady(3.4, 4.0))
    )
    assert [(step.name, step.node, step.ms) for step in gap.steps] == [
        ("member_suspect", "n2", 500),
        ("hold_expired", "n1", 500),
        ("candidacy_started", "n2", 10),
        ("election_won", "n2", 90),
        ("promoted", "n2", 200),
        ("primary_active", "n2", 20),
        ("first_write", "", 80),
    ]


def test_an_outage_without_an_election_has_no_steps() -> None:
    (gap,) = outages(
        history_of(
            *steady(1.0, 2.0), op(2.0, 3.0, "failed"), op(2.1, 3.0), log(2.2, "n1", "status")
        )
    )
    assert gap.steps == ()


def test_faults_of_an_outage_are_those_that_were_on() -> None:
    faults: list[Row] = [
        {"t": 0.5, "e": "fault", "id": 0, "text": "over long before", "for_s": 0.5},
        {"t": 0.6, "e": "fault", "id": 1, "text": "on all the time", "for_s": 9.0},
        {"t": 1.8, "e": "fault", "id": 2, "text": "took no time", "for_s": None},
        {"t": 5.0, "e": "fault", "id": 3, "text": "came later", "for_s": 1.0},
        {"t": 1.0, "e": "fault", "id": 4, "text": "ended early", "for_s": 9.0},
        {"t": 1.5, "e": "fault_end", "id": 4},
    ]
    data = shown([*faults, *steady(1.0, 2.0), op(2.0, 3.0, "failed"), op(2.1, 3.2)])
    (gap,) = data["outages"]
    assert [data["faults"][at]["text"] for at in gap["faults"]] == [
        "on all the time",
        "took no time",
    ]


def test_latency_is_that_of_acknowledged_writes() -> None:
    rows = [op(1.0 + k / 1000, 1.0 + k / 1000 + (k + 1) / 10000) for k in range(90)]
    data = shown([*rows, op(1.0, 1.09, "failed"), op(1.0, 1.09, kind="read"), op(2.0, 2.05)])
    level = data["levels"][0]
    assert level["width"] == 0.1
    at = round((1.0 - level["begin"]) / level["width"])
    assert (level["writes"][at], level["p50"][at], level["p99"][at]) == (90, 4.5, 9.0)
    assert level["p50"][at + 3] is None
    assert level["p50"][at + 10] == 50.0


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([1.0, 2.0], 0.5) == 1.0
    assert percentile([1.0, 2.0, 3.0], 0.99) == 3.0
    assert percentile([7.0], 0.5) == 7.0


@pytest.mark.parametrize(
    ("length", "width"), [(0.1, 0.1), (300, 0.1), (301, 0.2), (3600, 2.0), (86400, 50.0)]
)
def test_buckets_are_as_fine_as_their_number_allows(length: float, width: float) -> None:
    assert bucket_width(length) == width
    assert length / width <= BASE_BUCKETS_MAX


def test_two_servers_out_of_recovery_are_seen() -> None:
    def probe(t: float, n: str, *, recovery: bool | None) -> Row:
        return {
            "t": t + 0.01, "e": "probe", "n": n, "asked": t, "answered": t + 0.01,
            "in_recovery": recovery,
        }  # fmt: skip

    rows = [probe(k / 5, "n1", recovery=False if k < 10 else None) for k in range(20)]
    rows += [probe(k / 5 + 0.05, "n2", recovery=k < 8) for k in range(20)]
    data = shown(rows)
    assert data["nodes"][0]["writable"] == [[0.0, 1.81]]
    assert data["nodes"][1]["writable"] == [[1.65, 3.86]]
    assert data["double"] == [[1.65, 1.81, ["n1", "n2"]]]
    apart = [row for row in rows if row["n"] == "n1"]
    assert shown(apart)["double"] == []


def test_the_state_of_nodes_is_in_the_page(demo: Data) -> None:
    assert [node["name"] for node in demo["nodes"]] == list(report_kit.NODES)
    first = demo["nodes"][0]["spans"][0]
    assert first == [0.2, "primary", "running", 1, 1, "n1"]
    names = {event[1] for node in demo["nodes"] for event in node["events"]}
    assert {"election_won", "promoted", "fenced", "rejoin"} <= names
    assert demo["double"]
    assert demo["phases"] == [[5.0, "faults"], [270.0, "peace"], [299.0, "end"]]


# ---------------------------------------------------------------- words


def test_the_verdict_is_the_checkers(demo: Data) -> None:
    assert (demo["words"]["title"], demo["words"]["class"]) == ("Failed: 1 violation", "bad")
    (violation,) = demo["verdict"]["violations"]
    assert violation["at"] == 96.823
    assert [each["client"] for each in violation["evidence"]] == ["c1", "c2"]
    passed = shown(steady(1.0, 2.0), report_kit.verdict())
    assert (passed["words"]["title"], passed["words"]["class"]) == ("Passed", "ok")
    assert "Of 10 acknowledged writes 0 are lost." in passed["words"]["sentences"]


def test_what_nobody_checked_is_not_called_good() -> None:
    data = shown(steady(1.0, 2.0))
    assert (data["words"]["title"], data["words"]["class"]) == ("Not checked", "open")
    assert data["verdict"] is None
    assert data["words"]["facts"][1] == ["lost", "not checked", ""]
    assert not any("0 are lost" in sentence for sentence in data["words"]["sentences"])


def test_a_checker_without_numbers_has_a_violation_for_each_loss() -> None:
    verdict: Row = {"ok": False, "violations": [{"check": "lost_write", "text": "c1-1"}]}
    assert shown([], verdict)["words"]["facts"][1] == ["lost", "1", "bad"]
    other: Row = {"ok": False, "violations": [{"check": "two primaries", "text": "n1, n2"}]}
    assert shown([], other)["words"]["facts"][1] == ["lost", "not said", ""]


def test_what_was_left_behind_is_said() -> None:
    data = shown([{"t": 3.0, "e": "left", "processes": ["postgres 812"], "namespaces": []}])
    assert data["after"]["left"] == ["process postgres 812"]
    assert any("1 thing LEFT BEHIND" in sentence for sentence in data["words"]["sentences"])


# ---------------------------------------------------------------- the page


def test_the_page_refers_to_nothing_outside_of_itself(page: str) -> None:
    assert not re.search(r"https?://|\bsrc=|@import|url\(", page)
    assert "default-src 'none'" in page
    assert page.count("</script") == 2


def test_every_script_is_in_the_page() -> None:
    assets = Path(report.__file__).parent / "report_assets"
    assert sorted(report.SCRIPTS) == sorted(path.name for path in assets.glob("*.js"))


def test_hostile_text_stays_text() -> None:
    page = report.render(
        History.of(
            [
                {"e": "run", "t": 0, "id": HOSTILE, "scenario": HOSTILE, "nodes": [HOSTILE]},
                op(1.0, 2.0, "failed", client=HOSTILE, error=HOSTILE, values=[HOSTILE]),
                {"t": 1.0, "e": "fault", "id": 1, "text": HOSTILE, "nodes": [HOSTILE]},
                log(1.0, HOSTILE, HOSTILE),
                {"t": 1.0, "e": HOSTILE},
            ]
        ),
        {"ok": False, "violations": [{"check": HOSTILE, "text": HOSTILE}], "stats": {HOSTILE: 1}},
    )
    assert "<script>alert" not in page
    assert page.count("</script") == 2
    data = data_of(page)
    assert data["run"]["scenario"] == HOSTILE
    assert data["unknown_kinds"] == {HOSTILE: 1}
    assert page.encode("utf-8")


def test_scripts_make_no_elements_of_text() -> None:
    assets = Path(report.__file__).parent / "report_assets"
    script = "".join(path.read_text(encoding="utf-8") for path in assets.glob("*.js"))
    script += "".join(map(asset, report.SHARED))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", script)


def test_values_of_another_type_do_not_break_the_page() -> None:
    odd: list[Row | None] = [
        None,
        {"t": "soon", "e": "op"},
        {"t": float("nan"), "e": "log"},
        {"t": 1e300, "e": "log", "n": "n1"},
        {"t": 1.0, "e": ["op"]},
        {"t": 1.0, "e": "op", "client": 7, "begin": None, "values": "x", "outcome": None},
        {"t": 1.0, "e": "node", "n": None, "term": "three"},
        {"t": 1.0, "e": "final", "n": "n1", "rows": float("inf")},
    ]
    data = shown(odd, {"ok": True, "violations": 3, "stats": [], "at": None})
    assert data["unread"] == 5
    assert data["counts"]["writes"]["unknown"] == 1


def test_an_empty_run_is_a_page_too() -> None:
    data = shown([])
    assert (data["outages"], data["ops"], data["faults"]) == ([], [], [])
    assert "No client made an operation." in data["words"]["sentences"]
    assert not any("never stopped" in sentence for sentence in data["words"]["sentences"])


@pytest.mark.slow
def test_the_page_stays_small_and_says_what_is_missing() -> None:
    rows: list[Row] = []
    for k in range(OPS_MAX + 1000):
        rows.append(op(k / 10, k / 10 + 0.05, "failed", error="x" * 5000))
        rows.append(op(k / 10, k / 10 + 0.4))
    rows += [op(k, k + 0.1, "unknown") for k in range(10)]
    rows += [log(k / 20, "n1", "status") for k in range(EVENTS_MAX)] + [log(9, "n1", "fenced")]
    rows += [{"t": 1.0, "e": "fault", "id": k, "text": "f"} for k in range(FAULTS_MAX + 7)]
    page = report.render(history_of(*rows), None)
    data = data_of(page)
    assert len(page) < 3_000_000
    assert data["left_out"] == {
        "faults": 7,
        "events of nodes": 1,
        "operations": 1010,
        "slow operations": OPS_MAX + 1000 - SLOW_MAX,
    }
    outcomes = [each[3] for each in data["ops"]]
    assert (outcomes.count(2), outcomes.count(1)) == (10, OPS_MAX - 10)
    assert max(len(each[5]) for each in data["ops"]) == TEXT_MAX
    events = [event[1] for event in data["nodes"][0]["events"]]
    assert (events.count("fenced"), len(events)) == (1, EVENTS_MAX)
    assert len(data["levels"][0]["writes"]) <= BASE_BUCKETS_MAX + 1
