"""The state at the end, the way there in the peace, and whether there is enough to judge."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

from chaos.facts import Facts, Finding, Limits
from chaos.history import Left, Recovered


def incomplete(facts: Facts) -> Iterator[Finding]:
    """A run of which half is missing has shown nothing."""
    if facts.run is None:
        yield Finding("incomplete", "no first line tells of the run and its nodes")
    if not facts.acknowledged:
        yield Finding("incomplete", "not one write was acknowledged")
    given = Counter(value for op in facts.operations for value in op.values)
    twice = [value for value, count in given.items() if count > 1]
    if twice:
        shown = ", ".join(twice[:5])
        yield Finding("incomplete", f"{len(twice)} values were given more than once: {shown}")
    nodes, witnesses = (facts.run.nodes, facts.run.witnesses) if facts.run else ((), ())
    for node in nodes:
        if node not in facts.final_records and node not in witnesses:
            yield Finding("incomplete", f"nothing is known of {node} at the end")
    for node in sorted(facts.final_records):
        if node not in facts.finals:
            yield Finding("incomplete", f"the rows of {node} at the end were not read")
        elif len(facts.finals[node]) != facts.final_records[node].rows:
            count, rows = len(facts.finals[node]), facts.final_records[node].rows
            yield Finding("incomplete", f"{node} had {rows} rows, its file has {count}")
    if facts.phase("end") is None:
        yield Finding("incomplete", "the run did not come to its end")
    if not facts.history.of(Left):
        yield Finding("incomplete", "nobody looked for what was left behind")


def contents_differ(facts: Facts) -> Iterator[Finding]:
    """All nodes have the same rows, by their hashes and by the rows themselves."""
    hashes = {final.hash for final in facts.final_records.values() if final.hash}
    if len(hashes) > 1:
        evidence = tuple(
            f"{node}: {final.rows} rows, timeline {final.timeline}, hash {final.hash}"
            for node, final in sorted(facts.final_records.items())
        )
        yield Finding("contents_differ", "the nodes have different rows at the end", evidence)
    rows = {node: Counter(found) for node, found in sorted(facts.finals.items())}
    for (one, its), (other, theirs) in itertools.pairwise(rows.items()):
        if its != theirs:
            more = tuple(f"only on {one}: {key} {value}" for key, value in (its - theirs))
            less = tuple(f"only on {other}: {key} {value}" for key, value in (theirs - its))
            yield Finding("contents_differ", f"{one} and {other} have different rows", more + less)


def checksums(facts: Facts) -> Iterator[Finding]:
    for node, final in sorted(facts.final_records.items()):
        if final.checksums.startswith("failed"):
            yield Finding("checksums", f"{node}: {final.checksums}")


def checksums_skipped(facts: Facts) -> Iterator[Finding]:
    """Notes."""
    for node, final in sorted(facts.final_records.items()):
        if not final.checksums.startswith(("ok", "failed")):
            yield Finding("checksums", f"{node}: {final.checksums or 'not looked at'}")


def torn_lines(facts: Facts) -> Iterator[Finding]:
    """Notes: the last line of a writer that was killed."""
    for text in facts.history.torn:
        yield Finding("torn_line", text)


def not_streaming(facts: Facts, limits: Limits) -> Iterator[Finding]:
    """Every node is primary or streams again soon after the faults, and still does at the end."""
    recovered: dict[str, float] = {}  # after the worst of several peaces
    for record in facts.history.of(Recovered):
        recovered[record.n] = max(record.after_s, recovered.get(record.n, 0.0))
    peace = facts.phase("peace")
    for node in facts.run.nodes if facts.run else ():
        after_s = recovered.get(node)
        if after_s is not None and after_s > limits.recover_s:
            text = f"{node} was back {after_s:.1f} s after the faults; {limits.recover_s:g} allowed"
            yield Finding("not_streaming", text)
        elif after_s is None and peace is not None:
            yield Finding("not_streaming", f"{node} never came back after the faults")
    silent = [node for node, final in facts.final_records.items() if not final.streaming]
    if facts.primary is not None:
        silent = [node for node in silent if node != facts.primary]
    elif len(silent) == 1:
        silent = []  # which one was the primary is not told: it may be this one
    for node in sorted(silent):
        yield Finding("not_streaming", f"{node} does not stream at the end")


def left_behind(facts: Facts) -> Iterator[Finding]:
    for left in facts.history.of(Left):
        for what in ("processes", "namespaces", "files"):
            found = getattr(left, what)
            if found:
                yield Finding("left_behind", f"{len(found)} {what} were left", tuple(found))


def unavailable(facts: Facts, limits: Limits) -> Iterator[Finding]:
    """Writes go through a proxy soon after the faults, and on without long gaps.

    Each peace counts that lasts for longer than writes are given to settle; one has to. Only the
    time in which somebody tried counts: clients are stopped before the end is looked at.
    """
    by_proxy = [op for op in facts.operations if op.writes and op.by_proxy]
    tried = max((op.end for op in by_proxy), default=0.0)
    settled = [
        (peace, peace + limits.settle_s, min(tried, end))
        for peace, end in facts.peaces()
        if peace + limits.settle_s < min(tried, end)
    ]
    if not settled and facts.peaces():
        text = f"nobody tried to write later than {limits.settle_s:g} s after the faults"
        yield Finding("incomplete", text)
    for peace, start, stop in settled:
        times = sorted(
            op.end for op in facts.acknowledged if op.by_proxy and start <= op.end <= stop
        )
        points = [start, *times, stop]
        gap_s, begin = max((b - a, a) for a, b in itertools.pairwise(points))
        if gap_s > limits.gap_s:
            tries = [op for op in by_proxy if op.end > begin and op.begin < begin + gap_s]
            yield Finding(
                "unavailable",
                f"no write was acknowledged through a proxy for {gap_s:.1f} s from {begin:.3f} on,"
                f" in the peace since {peace:.3f}; {limits.gap_s:g} allowed",
                tuple(facts.describe(op) for op in tries),
            )
