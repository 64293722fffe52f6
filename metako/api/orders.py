"""The paths of the API that write, orders to the cluster: who leads, who is a member, upkeep.

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
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Protocol, TypeGuard, assert_never

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metako.api.answer import json_answer
from metako.api.view import JsonObject
from metako.config.schema import NAME
from metako.model.errors import MetakoError, OrderUnansweredError
from metako.model.ids import NodeId
from metako.model.moment import EXAMPLE, parse_moment_ms, why_not_at
from metako.model.orders import (
    RESTART_TIMEOUT_DEFAULT_S,
    TIMEOUT_DEFAULT_S,
    TIMEOUT_MAX_S,
    TIMEOUT_MIN_S,
    Order,
    OrderAnswer,
    OrderKind,
)

SWITCHOVER = "/switchover"
FAILOVER = "/failover"
MEMBERS = "/members"
MEMBER = "/members/{node}"
PAUSE = "/pause"
RESTART = "/restart"
PROXY = "/proxy/restart"
BODY_BYTES_MAX = 4096
LOST_MAX = 58
"""Members that one failover may do without: all the others of the largest cluster."""
NODES_MAX = LOST_MAX + 1
"""Nodes whose servers one order may restart."""
ORDER_ID_BYTES = 8


class OrderSink(Protocol):
    """Who carries orders to the cluster."""

    async def order(self, order: Order) -> OrderAnswer:
        """Give `order` to the cluster and return whether the leader takes it.

        Raises:
            OrderNotGivenError: nothing was given to the cluster.
            OrderUnansweredError: the cluster may have taken it.
        """

    async def renew_proxy(self) -> tuple[int, list[str]]:
        """Replace the workers of this node's own proxy, one after the other.

        Return how many were replaced, and why others were not. None and nothing: there are none.
        """


OrderOf = Callable[[Request], Awaitable[Order]]
"""Reads a request. Raises ValueError if it asks for nothing that there is; the text says why."""


def order_routes(orders: OrderSink | None) -> list[Route]:
    """Return the routes by which orders are given; None: by nobody, each answers 403."""

    def route(path: str, order_of: OrderOf, *methods: str, command: str) -> Route:
        async def endpoint(request: Request) -> Response:
            if orders is None:
                raise HTTPException(403, _forbidden(command))
            try:
                order = await order_of(request)
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
            return await _give(orders, order)

        # No OPTIONS: on the other paths it is answered by asking, which here would be an order.
        # What has a slash in it is somebody's idea of a name too, and is told what is wrong.
        pattern = path.replace("{node}", "{node:path}")
        return Route(pattern, endpoint, methods=methods, name=path)

    return [
        route(SWITCHOVER, _switchover, "POST", "DELETE", command="metako switchover"),
        route(FAILOVER, _failover, "POST", command="metako failover"),
        route(MEMBERS, _add_member, "POST", command="metako members add"),
        route(MEMBER, _remove_member, "DELETE", command="metako members remove"),
        route(PAUSE, _pause, "POST", "DELETE", command="metako pause` or `metako resume"),
        route(RESTART, _restart, "POST", "DELETE", command="metako restart"),
        _proxy_route(orders),
    ]


def _proxy_route(orders: OrderSink | None) -> Route:
    """Return the route by which the proxy of this node is restarted. No order to the cluster."""

    async def endpoint(_request: Request) -> Response:
        if orders is None:
            raise HTTPException(403, _forbidden("metako restart --proxy"))
        replaced, failures = await orders.renew_proxy()
        if not replaced and not failures:
            raise HTTPException(503, "this node has no proxy that runs: see `proxy.enabled`")
        return json_answer({"replaced": replaced, "failures": failures})

    return Route(PROXY, endpoint, methods=["POST"], name=PROXY)


async def _switchover(request: Request) -> Order:
    if request.method == "DELETE":
        return Order(_order_id(), OrderKind.CANCEL_SWITCHOVER)
    return switchover_order(await _body(request), time.time_ns() // 1_000_000)


async def _failover(request: Request) -> Order:
    return failover_order(await _body(request))


async def _add_member(request: Request) -> Order:
    return member_order(await _body(request))


async def _remove_member(request: Request) -> Order:
    node = _node(request.path_params["node"], "the last part of the path")
    return Order(_order_id(), OrderKind.REMOVE_MEMBER, node)


async def _pause(request: Request) -> Order:
    return Order(_order_id(), OrderKind.RESUME if request.method == "DELETE" else OrderKind.PAUSE)


async def _restart(request: Request) -> Order:
    if request.method == "DELETE":
        return Order(_order_id(), OrderKind.CANCEL_RESTART)
    return restart_order(await _body(request))


def switchover_order(body: bytes, now_ms: int) -> Order:
    """Return the switchover that the body of a request asks for.

    Args:
        body: of the request.
        now_ms: what this host's wall clock shows, in milliseconds since 1970, UTC.

    Raises:
        ValueError: the body does not ask for one; the text says what is wrong.
    """
    asked = _asked(body, {"to": "n2", "timeout_s": 30, "at": None})
    target = asked.get("to")
    if target is not None and not _is_name(target):
        raise ValueError("to must be the name of a node, or null to have one chosen")
    return Order(
        _order_id(),
        OrderKind.SWITCHOVER,
        target=NodeId(target) if target is not None else None,
        timeout_ms=_timeout_ms(asked, TIMEOUT_DEFAULT_S),
        at_ms=_at_ms(asked.get("at"), now_ms),
    )


def restart_order(body: bytes) -> Order:
    """Return the restart of servers that the body of a request asks for.

    Raises:
        ValueError: the body does not ask for one; the text says what is wrong.
    """
    asked = _asked(body, {"nodes": None, "timeout_s": RESTART_TIMEOUT_DEFAULT_S})
    nodes = asked.get("nodes")
    # An empty list is a script that has found nobody, and is not to restart everybody.
    if nodes is not None and (not isinstance(nodes, list) or not 1 <= len(nodes) <= NODES_MAX):
        raise ValueError(f"nodes must be a list of 1 to {NODES_MAX} names, or null for all of them")
    return Order(
        _order_id(),
        OrderKind.RESTART,
        timeout_ms=_timeout_ms(asked, RESTART_TIMEOUT_DEFAULT_S),
        nodes=tuple(_node(name, "each of nodes") for name in nodes or ()),
    )


def failover_order(body: bytes) -> Order:
    """Return the order that this node lead, which the body of a request gives.

    Raises:
        ValueError: the body gives none; the text says what is wrong.
    """
    asked = _asked(body, {"accept_loss": True, "lost": []})
    if asked.get("accept_loss") is not True:
        raise ValueError("accept_loss must be true: acknowledged commits may be lost")
    lost = asked.get("lost", [])
    if not isinstance(lost, list) or len(lost) > LOST_MAX:
        raise ValueError(f"lost must be a list of at most {LOST_MAX} names of nodes")
    nodes = tuple(_node(name, "each of lost") for name in lost)
    return Order(_order_id(), OrderKind.FAILOVER, lost=nodes)


def member_order(body: bytes) -> Order:
    """Return the order to add a member that the body of a request gives.

    Raises:
        ValueError: the body gives none; the text says what is wrong.
    """
    asked = _asked(body, {"node": "n4", "learner": False})
    node, learner = _node(asked.get("node"), "node"), asked.get("learner", False)
    if not isinstance(learner, bool):
        raise ValueError("learner must be true or false")
    return Order(_order_id(), OrderKind.ADD_MEMBER, node, voter=not learner)


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
        **_about(order, answer),
        "reason": answer.reason or None,
    }
    return json_answer(body, 202 if answer.accepted else 409)


def _about(order: Order, answer: OrderAnswer) -> JsonObject:
    """Return whom an answer is about: of a switchover the leader says it, a member was named."""
    match order.kind:
        case OrderKind.ADD_MEMBER | OrderKind.REMOVE_MEMBER:
            return {"node": order.target}
        case OrderKind.SWITCHOVER | OrderKind.CANCEL_SWITCHOVER | OrderKind.FAILOVER:
            return {"to": answer.target}
        case OrderKind.PAUSE | OrderKind.RESUME | OrderKind.RESTART | OrderKind.CANCEL_RESTART:
            return {}
        case _:
            assert_never(order.kind)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise HTTPException(413, f"the body has more than {BODY_BYTES_MAX} bytes")
    return bytes(body)


def _asked(body: bytes, example: JsonObject) -> JsonObject:
    """Return the JSON object in a body, which has keys of the example only."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ValueError(f"the body must be a JSON object such as {json.dumps(example)}")
    unknown = sorted(asked.keys() - example.keys())
    if unknown:
        *others, last = example
        known = f"{', '.join(others)} and {last}"
        raise ValueError(f"unknown key {unknown[0][:70]!r}: only {known} are known")
    return asked


