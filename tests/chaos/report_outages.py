"""When nobody's write was acknowledged, why, and where the time went.

In: a `History`. Out: `Outage`s. An outage is a gap of more than `OUTAGE_S` between two
acknowledgements that clients got through a proxy (through anything, if no client used a proxy). The
gap begins with the acknowledgement before it: that is what a user of the database feels.

A gap in which nobody wrote is none. It is told from the attempts: in an outage some write was under
way in the first `OUTAGE_S`, or waited for longer than that later on.

The steps of a failover are read backwards from the server that ended it, as an election may be
won and lead to nothing; the last one counts. What the logs do not say is missing, not guessed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from chaos.report_read import History, Op, Row, number, text, time_of

OUTAGE_S = 0.5
LOG_SLACK_S = 0.05
"""A log's times are cut to milliseconds and it is read a little late: so much out of order is no
sign of another cause."""
CAUSE_S = 2.0
"""A fault that was over at once (a kill) may be the cause of an outage that begins this much
later: a server that is gone is noticed by the writes that were under way."""
DETECTIONS = ("hold_expired", "release_heard")
SUSPICIONS = ("member_suspect", "suspect")


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of a failover."""

    name: str  # event's name, or first_write
    node: str  # whose log says so; "" for first_write
    t: float
    ms: int  # since the step before, or since the begin of the outage


@dataclass(frozen=True, slots=True)
class Outage:
    """A gap between two acknowledged writes."""

    begin: float  # last acknowledgement before, or the first attempt
    end: float  # next acknowledgement, or the end of the last attempt when `open`
    open: bool  # no write was acknowledged any more
    failed: int  # writes that ended in the gap without success
    unknown: int
    faults: tuple[int, ...]  # positions in the list of faults
    steps: tuple[Step, ...]  # in the order of time; empty if no primary became active

    @property
    def length(self) -> float:
        return self.end - self.begin


def counted_writes(ops: Iterable[Op]) -> list[Op]:
    """Return the writes that outages are measured by: those through proxies, if there are any."""
    writes = [op for op in ops if op.writes]
    return [op for op in writes if op.proxied] or writes


def fault_span(history: History, fault: Row) -> tuple[float, float | None]:
    """Return begin and end of a fault; None as the end of one that took no time, as a kill."""
    begin = time_of(fault)
    end = history.fault_ends.get(int(number(fault, "id") or 0))
    lasts = number(fault, "for_s")
    if end is None and lasts is not None:
        end = min(begin + lasts, max(history.end, begin))
    return begin, None if end is None else max(begin, end)


def outages(history: History) -> list[Outage]:
    """Return every outage in the order of time."""
    writes = sorted(counted_writes(history.ops), key=lambda op: op.end)
    if not writes:
        return []
    ends = [op.end for op in writes]
    acked = [op.end for op in writes if op.outcome == "ok"]
    edges = [min(op.begin for op in writes), *acked, ends[-1]]
    logs = history.of_kind("log")
    found: list[Outage] = []
    for index, (begin, end) in enumerate(pairwise(edges)):
        if end - begin <= OUTAGE_S:
            continue
        since = bisect_right(ends, begin)
        is_open = index == len(acked)
        # Writes that hung until later were waiting in the gap as well, so there is no upper bound.
        late = max(begin, end - 2 * OUTAGE_S) + OUTAGE_S
        if not is_open and all(op.begin >= late for op in islice(writes, since, None)):
            continue
        within = writes[since : bisect_right(ends, end)]
        outage = Outage(
            begin=begin,
            end=end,
            open=is_open,
            failed=sum(op.outcome == "failed" for op in within),
            unknown=sum(op.outcome == "unknown" for op in within),
            faults=tuple(_faults_on(history, begin, end)),
            steps=_steps(logs, begin, end, is_open),
        )
        found.append(outage)
    return found


def _faults_on(history: History, begin: float, end: float) -> Iterable[int]:
    for position, fault in enumerate(history.faults):
        began, ended = fault_span(history, fault)
        over = began + CAUSE_S if ended is None else ended + LOG_SLACK_S
        if began <= end and over >= begin:
            yield position


def _steps(logs: Sequence[Row], begin: float, end: float, is_open: bool) -> tuple[Step, ...]:
    times = [time_of(row) for row in logs]
    low, high = bisect_left(times, begin - LOG_SLACK_S), bisect_right(times, end + LOG_SLACK_S)
    window = logs[low:high]
    found = _failover(window)
    if not found and not is_open:
        return ()
    marks = [
        (min(max(time_of(row), begin), end), text(row, "name"), text(row, "n")) for row in found
    ]
    if found and not is_open:
        marks.append((end, "first_write", ""))
    steps: list[Step] = []
    before = begin
    for t, name, node in marks:
        steps.append(Step(name, node, t, round((t - before) * 1000)))
        before = t
    return tuple(steps)


def _failover(window: Sequence[Row]) -> list[Row]:
    """Return the events that led to the last server that became active, each at most once."""
    active = _last(window, ("primary_active",), len(window), None)
    anchor = active if active is not None else _last(window, ("promoted",), len(window), None)
    if anchor is None:
        anchor = _last(window, ("election_won", "candidacy_started"), len(window), None)
    found: list[int] = [] if anchor is None else [anchor]
    node = None if anchor is None else text(window[anchor], "n")
    limit = len(window) if anchor is None else anchor
    if anchor is not None:
        for name in ("promoted", "election_won", "candidacy_started"):
            if name != text(window[anchor], "name"):
                position = _last(window, (name,), limit, node)
                if position is not None:
                    found.append(position)
                    limit = position
    for names in (DETECTIONS, SUSPICIONS):
        position = _first(window, names, limit)
        if position is not None:
            found.append(position)
    return [window[position] for position in sorted(found)]


def _last(window: Sequence[Row], names: Sequence[str], limit: int, node: str | None) -> int | None:
    for position in range(limit - 1, -1, -1):
        row = window[position]
        if text(row, "name") in names and (node is None or text(row, "n") == node):
            return position
    return None


def _first(window: Sequence[Row], names: Sequence[str], limit: int) -> int | None:
    for position in range(limit):
        if text(window[position], "name") in names:
            return position
    return None
