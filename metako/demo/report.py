"""What a fault cost, computed from the writer's record and the nodes' logs. Pure.

Input: times, rows, log events. Output: the one JSON object of `metako demo --once FAULT --json`.
All durations are in seconds; one that could not be measured is None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from metako.demo.logs import LogEvent
from metako.demo.writer import Comparison, Record, longest_gap
from metako.model.events import EventName

CLOCK_SLACK_S = 0.005
"""The log's times are cut to milliseconds: an event may look a little older than its cause."""
OUTAGE_LOOKBACK_S = 1.0
_DETECTIONS = (EventName.HOLD_EXPIRED, EventName.RELEASE_HEARD)
_FIRST_STEPS = (*_DETECTIONS, EventName.PRE_VOTE_STARTED, EventName.CANDIDACY_STARTED)


@dataclass(frozen=True, slots=True)
class Phases:
    """Where the outage went: each phase begins where the one before it ended."""

    detect_s: float | None  # fault → the first node that knew the old lease to be over
    vote_s: float | None  # → election won by the new primary
    promote_s: float | None  # → its server is out of recovery
    reroute_s: float | None  # → the first acknowledged write


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one fault. `ok` is the exit status."""

    fault: str
    ok: bool
    recovered: bool
    outage_s: float | None  # longest gap without an acknowledged write around the fault
    acknowledged: int
    lost: int
    duplicated: int
    errors: int  # attempts that certainly failed
    unknown: int  # rows whose outcome the client never learnt
    surplus: int  # rows found although every attempt at them certainly failed
    old_primary: str
    new_primary: str | None
    timeline: int | None
    rejoined: bool | None  # the broken node streams again; None when it was not tried
    total_s: float
    phases: Phases
    error: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return the object with every duration rounded to milliseconds."""

        def rounded(value: object) -> object:
            if isinstance(value, dict):
                return {key: rounded(item) for key, item in value.items()}
            return round(value, 3) if isinstance(value, float) else value

        result = rounded(asdict(self))
        assert isinstance(result, dict)
        return result


NO_PHASES = Phases(None, None, None, None)


def failure_report(fault: str, error: str, *, total_s: float) -> Report:
    """Return the report of a run that broke before it had a result."""
    return Report(
        fault=fault,
        ok=False,
        recovered=False,
        outage_s=None,
        acknowledged=0,
        lost=0,
        duplicated=0,
        errors=0,
        unknown=0,
        surplus=0,
        old_primary="",
        new_primary=None,
        timeline=None,
        rejoined=None,
        total_s=total_s,
        phases=NO_PHASES,
        error=error,
    )


def _times(
    events: Iterable[LogEvent], names: Sequence[str], since_s: float, until_s: float
) -> list[float]:
    return [e.time_s for e in events if e.name in names and since_s <= e.time_s <= until_s]


def phases(
    events: Sequence[LogEvent],
    *,
    fault_s: float,
    new_primary: str,
    first_write_s: float | None,
) -> Phases:
    """Return how long each phase of the failover took.

    Args:
        events: those of every node.
        fault_s: wall clock, as in the events.
        new_primary: its own log says when it won and when it promoted.
        first_write_s: wall clock of the first acknowledged write after the outage.
    """
    since = fault_s - CLOCK_SLACK_S
    own = [e for e in events if e.node == new_primary]
    active = min(_times(own, [EventName.PRIMARY_ACTIVE], since, float("inf")), default=float("inf"))
    promoted = max(_times(own, [EventName.PROMOTED], since, active), default=None)
    # An election can be won and fail before it leads to a promotion: the last one counts.
    won = max(
        _times(own, [EventName.ELECTION_WON], since, active if promoted is None else promoted),
        default=None,
    )
    end = active if won is None else won
    detected = min(_times(events, _DETECTIONS, since, end), default=None)
    if detected is None:
        detected = min(_times(events, _FIRST_STEPS, since, end), default=None)
    return Phases(
        detect_s=_span(fault_s, detected),
        vote_s=_span(detected, won),
        promote_s=_span(won, promoted),
        reroute_s=_span(promoted, first_write_s),
    )


def _span(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else max(0.0, end_s - start_s)


def outage(record: Record, *, fault_s: float) -> tuple[float, float] | None:
    """Return begin and end of the longest gap around the fault, on the writer's clock."""
    return longest_gap(
        [t for t in record.acknowledged.values() if t >= fault_s - OUTAGE_LOOKBACK_S], fault_s
    )


def final_report(
    *,
    fault: str,
    record: Record,
    comparison: Comparison | None,
    old_primary: str,
    new_primary: str | None,
    timeline: int | None,
    outage_s: float | None,
    rejoined: bool | None,
    total_s: float,
    measured: Phases,
) -> Report:
    """Return the report of a run that came to its end.

    Without a `comparison` (no server would show its rows) the run has not recovered.
    """
    recovered = new_primary is not None and outage_s is not None and comparison is not None
    error = None if comparison is not None else "the table could not be read back"
    comparison = comparison or Comparison((), (), ())
    return Report(
        fault=fault,
        ok=recovered and not comparison.lost and not comparison.duplicated,
        recovered=recovered,
        outage_s=outage_s,
        acknowledged=len(record.acknowledged),
        lost=len(comparison.lost),
        duplicated=len(comparison.duplicated),
        errors=record.errors,
        unknown=len(record.unknown),
        surplus=len(comparison.surplus),
        old_primary=old_primary,
        new_primary=new_primary,
        timeline=timeline,
        rejoined=rejoined,
        total_s=total_s,
        phases=measured,
        error=error,
    )
