"""The figures of the proxy benchmark and what is said of them."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest

from benchmarks.machine import Machine
from benchmarks.proxy.pgbench import (
    latencies,
)
from benchmarks.proxy.plot import axis, svg
from benchmarks.proxy.procfs import Memory
from benchmarks.proxy.report import as_json, markdown
from benchmarks.proxy.results import (
    Cell,
    Encryption,
    Idle,
    Place,
    Result,
    medians,
    of_direct,
    of_pgbouncer,
    turns,
)
from benchmarks.proxy.targets import judge

MACHINE = Machine(
    "A <fast> CPU", 2, 3.8, "6.1", "ext4", "3.12.1", "0.1", "0123456789", "2026-01-02 03:04", 0.1
)


def cell(
    contestant: str,
    *,
    workload: str = "simple",
    clients: int = 8,
    number: int = 1,
    tps: float | None = 1000.0,
    cpu_s: float | None = None,
    values: tuple[float, ...] = (1.0,),
    failed: int = 0,
) -> Cell:
    return Cell(
        number,
        Place(workload, clients, contestant),
        tps=tps,
        transactions=0 if tps is None else 1000,
        latencies=latencies(values),
        cpu_s=cpu_s,
        failed=failed,
    )


def result_of(*cells: Cell, idle: tuple[Idle, ...] = ()) -> Result:
    return Result(MACHINE, "scripts/bench proxy", cells=list(cells), idle=list(idle))


# Order, medians, ratios


def test_contestants_take_turns_in_an_order_of_the_seed():
    names = ["direct", "metako", "pgbouncer", "haproxy"]
    groups = [("simple", 8), ("rows", 8)]
    order = turns(groups, names, 3, seed=1)
    assert Counter(order) == {
        (n, Place(w, c, name)): 1 for n in (1, 2, 3) for w, c in groups for name in names
    }
    blocks = [order[i : i + 4] for i in range(0, len(order), 4)]
    assert all(len({(n, p.workload) for n, p in block}) == 1 for block in blocks)
    assert len({tuple(p.contestant for _, p in block) for block in blocks}) > 1
    assert turns(groups, names, 3, seed=1) == order
    assert turns(groups, names, 3, seed=2) != order


def test_ratios_are_those_of_medians_over_rounds():
    figures = medians(
        [
            *(cell("pgbouncer", number=n, cpu_s=s, tps=800) for n, s in enumerate((2.0, 1.0, 9.0))),
            *(cell("direct", number=n, tps=t) for n, t in enumerate((1000, 100, 1200))),
            *(
                cell("metako", number=n, tps=t, cpu_s=s)
                for n, (t, s) in enumerate(((500, 3.0), (400, 5.0), (600, 4.0)))
            ),
        ]
    )
    assert [place.contestant for place in figures] == ["direct", "metako", "pgbouncer"]
    place = Place("simple", 8, "metako")
    assert figures[place].tps == 500
    assert of_direct(place, figures) == pytest.approx(0.5)
    assert of_pgbouncer(place, figures) == pytest.approx(2.0)
    assert of_direct(place.of("direct"), figures) is None
    assert of_pgbouncer(place.of("direct"), figures) is None


def test_with_tls_is_compared_only_with_tls():
    figures = medians(
        [
            cell("direct", tps=1000),
            cell("direct-tls", tps=800),
            cell("metako", tps=500, cpu_s=3.0),
            cell("metako-tls", tps=200, cpu_s=5.0),
            cell("pgbouncer", cpu_s=1.0),
            cell("pgbouncer-tls", cpu_s=4.0),
            cell("metako-tls", clients=32, cpu_s=5.0),
            cell("pgbouncer", clients=32, cpu_s=1.0),
        ]
    )
    place = Place("simple", 8, "metako-tls")
    assert of_direct(place, figures) == pytest.approx(0.25)
    assert of_pgbouncer(place, figures) == pytest.approx(1.25)
    assert of_direct(place.of("direct-tls"), figures) is None
    assert of_pgbouncer(place.of("pgbouncer-tls"), figures) is None
    assert of_pgbouncer(place.of("metako"), figures) == pytest.approx(3.0)
    # A peer without TLS is no measure for it.
    assert of_pgbouncer(Place("simple", 32, "metako-tls"), figures) is None
    names = [place.contestant for place in figures if place.clients == 8]
    assert names[:4] == ["direct", "direct-tls", "metako", "metako-tls"]


def test_round_that_failed_does_not_count_as_a_rate():
    figures = medians([cell("direct", tps=None, failed=1), cell("direct", number=2, tps=900)])
    one = figures[Place("simple", 8, "direct")]
    assert (one.tps, one.failed, one.rounds) == (900, 1, 2)


# Targets


def test_targets_are_judged_where_they_apply():
    slow = (*[1.0] * 98, 3.5, 3.6)
    figures = medians(
        [
            *(cell("pgbouncer", clients=c, cpu_s=1.0) for c in (8, 32, 200)),
            cell("metako", clients=8, cpu_s=1.25),
            cell("metako", clients=32, cpu_s=1.26),
            cell("metako", clients=200, values=slow, cpu_s=9.0),
            cell("direct", workload="rows"),
            cell("metako", workload="rows", tps=899),
            cell("direct", workload="connect", tps=10),
            cell("metako", workload="connect", tps=80),
            cell("pgbouncer", workload="connect", tps=800),
        ]
    )
    words = {(v.what, v.where): v.word for v in judge(figures, [])}
    assert words == {
        ("CPU a transaction, of PgBouncer's", "simple, 8 clients"): "met",
        ("CPU a transaction, of PgBouncer's", "simple, 32 clients"): "MISSED",
        ("p99 / p50", "simple, 200 clients"): "MISSED",
        ("large results, of direct", "rows, 8 clients"): "MISSED",
        ("a connection each, of direct", "connect, 8 clients"): "met",
    }


def test_proxy_with_tls_is_judged_by_peers_with_tls():
    cells = [cell("pgbouncer", cpu_s=1.0), cell("pgbouncer-tls", cpu_s=2.0)]
    cells += [cell("metako", cpu_s=1.2), cell("metako-tls", cpu_s=2.6)]
    words = {v.contestant: (v.word, v.measured) for v in judge(medians(cells), [])}
    assert words == {"metako": ("met", "1.20"), "metako-tls": ("MISSED", "1.30")}


def test_target_without_its_base_is_not_measured():
    (verdict,) = judge(medians([cell("metako", cpu_s=1.0)]), [])
    assert verdict.word == "not measured"


def idle_of(clients: int, taken: int) -> Idle:
    after = Memory(taken, taken)
    return Idle("metako", clients=clients, asked=5000, before=Memory(10**7, 10**7), after=after)


def test_memory_of_idle_clients_is_judged_only_with_all_of_them():
    words = [judge({}, [idle_of(n, m)])[0].word for n, m in ((5000, 25 * 10**7), (200, 10**7))]
    assert words == ["met", "not measured"]
    assert judge({}, [idle_of(5000, 25 * 10**7 + 1)])[0].word == "MISSED"
    assert idle_of(100, 2 * 10**7).bytes_per_client == 10**5


# What is printed


def test_failure_is_told_and_makes_the_run_a_bad_one():
    bad = cell("metako", tps=None, failed=1)
    bad.error = "the server said no"
    result = result_of(cell("direct"), bad)
    assert not result.good
    assert "FAILED: simple, 8 clients, metako, round 1: the server said no" in markdown(result)
    assert result_of(cell("direct")).good
    assert not result_of().good


def test_missing_peer_and_missed_target_are_told_and_are_no_failure():
    result = result_of(cell("metako", cpu_s=2.0), cell("pgbouncer", cpu_s=1.0))
    result.left_out["haproxy"] = "haproxy is not installed; apt-get install haproxy"
    text = markdown(result)
    assert "MISSED" in text
    assert "Left out: haproxy: haproxy is not installed" in text
    assert result.good
    result.broken["pgpool"] = "ended with status 1"
    assert not result.good


def test_fewer_idle_clients_than_asked_for_are_explained():
    one = idle_of(200, 10**7)
    one.fewer_because = "each takes 2.0 MiB"
    one.session_bytes = 2.0 * (1 << 20)
    text = markdown(result_of(idle=(one,)))
    assert "| metako | 200 of 5000 | 0 | 9.5 | 9.5 | 0.0 | 2.0 |" in text
    assert "with 200 idle clients and not with 5000: each takes 2.0 MiB." in text
    assert "| metako | not measured | 10 MB | ≤ 250 MB |" in text


def test_who_speaks_tls_is_told_where_anybody_does():
    result = result_of(cell("metako"), cell("metako-tls"))
    result.encryption["metako"] = Encryption("", server=False)
    assert "TLS" not in markdown(result)
    result.encryption["metako-tls"] = Encryption("TLSv1.3 SOME_CIPHER", server=False)
    line = "- **TLS:** metako-tls TLSv1.3 SOME_CIPHER with clients, in clear to PostgreSQL.\n"
    assert line in markdown(result)
    assert as_json(result)["encryption"] == {
        "metako": {"clients": "", "server": False},
        "metako-tls": {"clients": "TLSv1.3 SOME_CIPHER", "server": False},
    }


def test_json_has_every_cell_and_can_be_read_again():
    result = result_of(cell("direct"), cell("metako", cpu_s=0.5), idle=(idle_of(5000, 10**8),))
    raw = json.loads(json.dumps(as_json(result)))
    assert [c["contestant"] for c in raw["cells"]] == ["direct", "metako"]
    assert raw["medians"][1]["cpu_s_per_1000"] == 0.5
    assert raw["medians"][1]["tps_of_direct"] == 1.0
    assert raw["idle"][0]["after_bytes"] == {"rss": 10**8, "pss": 10**8}
    assert raw["good"] is True


def test_picture_is_xml_with_a_dot_for_each_figure():
    figures = medians([cell("direct"), cell("metako", tps=500, cpu_s=1.0), cell("haproxy")])
    root = ElementTree.fromstring(svg(figures, title="a < b"))
    # Two rates and one CPU time; two more in the legend.
    assert len(root.findall(".//{*}circle")) == 5
    ElementTree.fromstring(svg({}, title="nothing"))


def test_axis_has_a_length_and_keeps_values_inside():
    scale = axis([2.0], (100, 300))
    assert 100 < scale.x(2.0) < 300
    assert (scale.x(0.001), scale.x(1e9)) == (100, 300)
    assert axis([], (0, 1)).high > axis([], (0, 1)).low
