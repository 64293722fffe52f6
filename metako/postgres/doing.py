"""Which part of the driver does a step, and what it notes of it.

In: one step of the planner. Out: the step done, or an exception with one line of text. It decides
nothing; when a step is begun, abandoned or tried again is the supervisor's.
"""

from __future__ import annotations

from typing import assert_never

import trio

from metako.model.ids import Term
from metako.postgres import commit, steps
from metako.postgres.detach import Detacher
from metako.postgres.execute import Executor
from metako.postgres.facts import Facts
from metako.postgres.rebuild import Rebuilder


class StepDoer:
    """Does one step at a time. If cancelled, the step may have been done in part."""

    def __init__(
        self, executor: Executor, detacher: Detacher, rebuilder: Rebuilder, facts: Facts
    ) -> None:
        self._executor = executor
        self._detacher = detacher
        self._rebuilder = rebuilder
        self._facts = facts

    async def do(self, step: steps.Step) -> None:
        """Do a step; raises what the part of it raises."""
        execute, rebuild = self._executor, self._rebuilder
        match step:
            case steps.InitDb():
                await rebuild.initdb()
            case steps.Clone(upstream=clone_from):
                await rebuild.clone(clone_from)
            case steps.Rewind(upstream=rewind_to):
                await rebuild.rewind(rewind_to)
            case steps.Start(config=config):
                await execute.start(config)
            case steps.Stop(fast=fast, successor=successor, restart=order):
                await execute.stop(fast=fast, successor=successor, restart=order)
            case steps.ApplySettings(config=config):
                if (before := execute.unprotected(config)) is not None:
                    await commit.make_commits_wait(execute, before)
                await execute.apply_settings(config)
            case steps.Detach(promise=promise, prepared=prepared):
                await self._detacher.detach(promise, prepared)
            case steps.MeasurePosition(promise=promise):
                await self._detacher.measure(promise)
            case steps.Promote(term=term, tli=tli):
                await execute.promote(term, tli)
            case steps.EmitMarker(term=term):
                await self._emit_marker(term)
            case steps.SyncBarrier(setting=setting):
                await commit.pass_barrier(execute.sessions.fresh, execute.settings, setting)
                self._facts.barrier = setting
            case steps.Checkpoint(handover=handover):
                await execute.checkpoint(handover)
            case _:
                assert_never(step)

    async def _emit_marker(self, term: Term) -> None:
        facts, execute = self._facts, self._executor
        if facts.marker_since is None:  # else it is tried again, and waited for all the time
            facts.marker_since = trio.current_time()
        await commit.emit_marker(execute.sessions.any, execute.settings, term)
        facts.marker_term, facts.marker_since, facts.commit_blocked = term, None, False
