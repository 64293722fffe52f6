"""The paths that write: what is passed on as an order, every code, and nothing without a sink."""

import json
from dataclasses import replace

import httpx
import pytest
import resuming_kit
import trio

from metako.api.app import build_app
from metako.api.orders import BODY_BYTES_MAX, switchover_order
from metako.api.view import status_view
from metako.model.document import Switchover
from metako.model.errors import OrderNotGivenError, OrderUnansweredError
from metako.model.ids import NodeId, Term
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.model.postgres import PostgresObserved
from metako.model.status import NodeStatus

N1, N2 = NodeId("n1"), NodeId("n2")
DOCUMENT = replace(
    resuming_kit.DOCUMENT, primary=N1, voters=(N1, N2), switchover=Switchover("one", N2, 2500)
)
STATUS = NodeStatus(
    node=N1,
    cluster_name="main",
    boot_epoch=1,
    election_role="leader",
    term=Term(4),
    promised_term=Term(4),
    leader=N1,
    primary=N1,
    hold_remaining_ms=0,
    lease_remaining_ms=1500,
    blocked="",
    document=DOCUMENT,
    members=(),
    postgres=PostgresObserved(),
)


class Source:
    def status(self):
        return STATUS

    def metrics(self):
        return "metako_term 4\n"


class Sink:
    """Writes down the orders it is given, and answers or fails as the test says."""

    def __init__(self, answer=None):
        self.orders: list[Order] = []
        self.answer = answer

    async def order(self, order):
        self.orders.append(order)
        await trio.lowlevel.checkpoint()
        if isinstance(self.answer, Exception):
            raise self.answer
        accepted, reason, target = self.answer
        return OrderAnswer(order.order_id, accepted, reason, target)


async def request(sink, method="POST", path="/switchover", **options):
    transport = httpx.ASGITransport(build_app(Source(), sink))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        return await client.request(method, path, **options)


TAKEN = (True, "n2 takes over", N2)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_an_app_for_everybody_takes_no_orders_and_says_where_to_give_them(method):
    response = await request(None, method, json={"to": "n2"})
    assert response.status_code == 403
    assert "metako switchover" in response.json()["error"]


async def test_only_an_app_that_takes_orders_lists_the_path():
    listed = [(await request(sink, "GET", "/")).json()["paths"] for sink in (None, Sink())]
    assert ["/switchover" in paths for paths in listed] == [False, True]


@pytest.mark.parametrize("sink", [None, Sink()])
async def test_reading_is_the_same_with_and_without_orders(sink):
    for path in ("/status", "/metrics", "/liveness"):
        assert (await request(sink, "GET", path)).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
async def test_other_methods_give_no_order(method):
    sink = Sink(TAKEN)
    response = await request(sink, method)
    assert (response.status_code, sink.orders) == (405, [])
    assert set(response.headers["allow"].split(", ")) == {"POST", "DELETE"}


async def test_an_order_that_is_taken_answers_202_with_its_id_and_target():
    sink = Sink(TAKEN)
    response = await request(sink, json={"to": "n2", "timeout_s": 7.5})
    (order,) = sink.orders
    assert order == Order(order.order_id, OrderKind.SWITCHOVER, N2, 7500)
    assert response.status_code == 202
    assert response.json() == {
        "accepted": True,
        "order": order.order_id,
        "to": "n2",
        "reason": "n2 takes over",
    }
    assert len(bytes.fromhex(order.order_id)) == 8


async def test_a_target_and_a_timeout_need_not_be_named_and_every_order_has_its_own_id():
    sink = Sink(TAKEN)
    for body in ({}, {"to": None}):
        assert (await request(sink, json=body)).json()["to"] == "n2"
    first, second = sink.orders
    assert (first.target, first.timeout_ms) == (second.target, second.timeout_ms) == (None, 30_000)
    assert first.order_id != second.order_id


async def test_a_refusal_answers_409_with_the_reason():
    response = await request(Sink((False, "n2 does not stream", None)), json={"to": "n2"})
    assert response.status_code == 409
    assert (response.json()["accepted"], response.json()["reason"]) == (False, "n2 does not stream")


async def test_delete_cancels_whatever_its_body_says():
    sink = Sink((True, "given up", None))
    response = await request(sink, "DELETE", content=b"not json")
    assert (response.status_code, response.json()["accepted"]) == (202, True)
    assert [(order.kind, order.target) for order in sink.orders] == [
        (OrderKind.CANCEL_SWITCHOVER, None)
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OrderNotGivenError("this node is stopping"), 503),
        (OrderUnansweredError("no answer within 10 s"), 504),
    ],
)
async def test_without_an_answer_the_code_says_whether_the_order_was_given(error, code):
    response = await request(Sink(error), json={})
    assert response.status_code == code
    assert response.json() == {"error": str(error), "status": code}


BAD = [
    (b"", "JSON object"),
    (b"{", "JSON object"),
    (b"\xff", "JSON object"),
    (b"[" * 4000, "JSON object"),
    (b"[]", "JSON object"),
    (b'"n2"', "JSON object"),
    (b'{"target": "n2"}', "unknown key 'target'"),
    (b'{"to": 2}', "to must be"),
    (b'{"to": ""}', "to must be"),
    (b'{"to": "n 2"}', "to must be"),
    (b'{"to": "%s"}' % (b"n" * 64), "to must be"),
    (b'{"timeout_s": "30"}', "timeout_s must be"),
    (b'{"timeout_s": true}', "timeout_s must be"),
    (b'{"timeout_s": null}', "timeout_s must be"),
    (b'{"timeout_s": 0.999}', "timeout_s must be"),
    (b'{"timeout_s": 3600.1}', "timeout_s must be"),
    (b'{"timeout_s": NaN}', "timeout_s must be"),
    (b'{"timeout_s": Infinity}', "timeout_s must be"),
]


@pytest.mark.parametrize(("body", "text"), BAD, ids=lambda value: repr(value)[:30])
async def test_a_bad_body_is_told_and_nothing_is_passed_on(body, text):
    sink = Sink(TAKEN)
    response = await request(sink, content=body)
    assert (response.status_code, sink.orders) == (400, [])
    assert text in response.json()["error"]


@pytest.mark.parametrize("path", ["/switchover", "/members"])
async def test_a_large_body_is_refused_before_it_is_read(path):
    sink, read, sent = Sink(TAKEN), [], []

    async def receive():
        await trio.lowlevel.checkpoint()
        read.append(1000)
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(message):
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    await build_app(Source(), sink)(scope, receive, send)
    assert (sent[0]["status"], sink.orders) == (413, [])
    assert sum(read) <= BODY_BYTES_MAX + 1000


@pytest.mark.parametrize("timeout_s", [1, 3600, 1.5])
def test_bounds_of_the_timeout_are_inside(timeout_s):
    order = switchover_order(json.dumps({"timeout_s": timeout_s}).encode(), 0)
    assert order.timeout_ms == timeout_s * 1000


def test_the_status_shows_what_is_under_way():
    switchover = status_view(STATUS)["document"]["switchover"]
    assert switchover == {"to": "n2", "order": "one", "timeout_s": 2.5}
