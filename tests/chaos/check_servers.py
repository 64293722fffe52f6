"""Which servers acknowledged writes, and which said that they could.

An acknowledgement proves that its server was the primary of its timeline at some moment between
the operation's begin and end. So a server *reigned* on a timeline for certain from the earliest
end to the latest begin of what it acknowledged there. Nothing here trusts a clock of a server.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.facts import Facts, Finding
from chaos.history import Operation, Probe

UNNAMED_GAP_S_MAX = 1.0  # between two answers of a server whose process is not named


@dataclass(frozen=True, slots=True)
class Reign:
    """Everything that one server acknowledged on one timeline."""

    server: str
    timeline: int
    first: Operation  # of the earliest end
    last: Operation  # of the latest begin

    @property
    def begin(self) -> float:
        return self.first.end

    @property
    def end(self) -> float:
        return self.last.begin

    def __str__(self) -> str:
        return f"{self.server} on timeline {self.timeline}"


def reigns(facts: Facts) -> list[Reign]:
    """Return all reigns, those of newer timelines last."""
    groups: dict[tuple[int, str], list[Operation]] = {}
    for op in facts.acknowledged:
        if op.timeline:  # an answer that tells none proves nothing here
            groups.setdefault((op.timeline, facts.server(op)), []).append(op)
    return [
        Reign(
            server,
            timeline,
            min(found, key=lambda op: op.end),
            max(found, key=lambda op: op.begin),
        )
        for (timeline, server), found in sorted(groups.items())
    ]


def two_acknowledge(facts: Facts) -> Iterator[Finding]:
    """At any time one server acknowledges, and timelines only grow."""
    for one, other in itertools.combinations(reigns(facts), 2):
        proof = [one.first, one.last, other.first, other.last]
        begin, end = max(one.begin, other.begin), min(one.end, other.end)
        if one.timeline == other.timeline:
            text = f"{one} and {other} both acknowledged writes on the same timeline"
        elif one.server != other.server and begin < end:
            text = f"{one} and {other} both reigned from {begin:.3f} to {end:.3f}"
        elif one.end > other.begin:
            text = f"{one} acknowledged a write that began after one by {other} had ended"
            proof = [other.first, one.last]
        else:
            continue
        yield Finding("two_acknowledge", text, tuple(facts.describe(op) for op in proof))


@dataclass(frozen=True, slots=True)
class Span:
    """A server was out of recovery all the time between two answers of one process of it."""

    begin: float
    end: float


def spans(probes: Sequence[Probe]) -> list[Span]:
    """Return when one server was writable for certain; its probes must be in order.

    A process that says so twice was so in between: only a new start brings a server back into
    recovery. When the probes do not name the process, two answers count that leave no time for a
    restart, a promotion elsewhere and one back.
    """
    found: list[Span] = []
    last: Probe | None = None  # the one that ends the newest span
    for before, after in itertools.pairwise(probes):
        if before.in_recovery is not False or after.in_recovery is not False:
            continue
        if before.process != after.process or before.answered >= after.asked:
            continue
        if not before.process and after.asked - before.answered > UNNAMED_GAP_S_MAX:
            continue
        begin = found.pop().begin if found and last is before else before.answered
        found.append(Span(begin, after.asked))
        last = after
    return found


def _probes_by_node(facts: Facts) -> Mapping[str, list[Probe]]:
    by_node: dict[str, list[Probe]] = {}
    for probe in sorted(facts.history.of(Probe), key=lambda probe: probe.asked):
        by_node.setdefault(probe.n, []).append(probe)
    return by_node


def both_writable(facts: Facts) -> Iterator[Finding]:
    """Notes: two servers said that they were out of recovery at the same time.

    That alone breaks nothing: a deposed primary that no standby follows can commit nothing.
    """
    by_node = _probes_by_node(facts)
    for node, own in by_node.items():
        for span in spans(own):
            for other, theirs in by_node.items():
                inside = [
                    probe
                    for probe in (theirs if other != node else ())
                    if probe.in_recovery is False
                    and span.begin < probe.asked
                    and probe.answered < span.end
                ]
                if inside:
                    text = (
                        f"{node} was out of recovery from {span.begin:.3f} to {span.end:.3f},"
                        f" and so was {other} {len(inside)} times, the first"
                        f" {inside[0].asked:.3f}–{inside[0].answered:.3f}"
                    )
                    yield Finding("two_writable", text, _acknowledged_in(facts, span))


def two_writable(facts: Facts) -> Iterator[Finding]:
    """While two servers are out of recovery for certain, at most one of them acknowledges."""
    by_node = {node: spans(probes) for node, probes in _probes_by_node(facts).items()}
    for (one, its), (other, theirs) in itertools.combinations(by_node.items(), 2):
        for a, b in itertools.product(its, theirs):
            span = Span(max(a.begin, b.begin), min(a.end, b.end))
            if span.begin >= span.end:
                continue
            first = {facts.server(op): op for op in reversed(_inside(facts, span))}
            if one in first and other in first:
                text = (
                    f"{one} and {other} were both out of recovery from {span.begin:.3f} to"
                    f" {span.end:.3f}, and both acknowledged writes"
                )
                evidence = (facts.describe(first[one]), facts.describe(first[other]))
                yield Finding("two_writable", text, evidence)


def _inside(facts: Facts, span: Span) -> list[Operation]:
    return [op for op in facts.acknowledged if span.begin < op.begin and op.end < span.end]


def _acknowledged_in(facts: Facts, span: Span) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for op in _inside(facts, span):
        counts[facts.server(op)] = counts.get(facts.server(op), 0) + 1
    found = ", ".join(f"{count} by {server}" for server, count in sorted(counts.items()))
    return (f"writes acknowledged in that time: {found or 'none'}",)
