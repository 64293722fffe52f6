"""What carrying out a step does when the machine refuses."""

from __future__ import annotations

import errno
from typing import cast

import pytest

from metako.cluster.engine import blank_hard_state
from metako.model.durable import HardState
from metako.model.errors import FencedError
from metako.model.ids import NodeId
from metako.observability.metrics import EventCounter
from metako.proxy.control import RoutingFeed
from metako.runtime.effects import NodeEffects
from metako.runtime.store import HardStateStore
from metako.runtime.transport import Transport
from metako.runtime.witness import NoPostgres


class FullDisk:
    """Stands for a record on a disk without room."""

    async def persist(self, state: HardState) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_record_that_cannot_be_written_ends_the_node_with_one_line() -> None:
    effects = NodeEffects(
        store=cast("HardStateStore", FullDisk()),
        transport=cast("Transport", None),
        postgres=NoPostgres(),
        fence=None,
        feed=RoutingFeed(),
        counter=EventCounter(),
    )
    with pytest.raises(FencedError, match="No space left on device") as caught:
        await effects.persist(blank_hard_state(NodeId("a")))
    assert "\n" not in str(caught.value)
