"""A cluster for one test alone, of whatever shape, and what its nodes say: polled until it is so.

The cluster that tests share has three nodes with data.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import trio

from metako.api.client import fetch_status
from metako.demo.cluster import LocalCluster
from metako.demo.layout import Layout, plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.model.errors import UnreachableError

LOG_LINES_ON_FAILURE = 60
TIMEOUT_S = 60.0
STATUS_TIMEOUT_S = 3.0
POLL_INTERVAL_S = 0.1


@asynccontextmanager
async def own_cluster(
    bindir: str | None,
    *,
    nodes: int,
    keep: bool,
    last_is_witness: bool = False,
    make: Callable[..., LocalCluster] = LocalCluster,
    **changes: object,
) -> AsyncIterator[LocalCluster]:
    """Start a cluster, and end it with everything of it; `changes` are of its layout."""
    layout: Layout = plan_layout(
        make_directory(), nodes=nodes, bindir=bindir, os_user=ensure_os_user(print)
    )
    if last_is_witness:
        layout = replace(
            layout, nodes=(*layout.nodes[:-1], replace(layout.nodes[-1], witness=True))
        )
    cluster = make(replace(layout, **changes), say=print)  # type: ignore[arg-type]
    try:
        await cluster.start()
        yield cluster
    except BaseException:
        sys.stderr.write(cluster.describe_logs(LOG_LINES_ON_FAILURE))
        raise
    finally:
        with trio.CancelScope(shield=True):
            await cluster.stop()
        if not keep:
            cluster.remove_directory()


async def status(cluster: LocalCluster, name: str) -> dict[str, object]:
    """Return what a node's agent shows.

    Raises:
        UnreachableError: it does not answer.
    """
    url = cluster.node(name).api_url
    return await trio.to_thread.run_sync(fetch_status, url, STATUS_TIMEOUT_S)


async def blocked(cluster: LocalCluster, name: str) -> str:
    """Return why a node shows no primary; "" if it does."""
    return str((await status(cluster, name)).get("blocked") or "")


async def eventually(check: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until something is so; an agent may have yet to listen."""
    with trio.move_on_after(TIMEOUT_S):
        while True:
            with suppress(UnreachableError):
                if await check():
                    return
            await trio.sleep(POLL_INTERVAL_S)
    raise AssertionError(f"not within {TIMEOUT_S:g} s: {what}")