def _timeout_ms(asked: JsonObject, default_s: int) -> int:
    timeout_s = asked.get("timeout_s", default_s)
    if (
        not isinstance(timeout_s, int | float)
        or isinstance(timeout_s, bool)
        or not TIMEOUT_MIN_S <= timeout_s <= TIMEOUT_MAX_S
    ):
        raise ValueError(f"timeout_s must be a number from {TIMEOUT_MIN_S} to {TIMEOUT_MAX_S}")
    return round(timeout_s * 1000)


def _at_ms(at: object, now_ms: int) -> int:
    """Return when, in milliseconds since 1970, UTC; 0: at once."""
    if at is None:
        return 0
    if not isinstance(at, str):
        raise ValueError(f"at must be a date and time such as {EXAMPLE}, or null for at once")
    try:
        at_ms = parse_moment_ms(at)
    except ValueError as error:
        raise ValueError(f"at: {error}") from None
    if why := why_not_at(at_ms, now_ms):
        raise ValueError(f"at: {why}")
    return at_ms


def _node(name: object, what: str) -> NodeId:
    if not _is_name(name):
        raise ValueError(f"{what} must be the name of a node")
    return NodeId(name)


def _is_name(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _order_id() -> str:
    return secrets.token_hex(ORDER_ID_BYTES)


def _forbidden(command: str) -> str:
    return (
        f"orders are taken on the node itself only: run `{command}` there, as the user of the "
        "agent (the permissions of the agent's socket are the authentication)"
    )
