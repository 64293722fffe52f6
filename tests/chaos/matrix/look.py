"""What clients were told while one cell was played, judged at once.

In: the files that the clients write, as they grow, and the primary's rows. Out: the longest time
without an acknowledged write, and what is broken already. It is a first look, so that a violation
is known beside its cell and the cluster is not used on; the checker judges the whole run again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos import check_reads, check_servers
from chaos.facts import Facts, Finding
from chaos.history import History, Operation, Outcome, Record, Run, decode

BLOCKED_S = 0.5
"""A gap that is longer counts as an outage."""
LOST_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest time without an acknowledged write through a proxy."""

    begin_s: float
    end_s: float
    total_s: float  # of all gaps that count as an outage

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s


def run_of(directory: Path) -> Run:
    """Return what the record of a run that goes on says of it, in its first line."""
    with (directory / "rig.jsonl").open(encoding="utf-8") as lines:
        found = decode(lines.readline())
    assert isinstance(found, Run), found
    return found


class Tail:
    """One file that grows: each line is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[Record]:
        """Return the records of lines that have been finished since."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [decode(line.decode()) for line in whole.splitlines()]


class Look:
    """See the module's docstring."""

    def __init__(self, run: Run, parts: Iterable[Path]) -> None:
        self._run = run
        self._tails = [Tail(path) for path in parts]
        self._acknowledged: set[str] = set()  # every value since the run began
        self._operations: list[Operation] = []  # of this cell and of the one before it
        self._cell_from = 0  # where those of this cell begin

    def read(self) -> None:
        """Take in what clients have written since."""
        for tail in self._tails:
            for record in tail.new():
                if isinstance(record, Operation):
                    self._operations.append(record)
                    if record.writes and record.outcome is Outcome.OK:
                        self._acknowledged.update(record.values)

    def next_cell(self) -> None:
        """Forget what is older than the cell that ends here."""
        del self._operations[: self._cell_from]
        self._cell_from = len(self._operations)

    def acknowledged_since(self, begin_s: float) -> bool:
        """Return whether a write that began later has been acknowledged through a proxy."""
        return any(op.begin > begin_s for op in self._acked())

    def gap(self, begin_s: float, end_s: float) -> Gap:
        """Return the longest time without an acknowledgement that reaches into this time."""
        return longest_gap([op.end for op in self._acked()], begin_s, end_s)

    @property
    def expected(self) -> frozenset[str]:
        """Return the values that have to be there from now on."""
        return frozenset(self._acknowledged)

    def findings(self, expected: frozenset[str], rows: Iterable[str]) -> list[Finding]:
        """Return what is broken.

        Args:
            expected: what had been acknowledged before the rows were asked for.
            rows: the values that the primary has.
        """
        missing = sorted(expected.difference(rows))
        found = []
        if missing:
            shown = ", ".join(missing[:LOST_SHOWN_MAX])
            text = f"{len(missing)} acknowledged values are not on the primary: {shown}"
            found.append(Finding("lost", text))
        facts = Facts(History((self._run, *self._operations)), {})
        found += check_servers.two_acknowledge(facts)
        found += check_reads.missing_in_reads(facts)
        return found

    def _acked(self) -> list[Operation]:
        return [
            op for op in self._operations if op.writes and op.by_proxy and op.outcome is Outcome.OK
        ]


def longest_gap(acknowledged: Sequence[float], begin_s: float, end_s: float) -> Gap:
    """Return the longest gap between acknowledgements that reaches into [begin_s, end_s].

    It begins with the acknowledgement before it, and at `begin_s` if there was none; one that has
    not ended lasts until `end_s`.
    """
    times = sorted(acknowledged)
    before = max((t for t in times if t <= begin_s), default=begin_s)
    points = [before, *(t for t in times if begin_s < t < end_s), end_s]
    gaps = list(itertools.pairwise(points))
    begin, end = max(gaps, key=lambda gap: gap[1] - gap[0])
    return Gap(begin, end, sum(b - a for a, b in gaps if b - a > BLOCKED_S))
