"""Every order that a scenario can give is one that an agent takes as the same order."""

import json
from dataclasses import replace

import httpx
import pytest
import trio

from chaos.ordering import request_of
from metako.api.app import build_app
from metako.model.ids import NodeId
from metako.model.orders import Order, OrderAnswer, OrderKind

N2 = NodeId("n2")
ORDERS = [
    Order("", OrderKind.SWITCHOVER, N2, 10_000),
    Order("", OrderKind.SWITCHOVER, None, 10_000),
    Order("", OrderKind.CANCEL_SWITCHOVER),
    Order("", OrderKind.FAILOVER, lost=(N2,)),
    Order("", OrderKind.ADD_MEMBER, N2, voter=False),
    Order("", OrderKind.REMOVE_MEMBER, N2),
    Order("", OrderKind.PAUSE),
    Order("", OrderKind.RESUME),
    Order("", OrderKind.RESTART, timeout_ms=3000),
    Order("", OrderKind.RESTART, timeout_ms=3000, nodes=(N2,)),
    Order("", OrderKind.CANCEL_RESTART),
]


class Sink:
    def __init__(self):
        self.orders = []

    async def order(self, order):
        self.orders.append(order)
        await trio.lowlevel.checkpoint()
        return OrderAnswer(order.order_id, True, "")


async def taken(order, shown_s):
    sink = Sink()
    line, body = request_of(order, shown_s)
    method, path = line.split()
    transport = httpx.ASGITransport(build_app(None, sink))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        content = b"" if body is None else json.dumps(body).encode()
        response = await client.request(method, path, content=content)
    assert response.status_code == 202, response.text
    (given,) = sink.orders
    return replace(given, order_id="")


def test_no_kind_is_forgotten():
    assert {order.kind for order in ORDERS} == set(OrderKind)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
async def test_the_agent_takes_the_order_that_was_meant(order):
    assert await taken(order, 0) == order


async def test_a_delay_counts_from_what_the_agents_clock_shows(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_900_000_000 * 10**9)
    order = Order("", OrderKind.SWITCHOVER, N2, 10_000, at_ms=4000)
    given = await taken(order, 1_900_000_000)
    assert given == replace(order, at_ms=1_900_000_004_000)
