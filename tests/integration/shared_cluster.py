"""One cluster for the tests of a run, or of a file.

Every test gets the cluster healthy: what an earlier one broke is resumed and restarted first, and
a cluster that does not heal is thrown away for a new one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from metako.demo.cluster import LocalCluster
from metako.model.errors import MetakoError

HEAL_TIMEOUT_S = 60.0
LOG_LINES_ON_FAILURE = 60


class SharedCluster:
    """Hands out one healthy cluster, and another one when it is beyond repair."""

    def __init__(self, make: Callable[[], LocalCluster], *, keep: bool) -> None:
        """Describe it; `make` returns a cluster in a new directory, not started."""
        self._make = make
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
        self._cluster = self._make()
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
