"""The cluster of one run: `LocalCluster`, but each node in a network namespace with an address.

In: a lab with the namespaces, a directory. Out: agents that run inside, and views of them that no
fault of the network hides, because they are asked for from inside as well.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from chaos.inside import Callers
from chaos.lab import NAMESPACES, Lab
from chaos.wallclock import WallClock
from metako.api.client import fetch_status
from metako.demo.cluster import LocalCluster
from metako.demo.layout import Layout, NodeLayout
from metako.demo.view import STATUS_TIMEOUT_S, NodeView, read_view
from metako.model.errors import UnreachableError
from sim.scenario import Cluster

GOSSIP_PORT = 7400
POSTGRES_PORT = 5432
PROXY_PORT = 6432
API_PORT = 7480
NETWORK = "10.77.0.0/24"


def plan(
    lab: Lab,
    directory: Path,
    wanted: Cluster,
    *,
    os_user: str | None,
) -> Layout:
    """Return the layout of a cluster in the lab, with fresh secrets."""
    return Layout(
        directory=directory,
        nodes=tuple(
            NodeLayout(
                name,
                directory / name,
                GOSSIP_PORT,
                POSTGRES_PORT,
                PROXY_PORT,
                API_PORT,
                lab.address(name),
                str(directory / f"{name}-bin"),
                name in wanted.witnesses,
                name in wanted.learners,
                name in wanted.never_lead,
            )
            for name in wanted.names
        ),
        gossip_key=base64.b64encode(secrets.token_bytes(32)).decode(),
        app_password=secrets.token_hex(8),
        replication_password=secrets.token_hex(16),
        os_user=os_user,
        timing=wanted.timing,
        timing_ms=tuple(wanted.timing_changes_ms.items()),
        durability=str(wanted.durability),
        acks=wanted.acks,
        pair_mode=str(wanted.pair_mode) if wanted.is_pair and wanted.pair_mode else None,
        takeover_delay_ms=wanted.takeover_wait_ms,
        clients=NETWORK,
    )


class LabCluster(LocalCluster):
    """See the module's docstring."""

    def __init__(
        self,
        layout: Layout,
        lab: Lab,
        *,
        walls: Mapping[str, WallClock],
        say: Callable[[str], None],
    ) -> None:
        """Describe a cluster in a lab; `walls` are the clocks that the nodes' agents see."""
        super().__init__(layout, say=say)
        self.lab = lab
        self._walls = walls
        self.callers = Callers()

    def launch_argv(self, name: str, argv: list[str]) -> list[str]:
        """Run the agent inside of its namespace."""
        return self.lab.argv(name, argv)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a node's agent, which sees the node's own wall clock."""
        environment = super().environment(name)
        return {**environment, **self._walls[name].python_environment(environment["PYTHONPATH"])}

    def runs_agent(self, name: str) -> bool:
        agent = self._agents.get(name)
        return agent is not None and agent.poll() is None

    async def views(self) -> dict[str, NodeView]:
        """Return the views of those nodes that answer, asked side by side."""
        found: dict[str, NodeView] = {}
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(self._view, node, found)
        return {node.name: found[node.name] for node in self.nodes if node.name in found}

    async def _view(self, node: NodeLayout, found: dict[str, NodeView]) -> None:
        ask = partial(fetch_status, node.api_url, STATUS_TIMEOUT_S)
        try:
            raw = await self.callers.call(NAMESPACES / self.lab.namespace(node.name), ask)
        except (UnreachableError, OSError):
            return
        found[node.name] = read_view(raw)
