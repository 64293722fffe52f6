"""Operations for the page: counted into buckets, and those that are shown one by one. Pure.

In: the operations of a `History`. Out: values for JSON. A run has hundreds of thousands of
them, and a page that had each would open slowly: so there are counts and latencies of buckets of
several widths, and single operations only where somebody will want to know what happened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from chaos.report_outages import counted_writes
from chaos.report_read import History, Op, clip, seconds

BASE_BUCKETS_MAX = 3000
BUCKET_S_MIN = 0.1
LEVELS_FACTOR = 4
LEVEL_BUCKETS_MIN = 60
OPS_MAX = 4000  # unknown and failed ones, each drawn as a dot
SLOW_MAX = 300
SLOW_S = 0.25
VALUES_MAX = 12
Item = TypeVar("Item")
OUTCOMES = ("ok", "failed", "unknown")


def natural(name: str) -> tuple[str, int, str]:
    """Return what sorts c2 before c10."""
    head = name.rstrip("0123456789")
    digits = name[len(head) :][:9]
    return head, int(digits) if digits.isascii() and digits else -1, name


def counts(ops: Iterable[Op]) -> dict[str, dict[str, int]]:
    """Return outcome → number, of writes and of reads; another outcome counts as unknown."""
    found = {kind: dict.fromkeys(OUTCOMES, 0) for kind in ("writes", "reads")}
    for op in ops:
        outcome = op.outcome if op.outcome in OUTCOMES else "unknown"
        found["writes" if op.writes else "reads"][outcome] += 1
    return found


def bucket_width(length_s: float) -> float:
    """Return the smallest of 0.1, 0.2, 0.5, 1, 2, 5 … s that needs few enough buckets."""
    width = BUCKET_S_MIN
    for step in range(60):
        width = BUCKET_S_MIN * (1, 2, 5)[step % 3] * 10 ** (step // 3)
        if length_s / width <= BASE_BUCKETS_MAX:
            break
    return round(width, 6)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of a sorted, non-empty sequence."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def levels(history: History) -> list[dict[str, object]]:
    """Return the buckets, finest first, each level four times as wide as the one before.

    `writes` and `reads` count what was acknowledged, `p50` and `p99` are those writes' latencies in
    milliseconds, null in a bucket without any.
    """
    begin = math.floor(history.begin)
    length = max(history.end - begin, BUCKET_S_MIN)
    width = bucket_width(length)
    writes = sorted(
        ((op.end, op.end - op.begin) for op in counted_writes(history.ops) if op.outcome == "ok"),
    )
    reads = [op.end for op in history.ops if not op.writes and op.outcome == "ok"]
    found: list[dict[str, object]] = []
    while True:
        size = int(length / width) + 1
        found.append(_level(begin, width, size, writes, reads))
        if size < LEVELS_FACTOR * LEVEL_BUCKETS_MIN:
            return found
        width = round(width * LEVELS_FACTOR, 6)


def _level(
    begin: float,
    width: float,
    size: int,
    writes: Sequence[tuple[float, float]],
    reads: Sequence[float],
) -> dict[str, object]:
    def place(t: float) -> int:
        return min(size - 1, max(0, int((t - begin) / width + 1e-9)))

    latencies: list[list[float]] = [[] for _ in range(size)]
    read = [0] * size
    for end, took in writes:
        latencies[place(end)].append(took)
    for end in reads:
        read[place(end)] += 1
    p50: list[float | None] = []
    p99: list[float | None] = []
    for bucket in latencies:
        bucket.sort()
        p50.append(_ms(percentile(bucket, 0.5)) if bucket else None)
        p99.append(_ms(percentile(bucket, 0.99)) if bucket else None)
    return {
        "begin": begin,
        "width": width,
        "writes": [len(bucket) for bucket in latencies],
        "reads": read,
        "p50": p50,
        "p99": p99,
    }


def _ms(took: float) -> float:
    return round(took * 1000, 2)


def client_lanes(ops: Iterable[Op], names: Sequence[str]) -> list[dict[str, object]]:
    counted = {name: dict.fromkeys(OUTCOMES, 0) for name in names}
    vias: dict[str, Counter[str]] = {name: Counter() for name in names}
    for op in ops:
        if op.client in counted:
            counted[op.client][op.outcome if op.outcome in OUTCOMES else "unknown"] += 1
            vias[op.client][op.via] += 1
    return [
        {
            "name": clip(name),
            "counts": counted[name],
            "via": [clip(via) for via, _ in vias[name].most_common(VALUES_MAX)],
        }
        for name in names
    ]


def single_ops(ops: Sequence[Op], clients: Sequence[str], left_out: Counter[str]) -> list[object]:
    """Return [client's position, begin, end, outcome's position, what, error] of single operations.

    Of too many, unknown ones stay before failed ones, and those that go are spread over the run.
    """
    place = {name: position for position, name in enumerate(clients)}
    known = [op for op in ops if op.client in place]
    unknown = [op for op in known if op.outcome not in ("ok", "failed")]
    failed = [op for op in known if op.outcome == "failed"]
    slow = [op for op in known if op.outcome == "ok" and op.end - op.begin > SLOW_S]
    slow.sort(key=lambda op: op.begin - op.end)
    kept = thinned(unknown, OPS_MAX)
    kept += thinned(failed, max(0, OPS_MAX - len(kept)))
    left_out["operations"] = len(unknown) + len(failed) - len(kept)
    left_out["slow operations"] = max(0, len(slow) - SLOW_MAX)
    kept += slow[:SLOW_MAX]
    kept.sort(key=lambda op: op.begin)
    return [
        [
            place[op.client],
            seconds(op.begin),
            seconds(op.end),
            OUTCOMES.index(op.outcome) if op.outcome in OUTCOMES else 2,
            clip(_what(op)),
            clip(" · ".join(filter(None, (op.error, op.warning and f"warning: {op.warning}")))),
        ]
        for op in kept
    ]


def _what(op: Op) -> str:
    values = ", ".join(op.values[:VALUES_MAX]) + (" …" if len(op.values) > VALUES_MAX else "")
    keys = ", ".join(op.keys[:VALUES_MAX])
    where = f" at {op.server}" if op.server else ""
    line = f" on timeline {op.timeline}" if op.timeline else ""
    return f"{op.kind} {values or f'key {keys}'} via {op.via}{where}{line}"


def thinned(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most `limit` items, evenly spread over all."""
    if len(items) <= limit:
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]
