"""The steady client of the integration tests.

It is the demo's own writer: rows are numbered, each is one transaction, the acknowledged ones are
kept in memory, and the connections wander over all proxies. Only the life in a test is added here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from harness import end_writer, wait_writes

from metako.demo.cluster import LocalCluster
from metako.demo.writer import Writer

ROWS_PER_SECOND = 60.0
START_TIMEOUT_S = 20.0


def table_name(test: str) -> str:
    """Return a table of the test's own, so that a shared cluster can be used."""
    return "w_" + re.sub(r"[^a-z0-9_]", "_", test.lower())[:48]


@asynccontextmanager
async def steady_writer(cluster: LocalCluster, test: str) -> AsyncIterator[Writer]:
    """Write from here on; the first rows are acknowledged when this is entered."""
    writer = Writer(cluster.layout, rows_per_second=ROWS_PER_SECOND, table=table_name(test))
    await writer.create_table(timeout_s=START_TIMEOUT_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await wait_writes(writer, timeout_s=START_TIMEOUT_S)
        yield writer
        await end_writer(writer)
