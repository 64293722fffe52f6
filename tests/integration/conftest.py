"""Three agents as real processes with real servers, shared by the tests of one run.

A failed test shows the processes and the end of each node's logs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from harness import ServerMonitor, monitored
from shared_cluster import SharedCluster
from writer import steady_writer

from metako.demo.cluster import LocalCluster
from metako.demo.layout import plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.demo.writer import Writer


def new_cluster(bindir: str | None) -> LocalCluster:
    """Return a cluster in a new directory, not started."""
    os_user = ensure_os_user(print)
    layout = plan_layout(make_directory(), nodes=3, bindir=bindir, os_user=os_user)
    return LocalCluster(layout, say=print)


@pytest.fixture(scope="session")
def shared_cluster(test_bindir: str | None, keep_directories: bool) -> Iterator[SharedCluster]:
    shared = SharedCluster(lambda: new_cluster(test_bindir), keep=keep_directories)
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
    async with monitored(cluster) as watching:
        yield watching


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    shared = getattr(item, "funcargs", {}).get("shared_cluster")
    if report.failed and shared is not None:
        report.sections.append(("cluster", shared.describe()))
    return report
