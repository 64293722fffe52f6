"""The checkpoint before a handover: written where the shutdown would have much to write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio

from metako.model.lsn import Lsn, format_lsn
from metako.postgres.execute import CHECKPOINT_SPARED_BYTES, Executor
from metako.postgres.facts import Facts
from metako.postgres.sessions import Sessions

BEGUN = Lsn(1 << 32)


@dataclass
class Primary:
    """Has written some WAL since its last checkpoint; stands for its sessions as well."""

    written: int
    end: Lsn = BEGUN
    checkpoints: list[str] = field(default_factory=list)  # over which session
    _lent: str = ""

    @asynccontextmanager
    async def any(self) -> AsyncIterator[Primary]:
        self._lent = "kept"
        yield self

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Primary]:
        self._lent = "fresh"
        yield self

    async def row(self, _query: str) -> tuple[object, ...]:
        await trio.lowlevel.checkpoint()
        return self.written, format_lsn(self.end)

    async def run(self, script: str, *, timeout_s: float) -> None:
        await trio.lowlevel.checkpoint()
        assert (script, timeout_s > 60) == ("checkpoint", True)
        self.checkpoints.append(self._lent)
        self.end = Lsn(self.end + 112)


def executor_of(primary: Primary) -> tuple[Executor, Facts]:
    facts, none = Facts(), cast("object", None)
    executor = Executor(
        settings=none,  # type: ignore[arg-type]  # only the server is asked
        files=none,  # type: ignore[arg-type]
        installation=none,  # type: ignore[arg-type]
        guard=none,  # type: ignore[arg-type]
        reader=none,  # type: ignore[arg-type]
        facts=facts,
    )
    executor.sessions = cast("Sessions", primary)
    return executor, facts


@pytest.mark.parametrize(("more", "count"), [(0, 0), (1, 1)])
async def test_a_checkpoint_is_written_where_there_is_much_to_write(more: int, count: int) -> None:
    primary = Primary(CHECKPOINT_SPARED_BYTES + more)
    executor, facts = executor_of(primary)
    await executor.checkpoint("order")
    assert len(primary.checkpoints) == count
    assert (facts.checkpointed, facts.wal_end) == ("order", BEGUN + 112 * count)


async def test_after_a_promotion_a_checkpoint_is_always_written() -> None:
    primary = Primary(0)
    executor, facts = executor_of(primary)
    await executor.checkpoint_promoted()
    assert primary.checkpoints == ["fresh"]  # the kept session is there for the marker
    assert facts.checkpointed == ""
