"""The rows at the end against what the clients were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chaos.facts import Facts, Finding, split_value
from chaos.history import Kind, Operation, Outcome

UNRECORDED_MAX = 4  # values of the one operation that a killed client could not write down


def lost(facts: Facts) -> Iterator[Finding]:
    """Every acknowledged value is on every node."""
    there = {node: {value for _, value in rows} for node, rows in facts.finals.items()}
    for op in facts.acknowledged:
        missing = {
            value: [node for node in sorted(there) if value not in there[node]]
            for value in op.values
        }
        if any(missing.values()):
            places = ", ".join(
                f"{value} on {_name(facts, node)}"
                for value, nodes in missing.items()
                for node in nodes
            )
            yield Finding(
                "lost",
                f"acknowledged, but missing at the end: {places}",
                (facts.describe(op), *_context(facts, op)),
            )


def duplicated(facts: Facts) -> Iterator[Finding]:
    """No value is there twice, at the end or in one read."""
    for node, rows in sorted(facts.finals.items()):
        for value, count in sorted(Counter(value for _, value in rows).items()):
            if count > 1:
                source = facts.source.get(value)
                yield Finding(
                    "duplicated",
                    f"{value} is on {_name(facts, node)} {count} times",
                    (facts.describe(source),) if source else (),
                )
    for read in facts.reads:
        twice = sorted(value for value, count in Counter(read.seen).items() if count > 1)
        if twice:
            text = f"a read saw {', '.join(twice)} more than once"
            yield Finding("duplicated", text, (facts.describe(read),))


def surplus(facts: Facts) -> Iterator[Finding]:
    """No value that certainly was not written is there or was seen."""
    for node, rows in sorted(facts.finals.items()):
        for value in sorted({value for _, value in rows}):
            source = facts.source.get(value)
            if source is not None and source.outcome is Outcome.FAILED:
                text = f"{value} is on {_name(facts, node)} although its write failed"
                yield Finding("surplus", text, (facts.describe(source),))
    for read in facts.reads:
        for value in read.seen:
            source = facts.source.get(value)
            if source is not None and source.outcome is Outcome.FAILED:
                text = f"a read saw {value} although its write failed"
                yield Finding("surplus", text, (facts.describe(source), facts.describe(read)))


def torn_txn(facts: Facts) -> Iterator[Finding]:
    """A transaction is there as a whole or not at all, whatever its client was told."""
    for node, rows in sorted(facts.finals.items()):
        there = {value for _, value in rows}
        for op in facts.operations:
            if op.kind is not Kind.TXN:
                continue
            present = [value for value in op.values if value in there]
            if present and len(present) < len(op.values):
                text = f"of one transaction only {', '.join(present)} is on {_name(facts, node)}"
                yield Finding("torn_txn", text, (facts.describe(op),))


def foreign(facts: Facts) -> Iterator[Finding]:
    """Every value was written by somebody, and under this key."""
    for where, key, value, evidence in _all_rows(facts):
        source = facts.source.get(value)
        if source is None:
            if not is_unrecorded(facts, value):
                yield Finding("foreign", f"nobody wrote {value}, found {where}", evidence)
        elif key not in _keys_of(source, value):
            text = f"{value} is under key {key} {where}, and was written under another"
            yield Finding("foreign", text, (facts.describe(source), *evidence))


def unrecorded(facts: Facts) -> Iterator[Finding]:
    """Notes: the last operation of a client that was killed is nowhere but in the table."""
    found = {value: where for where, _, value, _ in _all_rows(facts) if value not in facts.source}
    for value, where in sorted(found.items()):
        if is_unrecorded(facts, value):
            text = f"{value}, found {where}, continues its client's numbers; no record tells of it"
            yield Finding("unrecorded", text)


def is_unrecorded(facts: Facts, value: str) -> bool:
    """Say whether a value can be of an operation that its client did not live to write down."""
    client, number = split_value(value)
    last = facts.last_numbers.get(client)
    return last is not None and last < number <= last + UNRECORDED_MAX


def _all_rows(facts: Facts) -> Iterator[tuple[str, int, str, tuple[str, ...]]]:
    for node, rows in sorted(facts.finals.items()):
        for key, value in sorted(set(rows)):
            yield f"on {_name(facts, node)}", key, value, ()
    for read in facts.reads:
        for value in read.seen:
            yield "by a read", read.keys[0], value, (facts.describe(read),)


def _keys_of(source: Operation, value: str) -> set[int]:
    return {key for key, other in zip(source.keys, source.values, strict=True) if other == value}


def _name(facts: Facts, node: str) -> str:
    return f"{node} (primary)" if node == facts.primary else node


def _context(facts: Facts, op: Operation) -> Iterator[str]:
    """What helps to find out how a value was lost."""
    for text in facts.faults_between(op.begin, op.end):
        yield f"on at that time: {text}"
    saw = [read for value in op.values for read in facts.sightings.get(value, ())]
    if saw:
        yield f"first seen by {facts.describe(saw[0])}"
        yield f"last seen by {facts.describe(saw[-1])}"
