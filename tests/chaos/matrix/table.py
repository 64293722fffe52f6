"""The matrix as tables: one line a cell, and one small table of all single hits.

In: what came of each cell. Out: Markdown and plain values for JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chaos.matrix.cells import WAYS, Cell, Timed

SETTLE_MS = 3000
"""An election may take so long after two holds, on a machine that is busy."""


def limit_ms(hold_ms: int) -> int:
    """Return the longest outage that is expected: two holds and the time of an election."""
    return 2 * hold_ms + SETTLE_MS


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came of one cell. Times are seconds since the cluster of the run was begun."""

    cell: Cell
    times: tuple[Timed, ...]
    faults: tuple[str, ...]  # in words; fewer than hits if one found nothing to hit
    cluster: int  # number of the cluster that it was played on, from 1
    begin_s: float
    lift_s: float  # when the last hit was lifted
    whole_s: float | None  # from the peace until everybody streamed; None: not within the limit
    outage_s: float  # longest time without an acknowledged write
    blocked_s: float  # all such times of more than half a second
    outage_end_s: float
    quorums: bool  # whether votes and data for a primary were there all the time
    before: str  # primary
    after: str  # "" if there is none
    promoted: bool  # whether a server was promoted
    violations: tuple[str, ...]
    limit_ms: int

    @property
    def judged_ms(self) -> int:
        """Return the outage that counts: without both quorums, what of it came after the hits."""
        counted_s = self.outage_s if self.quorums else self.outage_end_s - self.lift_s
        return max(0, round(min(counted_s, self.outage_s) * 1000))

    @property
    def long(self) -> bool:
        return self.judged_ms > self.limit_ms

    @property
    def broken(self) -> bool:
        """Return whether the cluster must not be used on."""
        return bool(self.violations) or self.whole_s is None or not self.after

    @property
    def ok(self) -> bool:
        return not self.broken and not self.long

    def remarks(self) -> list[str]:
        """Return what there is to say about it, the worst first."""
        found = list(self.violations)
        if self.whole_s is None:
            found.append("NOT WHOLE AGAIN")
        if self.long:
            found.append(f"LONG: {self.judged_ms} ms, {self.limit_ms} expected")
        missed = len(self.times) - len(self.faults)
        if missed:
            found.append(f"{missed} found nothing to hit")
        return found

    def as_json(self) -> dict[str, object]:
        return {
            "cell": self.cell.name,
            "cluster": self.cluster,
            "faults": list(self.faults),
            "begin_s": round(self.begin_s, 3),
            "lift_s": round(self.lift_s, 3),
            "outage_ms": round(self.outage_s * 1000),
            "blocked_ms": round(self.blocked_s * 1000),
            "judged_ms": self.judged_ms,
            "limit_ms": self.limit_ms,
            "quorums": self.quorums,
            "primary_before": self.before,
            "primary_after": self.after or None,
            "promoted": self.promoted,
            "whole_s": self.whole_s,
            "long": self.long,
            "violations": list(self.violations),
            "ok": self.ok,
        }


def line(result: CellResult) -> str:
    """Return a result in one line, for progress."""
    moved = f"{result.before}→{result.after or 'nobody'}" if result.promoted else result.before
    whole = "never" if result.whole_s is None else f"{result.whole_s:.1f} s"
    text = f"outage {round(result.outage_s * 1000)} ms, primary {moved}, whole after {whole}"
    return "; ".join((text, *result.remarks()))


def markdown(results: Iterable[CellResult]) -> str:
    """Return a table with a line for each cell."""
    lines = [
        "| cell | faults | outage ms | both quorums | primary | whole after s | remarks |",
        "|---|---|--:|---|---|--:|---|",
    ]
    for each in results:
        moved = f"{each.before} → {each.after or '–'}" if each.promoted else each.before
        whole = "never" if each.whole_s is None else f"{each.whole_s:.1f}"
        cells = (
            each.cell.name,
            "; ".join(each.faults),
            str(round(each.outage_s * 1000)),
            "yes" if each.quorums else f"no, {each.judged_ms} after them",
            moved,
            whole,
            "; ".join(each.remarks()),
        )
        lines.append(f"| {' | '.join(text.replace('|', '/') for text in cells)} |")
    return "\n".join(lines) + "\n"


def summary(results: Sequence[CellResult]) -> str:
    """Return the single hits as a small table: outages in ms, `*` where a server was promoted.

    Hits of several standbys share a line: the longest outage of them is shown.
    """
    found: dict[tuple[str, str], dict[str, CellResult]] = {}
    for each in results:
        if len(each.cell.hits) == 1:
            (hit,) = each.cell.hits
            row = found.setdefault((hit.role.rstrip("0123456789"), hit.part), {})
            if hit.how not in row or each.outage_s > row[hit.how].outage_s:
                row[hit.how] = each
    ways = [how for how in WAYS if any(how in row for row in found.values())]
    lines = [f"| hit | {' | '.join(ways)} |", f"|---|{'--:|' * len(ways)}"]
    for (role, part), row in found.items():
        shown = [_short(row.get(how)) for how in ways]
        lines.append(f"| {role} {part} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _short(result: CellResult | None) -> str:
    if result is None:
        return ""
    mark = " *" if result.promoted else ""
    return f"{round(result.outage_s * 1000)}{mark}{'' if result.ok else ' **!**'}"
