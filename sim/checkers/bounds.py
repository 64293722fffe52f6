"""Bounds: messages, queues and records stay small; no data but ours serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.durable import HardState
from metako.model.ids import NodeId
from metako.model.postgres import DataState, ProcessState
from metako.wire.codec import encode_hard_state
from metako.wire.messages import Outbound
from sim.agent import INBOX_MAX, LOCAL_MAX
from sim.network import Fate
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

MESSAGES_PER_SECOND_MAX = 400
"""Of one node, for each peer it has."""
ANSWERS_MAX = 2
"""To one message: the answer, and a document that its sender lacks."""
RECORD_BYTES_MAX = 16_000
"""Of a durable record; the encoder refuses a little more."""


class Bounds(Watcher):
    """See the module's docstring."""

    name = "bounds"

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: dict[NodeId, int] = dict.fromkeys(world.names, 0)
        self._waited: dict[NodeId, int] = dict.fromkeys(world.names, 0)  # inputs, since a second
        self._samples = 0
        self._records = 0
        self._systems: dict[NodeId, int] = {}  # identifier of the data that a node has or last had

    # ------------------------------------------------------------ messages and queues

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        self._sent[node.name] += 1

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        self._samples += 1
        for node in nodes:
            if node.agent is not None:
                self._waited[node.name] = max(self._waited[node.name], node.agent.waiting)
        if self._samples % 10:
            return
        of_itself = MESSAGES_PER_SECOND_MAX * max(1, len(nodes) - 1)
        for node in nodes:
            # One that stood still answers at once what others have sent in all that time.
            limit = of_itself + ANSWERS_MAX * self._waited[node.name]
            if self._sent[node.name] > limit:
                raise ViolationError(
                    "too_much",
                    f"{node.name} sent {self._sent[node.name]} messages in a second",
                    (node.name,),
                )
            agent = node.agent
            self._sent[node.name] = 0
            self._waited[node.name] = agent.waiting if agent is not None else 0
            if agent is not None and agent.longest_inbox > INBOX_MAX + LOCAL_MAX:
                raise ViolationError(
                    "too_much", f"{agent.longest_inbox} inputs wait in {node.name}", (node.name,)
                )

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        self._records += 1
        if self._records % 16 == 0 and len(encode_hard_state(hard)) > RECORD_BYTES_MAX:
            raise ViolationError(
                "too_much", f"the record of {node.name} is too large", (node.name,)
            )

    def engine_failed(self, node: Processes, error: Exception) -> None:
        raise ViolationError(
            "engine", f"{node.name}: {type(error).__name__}: {error}", (node.name,)
        ) from error

    # ------------------------------------------------------------ data

    def server_changed(self, server: SimServer) -> None:
        data = server.data
        self._check_replaced(server)
        if data is None or server.process is not ProcessState.RUNNING:
            return
        if data.mixed or server.data_state is DataState.TAINTED:
            raise ViolationError(
                "foreign_served", f"{server.node} runs on a half-rewound directory", (server.node,)
            )
        document = self._world.document()
        foreign = document is not None and document.system_id not in (0, data.system_id)
        if foreign and server.writable:
            raise ViolationError(
                "foreign_served", f"{server.node} serves data of another system", (server.node,)
            )

    def _check_replaced(self, server: SimServer) -> None:
        """Raise if a node's own agent has put our data in the place of another system's."""
        data, before = server.data, self._systems.get(server.node, 0)
        if data is None or data.system_id == before:
            return
        self._systems[server.node] = data.system_id
        document = self._world.document()
        ours = document is not None and data.system_id == document.system_id
        if before and ours and self._world.nodes[server.node].agent_up:
            raise ViolationError(
                "foreign_replaced",
                f"{server.node} had data of another system, which are gone",
                (server.node,),
            )
