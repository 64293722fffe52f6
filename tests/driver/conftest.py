"""Two servers for the tests of clients that are moved, and certificates for those with TLS."""

from __future__ import annotations

import pytest
from legs_kit import LegServer
from tls_kit import Papers, papers_in

from metako.pgwire.messages import BackendKey


@pytest.fixture
async def server(nursery) -> LegServer:
    """The only one."""
    server = LegServer("a")
    await nursery.start(server.run)
    return server


@pytest.fixture
async def old(nursery) -> LegServer:
    """The first primary."""
    server = LegServer("old")
    await nursery.start(server.run)
    return server


@pytest.fixture
async def new(nursery) -> LegServer:
    """The next one."""
    server = LegServer("new", key=BackendKey(8, b"\0\0\0d"))
    await nursery.start(server.run)
    return server


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return papers_in(tmp_path_factory.mktemp("papers"))
