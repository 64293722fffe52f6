"""A model of a cluster that does everything right, and a way to forge what did not happen.

A good history is made from writes and reads in an order that one primary at a time carried out;
tests then change one thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from chaos.checker import Report, check
from chaos.facts import Limits, Rows
from chaos.history import (
    Final,
    History,
    Kind,
    Left,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Probe,
    Record,
    Recovered,
    Role,
    Run,
)

NODES = ("n1", "n2", "n3")
ADDRESSES = {"n1": "10.77.0.11", "n2": "10.77.0.12", "n3": "10.77.0.13"}
PEACE = 100.0
END = 130.0
READ_ROWS = 50


@dataclass
class Story:
    """Operations as they are told, and the table that they would leave."""

    records: list[Record] = field(default_factory=list)
    rows: list[tuple[int, str, int]] = field(default_factory=list)  # key, value, at_us
    server: str = "n1"
    timeline: int = 1
    number: int = 0

    def write(
        self,
        begin: float,
        *,
        keys: Sequence[int] = (1,),
        outcome: Outcome = Outcome.OK,
        executed: bool | None = None,
        took: float = 0.01,
        via: str = "proxy:n1",
        at_us: int | None = None,
    ) -> Operation:
        """Add one append, or one transaction when there are several keys."""
        values = tuple(f"c1-{self.number + index + 1}" for index in range(len(keys)))
        self.number += len(keys)
        if executed is None:
            executed = outcome is Outcome.OK
        base_us = int(begin * 1e6) if at_us is None else at_us
        times = tuple(base_us + index for index in range(len(keys)))
        if executed:
            self.rows += zip(keys, values, times, strict=True)
        told = outcome is Outcome.OK
        op = Operation(
            t=begin + took,
            client="c1",
            via=via,
            kind=Kind.APPEND if len(keys) == 1 else Kind.TXN,
            keys=tuple(keys),
            values=values,
            begin=begin,
            end=begin + took,
            outcome=outcome,
            server=ADDRESSES[self.server] if told else "",
            timeline=self.timeline if told else 0,
            at_us=times if told else (),
        )
        self.records.append(op)
        return op

    def read(
        self, begin: float, *, key: int = 1, without: Sequence[str] = (), took: float = 0.01
    ) -> Operation:
        """Add a read on the primary; `without` hides values from it."""
        there = sorted((at, value) for k, value, at in self.rows if k == key)
        listed = [(at, value) for at, value in there if value not in without][-READ_ROWS:]
        op = Operation(
            t=begin + took,
            client="c2",
            via="proxy:n2",
            kind=Kind.READ,
            keys=(key,),
            values=(),
            begin=begin,
            end=begin + took,
            outcome=Outcome.OK,
            server=ADDRESSES[self.server],
            timeline=self.timeline,
            seen=tuple(value for _, value in listed),
            role="primary",
            since_us=listed[0][0] if len(listed) == READ_ROWS else 0,
        )
        self.records.append(op)
        return op

    def promote(self, server: str) -> None:
        self.server, self.timeline = server, self.timeline + 1

    def probe(
        self, node: str, at: float, *, in_recovery: bool | None = False, process: str = ""
    ) -> None:
        self.records.append(Probe(at + 0.01, node, at, at + 0.01, in_recovery, process))

    def steady(self, begin: float, end: float, *, every: float = 1.0) -> None:
        """Add acknowledged writes at a steady rate, under a key of their own."""
        for step in range(int((end - begin) / every)):
            self.write(begin + step * every, keys=(7,))


Change = Callable[[Record], "Record | None"]


@dataclass
class Forged:
    """A history that ends well, unless a test changes it."""

    history: History
    finals: dict[str, Rows]

    def judge(self, **limits: float) -> Report:
        return check(self.history, self.finals, Limits(**limits))

    def violated(self, **limits: float) -> set[str]:
        return {finding.check for finding in self.judge(**limits).violations}

    def noted(self) -> set[str]:
        return {finding.check for finding in self.judge().notes}

    def change(self, change: Change) -> Forged:
        """Put every record through `change`; None takes it away."""
        found = [new for record in self.history.records if (new := change(record)) is not None]
        return Forged(replace(self.history, records=tuple(found)), self.finals)

    def add(self, *records: Record) -> Forged:
        found = (*self.history.records, *records)
        return Forged(replace(self.history, records=found), self.finals)

    def without_rows(self, *values: str, nodes: Sequence[str] = NODES) -> Forged:
        finals = dict(self.finals)
        for node in nodes:
            finals[node] = tuple(row for row in finals[node] if row[1] not in values)
        return self._with(finals)

    def with_rows(self, *rows: tuple[int, str], nodes: Sequence[str] = NODES) -> Forged:
        finals = dict(self.finals)
        for node in nodes:
            finals[node] = (*finals[node], *rows)
        return self._with(finals)

    def _with(self, finals: dict[str, Rows]) -> Forged:
        """Let the nodes' own counts agree with the rows."""
        forged = Forged(self.history, finals)
        return forged.change(
            lambda record: (
                replace(record, rows=len(finals[record.n])) if isinstance(record, Final) else record
            )
        )


def finish(story: Story) -> Forged:
    """Return the story with the frame of a run in which all went well, and a quiet peace."""
    story.steady(PEACE, END)
    rows = tuple((key, value) for key, value, _ in story.rows)
    frame: list[Record] = [
        Run(0.0, "3fa1", "forged", 1, "fast", NODES, "2026-01-01T00:00:00Z", 1000.0),
        Phase(PEACE, "peace"),
        Phase(END, "end"),
        Left(END + 9),
    ]
    for node in NODES:
        primary = node == story.server
        role = Role.PRIMARY if primary else Role.STANDBY
        frame += [
            NodeState(PEACE, node, role, timeline=story.timeline),
            Recovered(PEACE + 2, node, 2.0),
            Final(END + 5, node, len(rows), "same", story.timeline, not primary, "ok", "final.txt"),
        ]
    records = sorted([*story.records, *frame], key=lambda record: record.t)
    return Forged(History(tuple(records)), dict.fromkeys(NODES, rows))


def simple() -> Forged:
    """Ten acknowledged writes, a failover, ten more, and reads."""
    story = Story()
    for step in range(10):
        story.write(1.0 + step, keys=(1,))
    story.read(11.0)
    story.promote("n2")
    for step in range(10):
        story.write(21.0 + step, keys=(1, 2) if step % 2 else (1,))
    story.read(32.0)
    return finish(story)


def finals_only(change: Callable[[Final], Final]) -> Change:
    return lambda record: change(record) if isinstance(record, Final) else record
