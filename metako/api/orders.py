"""The path of the API that writes: `POST` and `DELETE /switchover`, orders to the cluster.

In: a request from somebody who may give orders, or from anybody where nobody may. Out: an `Order`
for the `OrderSink`, and its answer as JSON: 202 taken, 409 refused by the leader, 400 not
understood, 403 not here, 503 not given to the cluster, 504 given but not answered.

Invariant: nothing that a request says is passed on unless it is known and in its bounds.

Deliberately unaware of how an order reaches the leader, and of what becomes of it: `GET /status`
shows that.
"""

from __future__ import annotations

import json
import secrets
from contextlib import aclosing
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metako.api.answer import json_answer
from metako.api.view import JsonObject
from metako.config.schema import NAME
from metako.model.errors import MetakoError, OrderUnansweredError
from metako.model.ids import NodeId
from metako.model.orders import (
    TIMEOUT_DEFAULT_S,
    TIMEOUT_MAX_S,
    TIMEOUT_MIN_S,
    Order,
    OrderAnswer,
    OrderKind,
)

SWITCHOVER_PATH = "/switchover"
BODY_BYTES_MAX = 4096
ORDER_ID_BYTES = 8

_FORBIDDEN = (
    "orders are taken on the node itself only: run `metako switchover` there, as the user of the "
    "agent (the permissions of the agent's socket are the authentication)"
)


class OrderSink(Protocol):
    """Who carries orders to the cluster."""

    async def order(self, order: Order) -> OrderAnswer:
        """Give `order` to the cluster and return whether the leader takes it.

        Raises:
            OrderNotGivenError: nothing was given to the cluster.
            OrderUnansweredError: the cluster may have taken it.
        """


def switchover_route(orders: OrderSink | None) -> Route:
    """Return the route by which a switchover is ordered and cancelled; None: by nobody."""

    async def endpoint(request: Request) -> Response:
        if orders is None:
            raise HTTPException(403, _FORBIDDEN)
        if request.method == "DELETE":
            return await _give(orders, Order(_order_id(), OrderKind.CANCEL_SWITCHOVER))
        body = await _body(request)
        try:
            order = switchover_order(body)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        return await _give(orders, order)

    # No OPTIONS: on the other paths it is answered by asking, which here would be an order.
    return Route(SWITCHOVER_PATH, endpoint, methods=("POST", "DELETE"), name=SWITCHOVER_PATH)


def switchover_order(body: bytes) -> Order:
    """Return the order that the body of a request asks for.

    Raises:
        ValueError: the body is not one; the text says what is wrong.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ValueError('the body must be a JSON object such as {"to": "n2", "timeout_s": 30}')
    unknown = sorted(asked.keys() - {"to", "timeout_s"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0][:70]!r}: only to and timeout_s are known")
    target, timeout_s = asked.get("to"), asked.get("timeout_s", TIMEOUT_DEFAULT_S)
    if target is not None and not (isinstance(target, str) and NAME.fullmatch(target)):
        raise ValueError("to must be the name of a node, or null to have one chosen")
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not TIMEOUT_MIN_S <= timeout_s <= TIMEOUT_MAX_S:
        raise ValueError(f"timeout_s must be a number from {TIMEOUT_MIN_S} to {TIMEOUT_MAX_S}")
    return Order(
        _order_id(),
        OrderKind.SWITCHOVER,
        target=NodeId(target) if target is not None else None,
        timeout_ms=round(timeout_s * 1000),
    )


async def _give(orders: OrderSink, order: Order) -> Response:
    try:
        answer = await orders.order(order)
    except OrderUnansweredError as error:
        raise HTTPException(504, str(error)) from None
    except MetakoError as error:
        raise HTTPException(503, str(error)) from None
    body: JsonObject = {
        "accepted": answer.accepted,
        "order": order.order_id,
        "to": answer.target,
        "reason": answer.reason or None,
    }
    return json_answer(body, 202 if answer.accepted else 409)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise HTTPException(413, f"the body has more than {BODY_BYTES_MAX} bytes")
    return bytes(body)


def _order_id() -> str:
    return secrets.token_hex(ORDER_ID_BYTES)
