"""What a history says, arranged for the checks, and the shape of what they find."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.history import (
    Fault,
    FaultEnd,
    Final,
    History,
    Kind,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Role,
    Run,
)

Rows = Sequence[tuple[int, str]]

FINDINGS_MAX = 20  # shown of one check; the rest is counted
EVIDENCE_MAX = 8  # lines of one finding
LOOPBACK = ("", "127.0.0.1", "::1")  # a server that was asked from its own host
ADDRESS = "10.77.0.{}"
FIRST_ADDRESS = 11


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    text: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    recover_s: float = 60.0  # from the beginning of the peace until every node streams again
    settle_s: float = 15.0  # from the beginning of the peace until writes must go through
    gap_s: float = 5.0  # longest time without an acknowledged write in the settled peace
    outage_s: float = 0.5  # gaps that the statistics name


class Facts:
    """A history with indexes. Nothing here judges."""

    def __init__(self, history: History, finals: Mapping[str, Rows]) -> None:
        self.history = history
        self.finals = finals
        self.run = next(iter(history.of(Run)), None)
        self.operations = sorted(history.of(Operation), key=lambda op: op.begin)
        self.final_records = {final.n: final for final in history.of(Final)}
        # A value is given once; the checks for values that nobody wrote need its operation.
        self.source = {value: op for op in self.operations for value in op.values}
        self.last_numbers: dict[str, int] = {}  # client → number of its last value
        for value in self.source:
            client, number = split_value(value)
            self.last_numbers[client] = max(number, self.last_numbers.get(client, 0))
        self.acknowledged = [op for op in self.operations if op.writes and op.outcome is Outcome.OK]
        self.reads = [
            op for op in self.operations if op.kind is Kind.READ and op.outcome is Outcome.OK
        ]
        self.sightings: dict[str, list[Operation]] = {}  # value → reads that saw it
        for read in self.reads:
            for value in read.seen:
                self.sightings.setdefault(value, []).append(read)
        self.primary = self._final_primary()
        nodes = self.run.nodes if self.run else ()
        self._names = {
            ADDRESS.format(number): node for number, node in enumerate(nodes, FIRST_ADDRESS)
        }
        self._faults = _fault_spans(history)

    def _final_primary(self) -> str | None:
        roles: dict[str, NodeState] = {}
        for state in self.history.of(NodeState):
            roles[state.n] = state
        found = [state for state in roles.values() if state.role is Role.PRIMARY]
        return max(found, key=lambda state: state.timeline).n if found else None

    def server(self, op: Operation) -> str:
        """Return the node whose server answered: a proxy may ask its own by loopback."""
        if op.server in LOOPBACK:
            return op.via.partition(":")[2]
        return self._names.get(op.server, op.server)

    def phase(self, name: str) -> float | None:
        return next((phase.t for phase in self.history.of(Phase) if phase.name == name), None)

    def peaces(self) -> tuple[tuple[float, float], ...]:
        """Return when there were no faults: from each peace to the phase after it."""
        phases = sorted(self.history.of(Phase), key=lambda phase: phase.t)
        begins = [(phase.t, phase.name) for phase in phases] + [(math.inf, "")]
        pairs = itertools.pairwise(begins)
        return tuple((begin, end) for (begin, name), (end, _) in pairs if name == "peace")

    def faults_between(self, begin: float, end: float) -> tuple[str, ...]:
        return tuple(text for on, off, text in self._faults if on <= end and off >= begin)

    def describe(self, op: Operation) -> str:
        what = ", ".join(
            f"{value} (key {key})" for key, value in zip(op.keys, op.values, strict=False)
        )
        parts = [
            f"{op.begin:.3f}–{op.end:.3f}",
            f"{op.client} via {op.via} {op.kind}",
            what or f"key {', '.join(map(str, op.keys))}: {len(op.seen)} values",
            str(op.outcome),
        ]
        if op.server or op.timeline:
            parts.append(f"answered by {self.server(op)} {op.role} timeline {op.timeline}")
        parts += [text for text in (op.warning, op.error) if text]
        return "; ".join(" ".join(part.split()) for part in parts)


def split_value(value: str) -> tuple[str, int]:
    """Return the client and the number of a value; number 0 when it has none."""
    client, _, number = value.rpartition("-")
    return (client, int(number)) if number.isdecimal() and number.isascii() else (value, 0)


def _fault_spans(history: History) -> list[tuple[float, float, str]]:
    """Return when each fault was on. One that nothing ended is a blow, as a kill."""
    ends = {end.id: end.t for end in history.of(FaultEnd)}
    return [
        (fault.t, ends.get(fault.id, fault.t + (fault.for_s or 0.0)), fault.text)
        for fault in history.of(Fault)
    ]


def shorten(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield at most FINDINGS_MAX of each check, and how many more there were."""
    for check, group in itertools.groupby(
        sorted(findings, key=lambda finding: finding.check), key=lambda finding: finding.check
    ):
        found = list(group)
        for finding in found[:FINDINGS_MAX]:
            cut = finding.evidence[:EVIDENCE_MAX]
            if len(finding.evidence) > len(cut):
                cut += (f"… and {len(finding.evidence) - len(cut)} more",)
            yield Finding(check, finding.text, cut)
        if len(found) > FINDINGS_MAX:
            yield Finding(check, f"… and {len(found) - FINDINGS_MAX} more")
