"""The agent's HTTP services: the API on its port, and the socket that takes orders.

In: the node that answers, its configuration, and connections that came to the gossip port where
both share it. Out: answers, until the stop event.

This is the only module of `runtime` that loads HTTP. It is loaded once the node takes part in the
agreement, so nothing that a node needs before that belongs here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial

import trio

from metako.api.app import StatusSource
from metako.api.orders import OrderSink
from metako.api.server import serve_agent_socket, serve_api, serve_streams
from metako.config import NodeConfig
from metako.runtime.paths import agent_socket

ServeHttp = Callable[..., Coroutine[object, object, None]]
"""What `serve_http` is, for those that have yet to load it."""


async def serve_http(
    source: StatusSource,
    orders: OrderSink,
    config: NodeConfig,
    streams: trio.MemoryReceiveChannel[trio.SocketStream],
    *,
    stop: trio.Event,
) -> None:
    """Serve the API and the agent's socket until `stop` is set.

    If cancelled, every connection and the listening sockets are closed before this returns.

    Args:
        source: whose status is shown.
        orders: takes those that come by the agent's socket.
        config: says where to listen.
        streams: connections that another listener passes on, if API and gossip share a port.
        stop: ends the service within `api.server.GRACEFUL_TIMEOUT_S`.

    Raises:
        MetakoError: a port or the socket cannot be listened on.
    """
    api = config.api.listen
    async with trio.open_nursery() as nursery:
        if config.gossip.shares_api_port:
            nursery.start_soon(partial(serve_streams, source, streams, stop=stop))
        else:
            nursery.start_soon(partial(serve_api, source, api.host, api.port, stop=stop))
        # Always a socket of its own: orders are never taken from a port that others can reach.
        path = agent_socket(config)
        nursery.start_soon(partial(serve_agent_socket, source, orders, path, stop=stop))
