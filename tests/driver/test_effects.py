"""What carrying out a step does when the machine refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import pytest

from metako.cluster.engine import blank_hard_state
from metako.model.errors import FencedError
from metako.model.ids import NodeId
from metako.observability.metrics import EventCounter
from metako.proxy.control import RoutingFeed
from metako.runtime.effects import NodeEffects
from metako.runtime.history import HistoryBook
from metako.runtime.store import open_store
from metako.runtime.transport import Transport
from metako.runtime.witness import NoPostgres


async def test_a_record_that_cannot_be_written_ends_the_node_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = open_store(tmp_path / "record", NodeId("a"))
    effects = NodeEffects(
        store=store,
        transport=cast("Transport", None),
        postgres=NoPostgres(),
        fence=None,
        feed=RoutingFeed(),
        counter=EventCounter(),
        history=HistoryBook(tmp_path),
    )
    await effects.persist(blank_hard_state(NodeId("a")))

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(FencedError, match="No space left on device") as caught:
        await effects.persist(blank_hard_state(NodeId("a"), 2))
    assert "\n" not in str(caught.value)
    store.close()
