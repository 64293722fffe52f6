"""Everything that the page shows, as one JSON value of bounded size. Pure.

In: a `History` and the checker's verdict. Out: `document`, whose keys are explained where they are
made. Operations are counted into buckets of several widths, so that the page draws a view of any
length from a few hundred numbers; of single operations there are only those that did not go well,
the slowest, and those that a violation names. Every list has a named limit, and what a limit
left out is counted in `left_out`: a page must never look complete when it is not.

Texts come from servers, logs and scenarios. They are cut to `TEXT_MAX` and not escaped here; that
is the business of `report.render` and of the page, which only ever makes text nodes of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from chaos.report_ops import (
    BUCKET_S_MIN,
    VALUES_MAX,
    client_lanes,
    counts,
    levels,
    natural,
    single_ops,
    thinned,
)
from chaos.report_outages import Outage, fault_span, outages
from chaos.report_read import History, Row, clip, number, seconds, text, texts, time_of
from chaos.report_words import Double, words

EVENTS_MAX = 3000  # of one node
SPANS_MAX = 4000  # of one node
FAULTS_MAX = 1500
OUTAGES_MAX = 500  # the longest
VIOLATIONS_MAX = 100
EVIDENCE_MAX = 30
NODES_MAX = 32
PHASES_MAX = 50
CLIENTS_MAX = 64

# Said often by every node, and missed by nobody: the first to go when there are many.
CHATTER = frozenset({"status", "route_changed", "vote_granted", "document_adopted"})


def document(history: History, verdict: Row | None) -> dict[str, object]:
    """Return what the page reads."""
    gaps = outages(history)
    left_out: Counter[str] = Counter()
    names = history.nodes()
    left_out["nodes"] = max(0, len(names) - NODES_MAX)
    clients = sorted({op.client for op in history.ops}, key=natural)
    left_out["clients"] = max(0, len(clients) - CLIENTS_MAX)
    clients = clients[:CLIENTS_MAX]
    left_out["faults"] = max(0, len(history.faults) - FAULTS_MAX)
    nodes = [_node(history, name, left_out) for name in names[:NODES_MAX]]
    doubles = _double(nodes)
    kept = sorted(
        sorted(gaps, key=lambda gap: -gap.length)[:OUTAGES_MAX], key=lambda gap: gap.begin
    )
    left_out["outages"] = len(gaps) - len(kept)
    return {
        "words": words(history, verdict, gaps, doubles),
        "run": {key: clip(text(history.run, key)) for key in ("id", "scenario", "timing", "wall")}
        | {"seed": clip(text(history.run, "seed")), "nodes": len(names)},
        "begin": seconds(history.begin),
        "end": seconds(max(history.end, history.begin + BUCKET_S_MIN)),
        "proxied": any(op.proxied and op.writes for op in history.ops),
        "counts": counts(history.ops),
        "levels": levels(history),
        "outages": [_outage(gap) for gap in kept],
        "faults": [_fault(history, fault) for fault in history.faults[:FAULTS_MAX]],
        "skipped": [
            [seconds(time_of(row)), clip(text(row, "text")), clip(text(row, "why"))]
            for row in history.of_kind("skipped")[:FAULTS_MAX]
        ],
        "phases": [
            [seconds(time_of(row)), clip(text(row, "name"))]
            for row in history.of_kind("phase")[:PHASES_MAX]
        ],
        "nodes": nodes,
        "double": [[each.begin, each.end, each.nodes] for each in doubles],
        "clients": client_lanes(history.ops, clients),
        "ops": single_ops(history.ops, clients, left_out),
        "after": _after(history),
        "verdict": None if verdict is None else _verdict(verdict, left_out),
        "left_out": {key: count for key, count in left_out.items() if count},
        "unread": history.unread,
        "unknown_kinds": {clip(kind): count for kind, count in list(history.unknown.items())[:20]},
    }


# ---------------------------------------------------------------- faults and outages


def _fault(history: History, fault: Row) -> dict[str, object]:
    begin, end = fault_span(history, fault)
    return {
        "begin": seconds(begin),
        "end": None if end is None else seconds(end),
        "do": clip(text(fault, "do")),
        "text": clip(text(fault, "text") or text(fault, "do")),
        "nodes": [clip(name) for name in texts(fault, "nodes")[:NODES_MAX]],
    }


def _outage(gap: Outage) -> dict[str, object]:
    return {
        "begin": seconds(gap.begin),
        "end": seconds(gap.end),
        "ms": round(gap.length * 1000),
        "open": gap.open,
        "failed": gap.failed,
        "unknown": gap.unknown,
        "faults": [position for position in gap.faults if position < FAULTS_MAX],
        "steps": [
            {"name": step.name, "node": clip(step.node), "t": seconds(step.t), "ms": step.ms}
            for step in gap.steps
        ],
    }


# ---------------------------------------------------------------- nodes


def _node(history: History, name: str, left_out: Counter[str]) -> dict[str, object]:
    """Return the lane of a node.

    `spans` are [begin, role, state, term, timeline, leader], each until the next; `events` are
    [t, name, text]; `writable` are [begin, end] in which every probe found it out of recovery.
    """
    spans = [
        [
            seconds(time_of(row)),
            text(row, "role"),
            clip(text(row, "state")),
            number(row, "term"),
            number(row, "timeline"),
            clip(text(row, "leader")),
        ]
        for row in history.of_kind("node")
        if text(row, "n") == name
    ]
    left_out["states of nodes"] += max(0, len(spans) - SPANS_MAX)
    logs = [row for row in history.of_kind("log") if text(row, "n") == name]
    if len(logs) > EVENTS_MAX:
        rare = thinned([row for row in logs if text(row, "name") not in CHATTER], EVENTS_MAX)
        often = [row for row in logs if text(row, "name") in CHATTER]
        left_out["events of nodes"] += len(logs) - EVENTS_MAX
        logs = sorted([*rare, *thinned(often, EVENTS_MAX - len(rare))], key=time_of)
    events = [
        [seconds(time_of(row)), clip(text(row, "name")), clip(text(row, "text"))] for row in logs
    ]
    return {
        "name": clip(name),
        "spans": thinned(spans, SPANS_MAX),
        "events": events,
        "writable": thinned(_writable(history, name), SPANS_MAX),
    }


def _writable(history: History, name: str) -> list[tuple[float, float]]:
    """Return the intervals between consecutive probes that were all answered "not in recovery"."""
    spans: list[tuple[float, float]] = []
    begin: float | None = None
    last = 0.0
    for row in history.of_kind("probe"):
        if text(row, "n") != name:
            continue
        if row.get("in_recovery") is False:
            asked, answered = number(row, "asked"), number(row, "answered")
            begin = (time_of(row) if asked is None else asked) if begin is None else begin
            last = time_of(row) if answered is None else answered
        elif begin is not None:
            spans.append((seconds(begin), seconds(last)))
            begin = None
    if begin is not None:
        spans.append((seconds(begin), seconds(last)))
    return spans


def _double(nodes: Sequence[dict[str, object]]) -> list[Double]:
    """Return when more than one server was found out of recovery at the same time."""
    edges: list[tuple[float, int, str]] = []
    for node in nodes:
        writable = node["writable"]
        assert isinstance(writable, list)
        for begin, end in writable:
            edges += [(begin, 1, str(node["name"])), (end, -1, str(node["name"]))]
    edges.sort()  # an end before a begin at the same time
    on: set[str] = set()
    found: list[Double] = []
    for (t, way, name), (following, _, _) in pairwise([*edges, (math.inf, 0, "")]):
        on = on | {name} if way > 0 else on - {name}
        if len(on) > 1 and following > t:
            found.append(Double(t, following, tuple(sorted(on))))
    return found[:SPANS_MAX]


# ---------------------------------------------------------------- after the run, verdict


def _after(history: History) -> dict[str, object]:
    recovered = {text(row, "n"): number(row, "after_s") for row in history.of_kind("recovered")}
    left = history.of_kind("left")[-1:]
    return {
        "nodes": [
            {
                "name": clip(text(row, "n")),
                "rows": number(row, "rows"),
                "hash": clip(text(row, "hash")),
                "timeline": number(row, "timeline"),
                "streaming": row.get("streaming") is True,
                "checksums": clip(text(row, "checksums")),
                "recovered_s": recovered.get(text(row, "n")),
            }
            for row in history.of_kind("final")[:NODES_MAX]
        ],
        "left": [
            clip(f"{kind[:-1] if kind != 'processes' else 'process'} {what}")
            for row in left
            for kind in ("processes", "namespaces", "files")
            for what in texts(row, kind)[:VALUES_MAX]
        ],
        "looked": bool(left),
    }


def _verdict(verdict: Row, left_out: Counter[str]) -> dict[str, object]:
    listed = verdict.get("violations")
    violations = [v for v in listed if isinstance(v, dict)] if isinstance(listed, list) else []
    left_out["violations"] = max(0, len(violations) - VIOLATIONS_MAX)
    stats = verdict.get("stats")
    return {
        "ok": verdict["ok"],
        "violations": [_violation(each, left_out) for each in violations[:VIOLATIONS_MAX]],
        "stats": {
            clip(str(key)): value if isinstance(value, int) else clip(text(stats, str(key)))
            for key, value in list(stats.items())[:50]
        }
        if isinstance(stats, dict)
        else {},
    }


def _violation(violation: Row, left_out: Counter[str]) -> dict[str, object]:
    listed = violation.get("evidence")
    evidence = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    left_out["evidence"] += max(0, len(evidence) - EVIDENCE_MAX)
    times = [t for e in evidence if (t := number(e, "begin")) is not None]
    at = number(violation, "at")
    return {
        "check": clip(text(violation, "check")),
        "text": clip(text(violation, "text")),
        "at": min(times, default=None) if at is None else at,
        "evidence": [
            {key: clip(text(each, key)) for key in ("client", "kind", "outcome")}
            | {"values": clip(", ".join(texts(each, "values")[:VALUES_MAX]))}
            | {"begin": number(each, "begin"), "end": number(each, "end")}
            for each in evidence[:EVIDENCE_MAX]
        ],
    }
