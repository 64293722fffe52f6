"""The paths by which a cluster is paused, restarted and switched over later, and their status."""

import json
from dataclasses import replace

import pytest
from test_api_orders import DOCUMENT, N1, N2, STATUS, Sink, request

from metako.api.orders import NODES_MAX, restart_order, switchover_order
from metako.api.view import status_view
from metako.cluster.projection import project
from metako.model.document import Restart, Scheduled
from metako.model.errors import OrderNotGivenError
from metako.model.ids import Address
from metako.model.member import Member, MemberMeta, MemberState
from metako.model.orders import (
    RESTART_TIMEOUT_DEFAULT_S,
    SCHEDULE_MAX_S,
    Order,
    OrderKind,
)
from metako.model.postgres import PostgresObserved

NOW_MS = 1_796_090_400_000  # 2026-12-01 02:00 UTC
TAKEN = (True, "so be it", None)
PATHS = {
    ("POST", "/pause"): OrderKind.PAUSE,
    ("DELETE", "/pause"): OrderKind.RESUME,
    ("POST", "/restart"): OrderKind.RESTART,
    ("DELETE", "/restart"): OrderKind.CANCEL_RESTART,
}


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_each_path_is_one_order(method, path):
    sink = Sink(TAKEN)
    response = await request(sink, method, path, content=b"{}")
    (order,) = sink.orders
    assert order.kind is PATHS[method, path]
    assert response.status_code == 202
    assert response.json() == {"accepted": True, "order": order.order_id, "reason": "so be it"}


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_nobody_gives_them_on_the_port_and_all_are_told_the_command(method, path):
    response = await request(None, method, path)
    assert response.status_code == 403
    command = {"/pause": "metako resume", "/restart": "metako restart"}[path]
    assert f"`{command}` there" in response.json()["error"]


