"""Plays the cells of the matrix, one after the other, on one cluster for as long as it is whole.

In: cells. Out: a result for each, the tables as they grow, and the checker's verdict on each
cluster. A cluster that is not whole after a cell, or on which something is broken, is ended with
its evidence, and the next cell gets a new one.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psycopg
import trio

from chaos.lab import NAMESPACES
from chaos.matrix import cells as grid
from chaos.matrix.cells import Cell
from chaos.matrix.look import Look, run_of
from chaos.matrix.table import CellResult, limit_ms, line, markdown, summary
from chaos.node import RealNode
from chaos.rig import Rig, RigOptions
from chaos.round import RoundResult
from chaos.session import Session
from chaos.verdict import Verdict
from metako.demo.layout import APP_USER, DATABASE
from metako.demo.view import NodeView, active_primary
from metako.model.errors import MetakoError

PRIMARY_LIMIT_S = 30.0
CLIENTS_LIMIT_S = 30.0
"""From the start of the clients until the first write goes through."""
WRITES_LIMIT_S = 10.0
"""After everybody streams again, until a write goes through."""
LOOK_S = 0.1
ROWS_TRIES_MAX = 3
ROWS_TIMEOUT_S = 20
RESULTS, TABLE = "matrix.json", "matrix.md"
_TIME = re.compile(r"\b(\d+\.\d{3})\b")


@dataclass(frozen=True, slots=True)
class MatrixOutcome:
    """What came of all of it."""

    directory: Path
    results: tuple[CellResult, ...]
    verdicts: tuple[Verdict, ...]  # of the clusters, in order
    again: str  # the command that plays a cell by itself, but for its name

    @property
    def ok(self) -> bool:
        played = bool(self.results) and all(result.ok for result in self.results)
        return played and all(verdict.ok for verdict in self.verdicts)

    def as_json(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "directory": str(self.directory),
            "cells": [result.as_json() for result in self.results],
            "clusters": [verdict.as_json() for verdict in self.verdicts],
        }

    def lines(self) -> list[str]:
        found = [markdown(self.results), summary(self.results)]
        for number, verdict in enumerate(self.verdicts, 1):
            if not verdict.ok:
                found += [f"cluster {number}, {verdict.directory}:", verdict.text.rstrip(), ""]
        bad = [result for result in self.results if not result.ok]
        found.append(f"{len(self.results)} cells, {len(bad)} of them with something to look at")
        for result in bad:
            found.append(f"{result.cell.name}: {'; '.join(result.remarks())}")
            found.append(f"    again: {self.again} --only {result.cell.name}")
        found.append(f"evidence: {self.directory}")
        return found


class Matrix:
    """See the module's docstring."""

    def __init__(
        self,
        cells: Sequence[Cell],
        options: RigOptions,
        directory: Path,
        *,
        minutes: float,
        again: str,
        say: Callable[[str], None],
    ) -> None:
        """Prepare to play.

        Args:
            minutes: begin no cell after so long; 0: play all.
            again: the command that plays a cell by itself, but for its name.
        """
        self.outcome: MatrixOutcome | None = None
        self.stopped_by = 0
        self._left = deque(cells)
        self._count = len(cells)
        self._options = options
        self._directory = directory
        self._limit_s = minutes * 60
        self._again = again
        self._say = say
        self._began_s = time.monotonic()
        self._results: list[CellResult] = []
        self._verdicts: list[Verdict] = []

    async def main(self) -> None:
        """Play until every cell was played, the time is up, or a signal comes."""
        while self._left and not self.stopped_by and not self._late():
            number = len(self._verdicts) + 1
            directory = self._directory / f"cluster-{number}"
            directory.mkdir()
            directory.chmod(0o755)
            session = Session(self._options, directory, self._say)
            verdict = await session.run(self._play)
            self.stopped_by = session.stopped_by
            self._verdicts.append(verdict)
            self._attribute(verdict, number)
            self.outcome = MatrixOutcome(
                self._directory, tuple(self._results), tuple(self._verdicts), self._again
            )
            self._write()

    def _late(self) -> bool:
        return bool(self._limit_s) and time.monotonic() - self._began_s > self._limit_s

    async def _play(self, rig: Rig) -> None:
        look = Look(run_of(rig.directory), rig.clients.parts)
        await begun(rig, look)
        while self._left and not self._late():
            cell = self._left[0]
            number = self._count - len(self._left) + 1
            minutes, seconds = divmod(int(time.monotonic() - self._began_s), 60)
            self._say(f"{minutes:3d}:{seconds:02d} {number}/{self._count} {cell.name}")
            result = await self._one(rig, look, cell)
            self._left.popleft()
            self._results.append(result)
            self._say(f"        {'; '.join(result.faults) or 'nothing to hit'}")
            self._say(f"        {line(result)}")
            self._write()
            if failures := rig.clients.failures():
                raise MetakoError(f"clients have failed: {'; '.join(failures)}")
            if result.broken:
                self._say(f"        again: {self._again} --only {cell.name}")
                return

    async def _one(self, rig: Rig, look: Look, cell: Cell) -> CellResult:
        """Play one cell until the cluster is whole again, and judge it."""
        cluster, seed = self._options.cluster, self._options.seed
        before = await rig.cluster.wait_primary(timeout_s=PRIMARY_LIMIT_S)
        nodes = grid.roles(cluster, before.node)
        times = grid.timed(cell, seed, cluster.election.hold_ms)
        begin_s = rig.recorder.now_s()
        played = await rig.play(grid.scenario(cell, times, nodes), seed)
        whole_at_s = rig.recorder.now_s()
        writes = played.recovered_s is None or await _writes(
            rig, look, whole_at_s, limit_s=WRITES_LIMIT_S
        )
        after = active_primary(await rig.cluster.views())
        violations = [] if writes else [f"no write went through within {WRITES_LIMIT_S:g} s"]
        if after is not None:
            violations += await self._findings(rig, look, rig.cluster.node(after.node).name)
        gap = look.gap(begin_s, rig.recorder.now_s())
        look.next_cell()
        return CellResult(
            cell=cell,
            times=times,
            faults=played.faults,
            cluster=len(self._verdicts) + 1,
            begin_s=begin_s,
            lift_s=rig.peace_s,
            whole_s=_rounded(played),
            outage_s=gap.seconds,
            blocked_s=gap.total_s,
            outage_end_s=gap.end_s,
            quorums=grid.quorums_left(cell, cluster, nodes),
            before=before.node,
            after=after.node if after is not None else "",
            promoted=_is_promoted(before, after),
            violations=tuple(violations),
            limit_ms=limit_ms(cluster.election.hold_ms),
        )

    async def _findings(self, rig: Rig, look: Look, primary: str) -> list[str]:
        """Ask the primary for its rows, and return what is broken."""
        look.read()
        expected = look.expected
        (node,) = [node for node in rig.nodes if node.name == primary]
        namespace = NAMESPACES / rig.lab.namespace(primary)
        ask = partial(_values, node, rig.cluster.layout.app_password)
        for tried in range(1, ROWS_TRIES_MAX + 1):
            try:
                rows = await rig.cluster.callers.call(namespace, ask)
                break
            except psycopg.Error as error:
                if tried == ROWS_TRIES_MAX:
                    return [f"{primary} does not tell its rows: {error}"]
                await trio.sleep(1)
        look.read()
        return [f"{found.check}: {found.text}" for found in look.findings(expected, rows)]

    def _attribute(self, verdict: Verdict, cluster: int) -> None:
        """Tell the cells what the checker has found in their time."""
        found = verdict.judged.get("violations")
        for finding in found if isinstance(found, list) else ():
            text = f"{finding['check']}: {finding['text']}"
            match = _TIME.search(" ".join((finding["text"], *finding["evidence"])))
            at_s = float(match[1]) if match else -1.0
            own = [n for n, r in enumerate(self._results) if r.cluster == cluster]
            meant = max((n for n in own if self._results[n].begin_s <= at_s), default=None)
            if meant is not None and text not in self._results[meant].violations:
                result = self._results[meant]
                self._results[meant] = replace(result, violations=(*result.violations, text))

    def _write(self) -> None:
        """Write the tables down; a run that is killed has left those of what it played."""
        found = [result.as_json() for result in self._results]
        text = json.dumps(found, ensure_ascii=False, indent=1) + "\n"
        (self._directory / RESULTS).write_text(text, encoding="utf-8")
        text = f"{summary(self._results)}\n{markdown(self._results)}"
        (self._directory / TABLE).write_text(text, encoding="utf-8")


