"""What workers count, in the metrics."""

from __future__ import annotations

from dataclasses import replace

from metako.model.ids import NodeId
from metako.observability.metrics import render_metrics
from metako.proxy.control import WorkerReport
from metako.proxy.frames import Hello, Stats
from metako.runtime.proxycounters import ProxyCounters

HELLO = Hello(100, 1, NodeId("n1"), "127.0.0.1", 6432)
REPORT = WorkerReport(HELLO, Stats(sessions=3, total=10, moved=2), connected=True)


def lines(counters: ProxyCounters) -> dict[str, str]:
    page = render_metrics(node="n1", version="1", more=counters.samples())
    return dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("metako_p"))


def test_each_worker_has_its_own_counters() -> None:
    counters = ProxyCounters()
    counters.hear(REPORT)
    counters.hear(WorkerReport(replace(HELLO, index=2, pid=101), Stats(moved=5), connected=True))
    found = lines(counters)
    assert found['metako_proxy_moved_total{node="n1",worker="1"}'] == "2"
    assert found['metako_proxy_moved_total{node="n1",worker="2"}'] == "5"
    assert found['metako_proxy_sessions{node="n1",worker="1"}'] == "3"


def test_a_connection_to_a_new_agent_does_not_make_counters_jump() -> None:
    counters = ProxyCounters()
    counters.hear(REPORT)
    counters.hear(replace(REPORT, connected=False))
    found = lines(counters)
    assert found['metako_proxy_connections_total{node="n1",worker="1"}'] == "10"
    assert found['metako_proxy_sessions{node="n1",worker="1"}'] == "0"
    counters.hear(WorkerReport(HELLO, Stats(), connected=True))
    found = lines(counters)
    assert found['metako_proxy_connections_total{node="n1",worker="1"}'] == "10"
    assert found['metako_proxy_sessions{node="n1",worker="1"}'] == "3"


def test_another_worker_of_the_same_number_begins_anew() -> None:
    counters = ProxyCounters()
    counters.hear(REPORT)
    counters.hear(WorkerReport(replace(HELLO, pid=200), Stats(), connected=True))
    assert lines(counters)['metako_proxy_connections_total{node="n1",worker="1"}'] == "0"


def test_while_a_worker_is_replaced_the_clients_of_both_are_told() -> None:
    counters = ProxyCounters()
    counters.hear(REPORT)
    heir = WorkerReport(replace(HELLO, pid=200), Stats(sessions=1, total=4), connected=True)
    counters.hear(heir)
    counters.hear(replace(REPORT, stats=Stats(sessions=2, total=10)))
    found = lines(counters)
    assert found['metako_proxy_sessions{node="n1",worker="1"}'] == "3"
    assert found['metako_proxy_connections_total{node="n1",worker="1"}'] == "4"
    counters.hear(replace(REPORT, connected=False))
    assert lines(counters)['metako_proxy_sessions{node="n1",worker="1"}'] == "1"


def test_counters_are_named_as_such_and_every_family_is_told_once() -> None:
    counters = ProxyCounters()
    counters.hear(REPORT)
    page = render_metrics(node="n1", version="1", more=counters.samples())
    types = [line.split()[2:] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len({name for name, _ in types}) == len(types)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in types)
