"""The paths of the HTTP API, as an ASGI app.

In: a `StatusSource`, asked once per request. Out: `build_app`, for any ASGI server.

Invariant: every answer but that to an order (`orders`) is made from one immutable `NodeStatus`,
without waiting for anything, so that no request can delay the agent. All endpoints are coroutines,
because a plain function would be run in a thread. Nothing can be written unless the app was built
with an `OrderSink`, and nobody is asked who they are: whoever serves such an app sees to it that
only those reach it who may give orders.

Deliberately unaware of sockets, of the engine, and of what makes a node healthy (`health`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metako.api.answer import json_answer
from metako.api.health import (
    YES,
    LagLimit,
    Verdict,
    health_verdict,
    parse_lag,
    primary_verdict,
    readiness_verdict,
    replica_verdict,
)
from metako.api.orders import OrderSink, order_routes
from metako.api.view import JsonObject, cluster_view, local_role, status_view
from metako.model.lsn import format_lsn
from metako.model.status import HISTORY_MAX, NodeStatus

HISTORY_DEFAULT = 50
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_READ = ("GET", "HEAD", "OPTIONS")
_READ_AND_POST = (*_READ, "POST")
_HEADERS = (
    # An answer is about this moment: a cache between a load balancer and us must not keep it.
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    # Nothing here is a page; a browser that renders it anyway may load and embed nothing.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)

Endpoint = Callable[[Request], Awaitable[Response]]


class StatusSource(Protocol):
    """Where the API gets what it shows. The calls return at once and never raise."""

    def status(self) -> NodeStatus:
        """Return the node's picture of this moment."""

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""

    def history(self) -> Sequence[Mapping[str, object]]:
        """Return what is known of the cluster's history, oldest first."""


def build_app(source: StatusSource, orders: OrderSink | None = None) -> ASGIApp:
    """Return the ASGI app that answers from `source`, and gives orders to `orders` if there is one.

    Without one the paths that write answer 403, so the app may be shown to everybody.
    """
    checks: dict[str, Callable[[NodeStatus, LagLimit | None], Verdict]] = {
        "/primary": lambda status, _limit: primary_verdict(status),
        "/replica": replica_verdict,
        "/readiness": lambda status, _limit: readiness_verdict(status),
        # An agent that answers is alive: what its server does is for the other paths to say.
        "/liveness": lambda _status, _limit: YES,
    }

    async def root(_request: Request) -> Response:
        status = source.status()
        shown = reading if orders is None else (*reading, *writing)
        paths = sorted({route.name for route in shown})
        return json_answer({"name": "metako", "node": status.node, "paths": paths})

    async def full_status(_request: Request) -> Response:
        return json_answer(status_view(source.status()))

    async def cluster(_request: Request) -> Response:
        return json_answer(cluster_view(source.status()))

    async def history(request: Request) -> Response:
        status, limit = source.status(), _history_limit(request)
        entries = list(source.history())[-limit:]
        return json_answer(
            {"cluster": status.cluster_name, "node": status.node, "history": entries}
        )

    async def metrics(_request: Request) -> Response:
        return Response(source.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def health(_request: Request) -> Response:
        status = source.status()
        return _check_answer(status, health_verdict(status))

    def check(verdict: Callable[[NodeStatus, LagLimit | None], Verdict]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            status = source.status()
            return _check_answer(status, verdict(status, _lag_limit(request)))

        return endpoint

    reading = [
        _route("/", root),
        _route("/status", full_status),
        _route("/cluster", cluster),
        _route("/history", history),
        _route("/metrics", metrics),
        # pg-metako's nodes posted here; a monitor that still does gets the same answer.
        _route("/health", health, methods=_READ_AND_POST),
        *(_route(path, check(verdict)) for path, verdict in checks.items()),
    ]
    writing = order_routes(orders)
    app = Starlette(
        routes=[*reading, *writing],
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )
    app.router.redirect_slashes = False
    return _SafeHeaders(app)


class _SafeHeaders:
    """Add the headers that every answer carries, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _route(path: str, endpoint: Endpoint, methods: tuple[str, ...] = _READ) -> Route:
    async def answer(request: Request) -> Response:
        response = await endpoint(request)
        if request.method == "OPTIONS":
            # Load balancers probe with OPTIONS and read the status only.
            return Response(status_code=response.status_code, headers={"Allow": ", ".join(methods)})
        return response

    return Route(path, answer, methods=methods, name=path)


def _lag_limit(request: Request) -> LagLimit | None:
    text = request.query_params.get("lag")
    if text is None or request.url.path != "/replica":
        return None
    try:
        return parse_lag(text)
    except ValueError as error:
        # To ignore the mistake would send reads to a standby that is hours behind.
        raise HTTPException(400, str(error)) from None


def _history_limit(request: Request) -> int:
    text = request.query_params.get("limit", str(HISTORY_DEFAULT))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= HISTORY_MAX:
        raise HTTPException(400, f"limit must be a whole number from 1 to {HISTORY_MAX}")
    return int(text)


def _check_answer(status: NodeStatus, verdict: Verdict) -> Response:
    observed = status.postgres
    body: JsonObject = {
        "ok": verdict.ok,
        "reason": verdict.reason or None,
        "node": status.node,
        "cluster": status.cluster_name,
        "role": local_role(observed).value,
        "primary": status.primary,
        "term": status.term,
        "timeline": observed.timeline or None,
        "lsn": format_lsn(observed.lsn) if observed.lsn else None,
    }
    return json_answer(body, 200 if verdict.ok else 503)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), error
    body: JsonObject = {"error": error.detail, "status": error.status_code}
    return json_answer(body, error.status_code, error.headers)


async def _internal_error(_request: Request, error: Exception) -> Response:
    body: JsonObject = {"error": f"internal error: {type(error).__name__}", "status": 500}
    return json_answer(body, 500)