async def begun(rig: Rig, look: Look) -> None:
    """Wait until clients write: before that nothing is out of order because nobody does.

    Raises:
        MetakoError: none of them does in time.
    """
    if not await _writes(rig, look, 0.0, limit_s=CLIENTS_LIMIT_S):
        raise MetakoError(f"no client has written within {CLIENTS_LIMIT_S:g} s")


async def _writes(rig: Rig, look: Look, since_s: float, *, limit_s: float) -> bool:
    """Return whether a write that begins after `since_s` goes through in time."""
    with trio.move_on_after(limit_s):
        while True:
            look.read()
            if look.acknowledged_since(since_s):
                return True
            await trio.sleep(LOOK_S)
    return False


def _values(node: RealNode, password: str) -> list[str]:
    """Return every value that a server has."""
    with psycopg.connect(
        host=node.layout.host,
        port=node.layout.postgres_port,
        user=APP_USER,
        password=password,
        dbname=DATABASE,
        connect_timeout=ROWS_TIMEOUT_S,
        options=f"-c statement_timeout={ROWS_TIMEOUT_S}s",
    ) as connection:
        return [str(row[0]) for row in connection.execute("select value from chaos")]


def _is_promoted(before: NodeView, after: NodeView | None) -> bool:
    if after is None:
        return False
    return after.node != before.node or after.timeline != before.timeline


def _rounded(played: RoundResult) -> float | None:
    return None if played.recovered_s is None else round(played.recovered_s, 1)