@pytest.mark.parametrize("path", ["/pause", "/restart"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
async def test_other_methods_give_no_order(method, path):
    sink = Sink(TAKEN)
    assert (await request(sink, method, path)).status_code == 405
    assert sink.orders == []


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_refusals_and_silence_are_told_as_for_every_order(method, path):
    refused = await request(Sink((False, "no", None)), method, path, content=b"{}")
    assert (refused.status_code, refused.json()["reason"]) == (409, "no")
    silent = await request(Sink(OrderNotGivenError("busy")), method, path, content=b"{}")
    assert (silent.status_code, silent.json()["error"]) == (503, "busy")


# ---------------------------------------------------------------- restart


def test_a_restart_is_of_those_named_or_of_all():
    for body in (b"{}", b'{"nodes": null}'):
        order = restart_order(body)
        assert order == Order(
            order.order_id, OrderKind.RESTART, timeout_ms=RESTART_TIMEOUT_DEFAULT_S * 1000
        )
    order = restart_order(b'{"nodes": ["n2", "n1"], "timeout_s": 2.5}')
    assert (order.nodes, order.timeout_ms) == ((N2, N1), 2500)
    assert len(restart_order(json.dumps({"nodes": ["n1"] * NODES_MAX}).encode()).nodes) == NODES_MAX


BAD_RESTARTS = [
    (b"", "JSON object"),
    (b"[]", "JSON object"),
    (b'{"node": "n1"}', "unknown key 'node'"),
    (b'{"nodes": []}', "nodes must be a list of 1 to"),
    (b'{"nodes": "n1"}', "nodes must be a list"),
    (b'{"nodes": {}}', "nodes must be a list"),
    (b'{"nodes": [1]}', "each of nodes must be the name"),
    (b'{"nodes": ["n 1"]}', "each of nodes must be the name"),
    (json.dumps({"nodes": ["n1"] * (NODES_MAX + 1)}).encode(), "nodes must be a list"),
    (b'{"timeout_s": 0.5}', "timeout_s must be"),
    (b'{"timeout_s": 3601}', "timeout_s must be"),
    (b'{"timeout_s": null}', "timeout_s must be"),
]


@pytest.mark.parametrize(("body", "text"), BAD_RESTARTS, ids=lambda value: repr(value)[:30])
async def test_a_bad_restart_is_told_and_nothing_is_restarted(body, text):
    sink = Sink(TAKEN)
    response = await request(sink, "POST", "/restart", content=body)
    assert (response.status_code, sink.orders) == (400, [])
    assert text in response.json()["error"]


# ---------------------------------------------------------------- by the clock


def later(**asked):
    return switchover_order(json.dumps(asked).encode(), NOW_MS)


@pytest.mark.parametrize("at", ["2026-12-01T02:00:03.500Z", "2026-12-01T03:00:03.5+01:00"])
def test_a_switchover_may_be_for_later(at):
    order = later(to="n2", at=at)
    assert (order.kind, order.target, order.at_ms) == (OrderKind.SWITCHOVER, N2, NOW_MS + 3500)
    assert later(at=None).at_ms == later().at_ms == 0


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("2026-12-01T03:00", "at: '2026-12-01T03:00' names no time zone"),
        ("2026-12-01T02:00Z", "at: 2026-12-01T02:00:00Z has passed: it is 2026-12-01T02:00:00Z"),
        ("1969-01-01T02:00Z", "has passed"),
        ("2027-12-02T02:00:01Z", "more than 366 days ahead"),
        ("tomorrow", "at: 'tomorrow' is not a date and time"),
        ("", "not a date and time"),
        (NOW_MS + 1000, "at must be a date and time such as"),
        (True, "at must be"),
        (["2026-12-01T03:00Z"], "at must be"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused_with_the_reason(at, why):
    with pytest.raises(ValueError, match="at") as error:
        later(at=at)
    assert why in str(error.value)


async def test_the_clock_of_the_agents_host_is_the_one_that_counts(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: NOW_MS * 1_000_000)
    sink = Sink(TAKEN)
    refused = await request(sink, "POST", "/switchover", json={"at": "2026-12-01T01:59:59Z"})
    assert (refused.status_code, sink.orders) == (400, [])
    taken = await request(sink, "POST", "/switchover", json={"at": "2026-12-01T02:00:01Z"})
    assert (taken.status_code, sink.orders[0].at_ms) == (202, NOW_MS + 1000)
    assert SCHEDULE_MAX_S == 366 * 86_400


# ---------------------------------------------------------------- status


def test_the_status_shows_what_was_ordered():
    document = replace(
        DOCUMENT,
        paused=True,
        scheduled=Scheduled("two", None, 30_000, NOW_MS),
        restarts=(Restart(N2, "three", 60_000), Restart(N1, "three", 60_000)),
    )
    shown = status_view(replace(STATUS, document=document))["document"]
    assert shown["paused"] is True
    assert shown["scheduled"] == {
        "to": None,
        "order": "two",
        "timeout_s": 30,
        "at": "2026-12-01T02:00:00Z",
    }
    assert shown["restarts"] == [
        {"node": "n2", "order": "three", "timeout_s": 60},
        {"node": "n1", "order": "three", "timeout_s": 60},
    ]
    quiet = status_view(STATUS)["document"]
    assert (quiet["paused"], quiet["scheduled"], quiet["restarts"]) == (False, None, [])


def test_a_member_says_by_which_order_it_was_restarted():
    gossip = Address("127.0.0.1", 1)
    members = tuple(
        Member(node, 1, 1, MemberState.ALIVE, gossip, meta)
        for node, meta in ((N1, MemberMeta()), (N2, MemberMeta(restarted="three")), ("n3", None))
    )
    rows = status_view(replace(STATUS, members=members))["members"]
    assert [row["restarted"] for row in rows] == [None, "three", None]


@pytest.mark.parametrize("left", [(Restart(N2, "three", 60_000),), ()])
def test_that_is_told_after_the_last_turn_too(left):
    # The leader may strike the last one off before others have heard that it is back.
    observed = PostgresObserved(restarted="three")
    meta = project(observed, MemberMeta(), replace(DOCUMENT, restarts=left), 0)
    assert meta.restarted == "three"
