"""Numbers in words, as every command of the simulator shows them.

In: plain values. Out: text. It knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.heap import NS_PER_MS, NS_PER_S

HOUR_S = 3600


def seconds(ns: int) -> str:
    """Return a duration or a moment in seconds, as exact as is useful."""
    return f"{ns / NS_PER_S:.3f} s"


def milliseconds(ms: int) -> str:
    """Return an outage: seconds from one second on."""
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms} ms"


def cpu(ns: int) -> str:
    """Return CPU time."""
    if ns < NS_PER_S:
        return f"{ns // NS_PER_MS} ms"
    return f"{ns / NS_PER_S:.1f} s"


def hours(ns: int) -> str:
    """Return virtual time of many runs."""
    total_s = ns / NS_PER_S
    return f"{total_s / HOUR_S:.1f} h" if total_s >= HOUR_S else f"{total_s / 60:.1f} min"


def ratio(virtual_ns: int, cpu_ns: int) -> str:
    """Return how much faster than real time it went; "-" if nothing was measured."""
    return f"{virtual_ns / cpu_ns:.0f}" if cpu_ns else "-"


def plural(count: int, noun: str) -> str:
    """Return the count and its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def facts(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return labelled values, one a line, aligned; a value of several lines stays in its column."""
    width = max(len(label) for label, _ in rows) + 2
    found = []
    for label, value in rows:
        first, *rest = value.splitlines() or [""]
        found.append(f"  {label:<{width}}{first}".rstrip())
        found += [f"  {'':<{width}}{line}" for line in rest]
    return found


def wrapped(words: Sequence[str], width: int = 84) -> str:
    """Return words separated by commas, in lines of at most `width` characters if they allow it."""
    rows: list[str] = []
    for number, word in enumerate(words, 1):
        part = word if number == len(words) else word + ","
        if rows and len(rows[-1]) + 1 + len(part) <= width:
            rows[-1] += f" {part}"
        else:
            rows.append(part)
    return "\n".join(rows)
