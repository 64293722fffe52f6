"""Claims about a running cluster, and a witness that watches its servers all the time.

`ServerMonitor` asks every server directly, past all proxies and agents, whether it is in recovery,
about twenty times a second, and remembers when it asked and when the answer came. From that follow
claims that hold whatever the agents believe. The claims raise AssertionError with what was seen.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from metako.demo.client import ClientError, PgClient, ServerError
from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER, DATABASE, Layout, NodeLayout
from metako.demo.writer import Writer, compare, rows_on

SAMPLE_INTERVAL_S = 0.05
SAMPLE_TIMEOUT_S = 0.4
ROWS_TIMEOUT_S = 20.0
CATCH_UP_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of one server. `writable` is None when it gave none."""

    node: str
    asked_s: float
    answered_s: float
    writable: bool | None


def two_writable(samples: Iterable[Sample]) -> str | None:
    """Return a proof that two servers were out of recovery at the same time, or None.

    A server that said so twice in a row was so all the time between the two answers. If another
    one said so strictly in between, both were.
    """
    by_node: dict[str, list[Sample]] = {}
    for sample in samples:
        by_node.setdefault(sample.node, []).append(sample)
    for node, own in by_node.items():
        for before, after in itertools.pairwise(sorted(own, key=lambda s: s.asked_s)):
            if not (before.writable and after.writable):
                continue
            for other, theirs in by_node.items():
                for between in theirs if other != node else ():
                    if (
                        between.writable
                        and before.answered_s < between.asked_s
                        and between.answered_s < after.asked_s
                    ):
                        return f"{node} and {other} both: {before} {between} {after}"
    return None


async def connect_directly(
    layout: Layout, node: NodeLayout, *, timeout_s: float = SAMPLE_TIMEOUT_S
) -> PgClient:
    """Return a connection to the node's own server."""
    return await PgClient.connect(
        node.host,
        node.postgres_port,
        user=APP_USER,
        password=layout.app_password,
        database=DATABASE,
        timeout_s=timeout_s,
    )


class ServerMonitor:
    """Watches all servers of a cluster while `run` runs."""

    def __init__(self, layout: Layout) -> None:
        self.samples: list[Sample] = []
        self._layout = layout

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self._layout.nodes:
                nursery.start_soon(self._watch, node)

    async def _watch(self, node: NodeLayout) -> None:
        client: PgClient | None = None
        try:
            while True:  # ends with the test's nursery
                asked_s = time.monotonic()
                writable: bool | None = None
                with suppress(ClientError, ServerError):
                    if client is None or client.closed:
                        client = await connect_directly(self._layout, node)
                        asked_s = time.monotonic()
                    result = await client.query(
                        "select pg_is_in_recovery()", timeout_s=SAMPLE_TIMEOUT_S
                    )
                    writable = result.rows[0][0] == "f"
                self.samples.append(Sample(node.name, asked_s, time.monotonic(), writable))
                await trio.sleep(SAMPLE_INTERVAL_S)
        finally:
            if client is not None:
                client.close()

    def assert_never_two_writable(self) -> None:
        assert any(sample.writable for sample in self.samples), "no server was ever asked"
        proof = two_writable(self.samples)
        assert proof is None, proof


@asynccontextmanager
async def monitored(cluster: LocalCluster) -> AsyncIterator[ServerMonitor]:
    """Watch all servers of a cluster until this is left."""
    watching = ServerMonitor(cluster.layout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watching.run)
        yield watching
        nursery.cancel_scope.cancel()


async def wait_writes(writer: Writer, *, timeout_s: float, rows: int = 5) -> float:
    """Wait for `rows` more acknowledgements; return how long it took, in seconds."""
    since_s = time.monotonic()
    while writer.record.count_after(since_s) < rows:
        assert time.monotonic() - since_s < timeout_s, (
            f"no {rows} writes within {timeout_s} s; {writer.record.last_errors[-5:]}"
        )
        await trio.sleep(0.05)
    return time.monotonic() - since_s


async def end_writer(writer: Writer) -> None:
    writer.stop()
    with trio.fail_after(ROWS_TIMEOUT_S):
        await writer.finished.wait()


async def assert_rows_exactly_once(cluster: LocalCluster, writer: Writer) -> None:
    """End the writer; every acknowledged row is on the primary once, and soon on each standby."""
    await end_writer(writer)
    assert writer.record.acknowledged, "nothing was written"
    primary = await cluster.wait_primary(timeout_s=ROWS_TIMEOUT_S)
    node = cluster.node(primary.node)
    found = await rows_on(cluster.layout, node, writer.table, timeout_s=ROWS_TIMEOUT_S)
    result = compare(found, writer.record.acknowledged, writer.record.unknown)
    assert result.right, (result, writer.record.last_errors[-10:])
    for standby in cluster.nodes:
        if standby.name != primary.node and standby.name in await cluster.views():
            await _wait_same_rows(cluster, standby, writer.table, sorted(found))


async def _wait_same_rows(
    cluster: LocalCluster, node: NodeLayout, table: str, wanted: Sequence[int]
) -> None:
    deadline_s = time.monotonic() + CATCH_UP_TIMEOUT_S
    seen: object = None
    while time.monotonic() < deadline_s:
        try:
            rows = await rows_on(cluster.layout, node, table, timeout_s=ROWS_TIMEOUT_S)
        except (ClientError, ServerError) as error:
            seen = error
        else:
            if sorted(rows) == wanted:
                return
            seen = f"{len(rows)} rows, {sorted(set(wanted) ^ set(rows))[:20]} differ"
        await trio.sleep(0.1)
    raise AssertionError(f"{node.name} does not show the primary's rows: {seen}")


def assert_no_orphans(cluster: LocalCluster) -> None:
    left = cluster.describe_processes()
    assert not left, f"processes are left:\n{left}"


async def run_metako(
    *arguments: str, cwd: Path, stdin: bytes = b"", timeout_s: float = COMMAND_TIMEOUT_S
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own and return its result."""
    with trio.fail_after(timeout_s):
        return await trio.run_process(
            [sys.executable, "-m", "metako", *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=cwd,
        )
