"""One run in words and as JSON.

In: a `Result`, how it was called for, and the CPU time that it took. Out: lines, or plain values.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from metako.cli.output import printable
from sim.cli import words
from sim.result import Result, Violation

MARKS_SHOWN = 12
FAULTS_SHOWN = 12
OUTAGES_SHOWN = 6


def lines(
    result: Result, *, cpu_ns: int, faults: Sequence[str], hints: Sequence[str], verbose: bool
) -> list[str]:
    """Return a run as lines.

    Args:
        faults: the concrete faults, one a text.
        hints: what to type next.
        verbose: leave nothing out.
    """
    title = f"{printable(result.scenario)}, seed {result.seed}: "
    violation = result.violation
    if violation is None:
        found = [title + "ok"]
    else:
        # A run that ended in an exception does not say when.
        when = f" at {words.seconds(violation.at_ns)}" if violation.at_ns else ""
        found = [f"{title}VIOLATION of {violation.check}{when}"]
        found += [f"  {line}" for line in violation.text.splitlines()]
        if violation.nodes:
            found.append(f"  concerns {', '.join(violation.nodes)}")
        found.append("")
    rows = [
        ("played", _played(result, cpu_ns)),
        ("elections", f"{result.elections}; {words.plural(result.failovers, 'failover')}"),
        ("commits", f"{result.acknowledged} acknowledged, {result.unknown} of unknown outcome"),
        ("outages", _outages(result.outages_ms, verbose=verbose)),
        ("faults", _cut(faults, 10**9 if verbose else FAULTS_SHOWN)),
        ("marks", _marks(result.marks, verbose=verbose)),
    ]
    if verbose:
        rows.append(("messages", f"{result.messages}; {words.plural(result.events, 'event')}"))
        rows.append(("digest", result.digest or "-"))
    found += words.facts(rows)
    if hints:
        found += ["", "next:", *(f"  {hint}" for hint in hints)]
    return found


def as_json(result: Result, *, cpu_ns: int, faults: Sequence[object]) -> dict[str, object]:
    """Return a run in plain values."""
    return {
        "ok": result.ok,
        "scenario": result.scenario,
        "seed": result.seed,
        "violation": violation_json(result.violation),
        "virtual_ns": result.virtual_ns,
        "cpu_ns": cpu_ns,
        "elections": result.elections,
        "failovers": result.failovers,
        "acknowledged": result.acknowledged,
        "unknown": result.unknown,
        "messages": result.messages,
        "events": result.events,
        "outages_ms": list(result.outages_ms),
        "marks": {mark: result.marks[mark] for mark in sorted(result.marks)},
        "faults": list(faults),
        "digest": result.digest,
    }


def violation_json(violation: Violation | None) -> dict[str, object] | None:
    """Return a violation in plain values."""
    if violation is None:
        return None
    return {
        "check": violation.check,
        "text": violation.text,
        "at_ns": violation.at_ns,
        "nodes": list(violation.nodes),
    }


def run_command(
    scenario: str, seed: int, *, extra_faults: bool, mutation: str | None, more: str = ""
) -> str:
    """Return the command that plays a run again."""
    parts = ["python -m sim run", shlex.quote(scenario), f"--seed {seed}"]
    if extra_faults:
        parts.append("--extra-faults")
    if mutation is not None:
        parts.append(f"--mutation {shlex.quote(mutation)}")
    if more:
        parts.append(more)
    return " ".join(parts)


def _played(result: Result, cpu_ns: int) -> str:
    speed = f"{words.ratio(result.virtual_ns, cpu_ns)} times as fast as real time"
    return f"{words.seconds(result.virtual_ns)} in {words.cpu(cpu_ns)} of CPU time, {speed}"


def _outages(outages_ms: Sequence[int], *, verbose: bool) -> str:
    if not outages_ms:
        return "none"
    shown = [words.milliseconds(each) for each in outages_ms]
    if verbose or len(shown) <= OUTAGES_SHOWN:
        return words.wrapped(shown)
    longest = words.milliseconds(max(outages_ms))
    return f"{', '.join(shown[:OUTAGES_SHOWN])} … ({len(shown)} in all, the longest {longest})"


def _marks(marks: Mapping[str, int], *, verbose: bool) -> str:
    reached = [f"{mark} ×{marks[mark]}" if marks[mark] > 1 else mark for mark in sorted(marks)]
    if not reached:
        return "none"
    if verbose or len(reached) <= MARKS_SHOWN:
        return words.wrapped(reached)
    more = f"… {len(reached) - MARKS_SHOWN} more (--verbose)"
    return f"{words.wrapped(reached[:MARKS_SHOWN])}\n{more}"


def _cut(texts: Sequence[str], most: int) -> str:
    if not texts:
        return "none"
    shown = [printable(text) for text in texts[:most]]
    if len(texts) > most:
        shown.append(f"… {len(texts) - most} more (--verbose)")
    return "\n".join(shown)
