"""Three agents as real processes with real servers, shared by the tests of one run.

Every test gets the cluster healthy: what an earlier one broke is resumed and restarted first, and
a cluster that does not heal is thrown away for a new one. A failed test shows the processes and
the end of each node's logs.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from harness import ServerMonitor
from writer import steady_writer

from metako.demo.cluster import LocalCluster
from metako.demo.layout import plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.demo.writer import Writer
from metako.model.errors import MetakoError

HEAL_TIMEOUT_S = 60.0
LOG_LINES_ON_FAILURE = 60


def new_cluster(bindir: str | None) -> LocalCluster:
    """Return a cluster in a new directory, not started."""
    os_user = ensure_os_user(print)
    layout = plan_layout(make_directory(), nodes=3, bindir=bindir, os_user=os_user)
    return LocalCluster(layout, say=print)


class SharedCluster:
    """Hands out one healthy cluster, and another one when it is beyond repair."""

    def __init__(self, bindir: str | None, *, keep: bool) -> None:
        self._bindir = bindir
        self._keep = keep
        self._cluster: LocalCluster | None = None

    async def healthy(self) -> LocalCluster:
        if self._cluster is not None:
            try:
                await self._heal(self._cluster)
            except MetakoError as error:
                self._say(f"starting a new cluster: {error}")
                await self.discard()
            else:
                return self._cluster
        self._cluster = new_cluster(self._bindir)
        await self._cluster.start()
        return self._cluster

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    async def _heal(self, cluster: LocalCluster) -> None:
        for node in cluster.nodes:
            cluster.resume(node.name)
        for name in cluster.dead_nodes():
            cluster.start_agent(name)
        await cluster.wait_healthy(timeout_s=HEAL_TIMEOUT_S)

    async def discard(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            return
        await cluster.stop()
        if self._keep:
            self._say(f"kept {cluster.layout.directory}")
        else:
            cluster.remove_directory()

    def describe(self) -> str:
        if self._cluster is None:
            return ""
        logs = self._cluster.describe_logs(LOG_LINES_ON_FAILURE)
        return f"{self._cluster.describe_processes()}\n{logs}"


@pytest.fixture(scope="session")
def shared_cluster(test_bindir: str | None, keep_directories: bool) -> Iterator[SharedCluster]:
    shared = SharedCluster(test_bindir, keep=keep_directories)
    yield shared
    trio.run(shared.discard)


@pytest.fixture
async def cluster(shared_cluster: SharedCluster) -> LocalCluster:
    return await shared_cluster.healthy()


@pytest.fixture
async def writer(cluster: LocalCluster, request: pytest.FixtureRequest) -> AsyncIterator[Writer]:
    async with steady_writer(cluster, request.node.name) as running:
        yield running


@pytest.fixture
async def monitor(cluster: LocalCluster) -> AsyncIterator[ServerMonitor]:
    watching = ServerMonitor(cluster.layout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watching.run)
        yield watching
        nursery.cancel_scope.cancel()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    shared = getattr(item, "funcargs", {}).get("shared_cluster")
    if report.failed and shared is not None:
        report.sections.append(("cluster", shared.describe()))
    return report
