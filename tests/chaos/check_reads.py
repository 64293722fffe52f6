"""What reads on primaries saw, against what was acknowledged or seen before they began.

A read lists the newest rows of its key by the time in the row. It tells how far back its list is
complete, and the client was told the time in the row of everything acknowledged; so whether a
value must be in the list does not depend on anybody's clock.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator

from chaos.facts import Facts, Finding
from chaos.history import Operation, Outcome

COMPLETE_ROWS_MAX = 49  # a shorter list than the limit of a read is complete
NEVER_US = 1 << 62  # a row whose time is not known is looked for in complete lists only


def missing_in_reads(facts: Facts) -> Iterator[Finding]:
    """An acknowledged value is in every later read on a primary.

    "Later" is: begun after the acknowledgement, or after the end of a read on a primary that saw
    it, whichever was first. `vanished` when it is missing at the end too, else
    `stale_primary_read`.
    """
    there = [{value for _, value in rows} for rows in facts.finals.values()]
    for read, missing in _incomplete_reads(facts):
        gone = [value for value in missing if not all(value in values for values in there)]
        check = "vanished" if gone else "stale_primary_read"
        evidence = [facts.describe(read)]
        for value in missing:
            evidence.append(facts.describe(facts.source[value]))
            saw = facts.sightings.get(value, ())
            evidence += [f"first seen by {facts.describe(other)}" for other in saw[:1]]
        text = f"a read on a primary did not show {', '.join(missing[:5])}"
        yield Finding(check, f"{text} ({len(missing)} acknowledged before)", tuple(evidence))


def vanished_unacknowledged(facts: Facts) -> Iterator[Finding]:
    """Notes: values of writes in doubt that a primary showed and that are missing at the end.

    A primary that restarts shows what it committed alone before; no promise was made about it.
    """
    seen: dict[str, Operation] = {}
    for read in _primary_reads(facts):
        for value in read.seen:
            seen.setdefault(value, read)
    for node, rows in sorted(facts.finals.items()):
        there = {value for _, value in rows}
        for value in sorted(set(seen) - there):
            source = facts.source.get(value)
            if source is not None and source.outcome is Outcome.UNKNOWN:
                text = f"{value}, in doubt, was seen on a primary and is not on {node}"
                evidence = (facts.describe(source), facts.describe(seen[value]))
                yield Finding("vanished_unacknowledged", text, evidence)


def _primary_reads(facts: Facts) -> list[Operation]:
    return [read for read in facts.reads if read.role == "primary"]


def _incomplete_reads(facts: Facts) -> Iterator[tuple[Operation, list[str]]]:
    """Yield each read that misses what it must show, with the values."""
    known: dict[tuple[int, str], tuple[float, int]] = {}  # (key, value) → known since, at_us
    for op in facts.acknowledged:
        times = op.at_us or itertools.repeat(NEVER_US, len(op.keys))
        for key, value, at_us in zip(op.keys, op.values, times, strict=True):
            known[key, value] = (op.end, at_us)
    for read in _primary_reads(facts):
        for value in read.seen:
            if (read.keys[0], value) in known:
                since, at_us = known[read.keys[0], value]
                known[read.keys[0], value] = (min(since, read.end), at_us)
    for key in sorted({key for key, _ in known}):
        order = sorted((t, at, value) for (k, value), (t, at) in known.items() if k == key)
        arrivals = iter(order)
        waiting = next(arrivals, None)
        rows: list[tuple[int, str]] = []  # what the reads from here on must show, by time
        for read in _primary_reads(facts):
            if read.keys[0] != key:
                continue
            while waiting is not None and waiting[0] < read.begin:
                bisect.insort(rows, waiting[1:])
                waiting = next(arrivals, None)
            missing = _missing(rows, read)
            if missing:
                yield read, missing


def _missing(rows: list[tuple[int, str]], read: Operation) -> list[str]:
    if read.since_us:
        begin = bisect.bisect_left(rows, (read.since_us + 1, ""))
        end = bisect.bisect_left(rows, (NEVER_US, ""))
        wanted = rows[begin:end]
    elif len(read.seen) <= COMPLETE_ROWS_MAX:
        wanted = rows
    else:
        return []
    seen = set(read.seen)
    return [value for _, value in wanted if value not in seen]
