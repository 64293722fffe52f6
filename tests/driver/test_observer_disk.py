"""The observer's view of the disk: fresh, or known to be stale, and never stuck."""

from __future__ import annotations

import threading
from typing import cast

import pytest
import trio

from metako.model.ids import DataId, TimelineId
from metako.model.postgres import DataState
from metako.postgres import observe
from metako.postgres.files import DiskView, ServerFiles
from metako.postgres.observe import Observer


class Disk:
    """Stands for the server's files: what it holds, and whether looking at it hangs."""

    def __init__(self) -> None:
        self.state = DataState.EMPTY
        self.released = threading.Event()
        self.released.set()

    def view(self) -> DiskView:
        self.released.wait(5)
        return DiskView(self.state, DataId(""), {}, TimelineId(0))


def observer_of(disk: Disk) -> Observer:
    none = cast("object", None)
    return Observer(
        settings=none,  # type: ignore[arg-type]  # only the disk is looked at
        files=cast("ServerFiles", disk),
        guard=none,  # type: ignore[arg-type]
        reader=none,  # type: ignore[arg-type]
        facts=none,  # type: ignore[arg-type]
    )


async def test_look_that_was_cancelled_at_once_does_not_end_all_later_looks() -> None:
    disk = Disk()
    observer = observer_of(disk)
    with trio.CancelScope() as scope:
        scope.cancel()
        await observer._view_disk()
    assert observer._disk_is_stale
    disk.state = DataState.PRESENT
    await observer._view_disk()
    assert observer._disk.state is DataState.PRESENT
    assert not observer._disk_is_stale


async def test_view_of_a_stalled_disk_is_known_to_be_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observe, "DISK_TIMEOUT_S", 0.01)
    disk = Disk()
    observer = observer_of(disk)
    await observer._view_disk()
    disk.released.clear()
    await observer._view_disk()
    assert observer._disk_is_stale
    disk.state = DataState.PRESENT
    disk.released.set()
    with trio.fail_after(5):
        while observer._disk_is_stale:
            await observer._view_disk()
            await trio.lowlevel.checkpoint()
    assert observer._disk.state is DataState.PRESENT
