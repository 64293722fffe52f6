"""Where an outage went: the nodes' own logs between the fault and the first write after it.

Input: the log events of all nodes, which share one machine and so one wall clock, and the moment
of the fault on it. Output: a `Course`, the milestones of the failover that led to the primary that
serves; from it and the end of the outage as a client saw it, `Durations`. Invariant: the phases
and the remainder add up to the outage. A phase whose begin or end is not in the logs is None, and
its time is in the remainder: it is given to no neighbour.

A line is stamped when it is logged, which is after its fact and on a busy machine some milliseconds
after: the others have heard of a new primary before it has written that it is one. So a milestone
counts from its own stamp or from that of a later milestone, whichever is earlier.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from metako.demo.logs import LogEvent
from metako.model.events import EventName

CUT_S = 0.001
"""Log times are cut to milliseconds: an event may look that much older than its cause."""
LATE_STAMP_MAX_S = 0.05
"""A milestone stamped by more than this after one that it precedes is none: its time is unknown."""


class Phase(enum.StrEnum):
    """The parts of a failover, in their order; each begins where the one before it ended."""

    DETECT = "detect"  # fault → the first node that notices: hold over, release heard, crash seen
    PRE_VOTE = "pre-vote"  # → the winner stands: its delay by rank and the round without effect
    VOTE = "vote"  # → election won: votes, WAL receivers stopped, positions read
    DOCUMENT = "document"  # → the document that names the new primary is on a majority
    PROMOTE = "promote"  # → the server is out of recovery on the reserved timeline
    ACTIVATE = "activate"  # → marker acknowledged, second document committed, clients admitted
    ROUTE = "route"  # → the first node routes its proxy to the new primary
    WRITE = "write"  # → the client's first acknowledged write


REMAINDER = "remainder"
"""The name of the part of an outage that no phase accounts for."""


@dataclass(frozen=True, slots=True)
class Course:
    """One failover as the logs tell it. Times are seconds since the fault."""

    successor: str  # the node that became primary
    term: int
    candidacies: int  # of all nodes; above 1 an election was contested or had to be repeated
    ends: Mapping[Phase, float]  # the stamp of each phase's end, if it is in the logs
    details: Mapping[str, float] = field(default_factory=dict)  # seconds of steps inside a phase


@dataclass(frozen=True, slots=True)
class Durations:
    """One outage in parts, in seconds."""

    outage_s: float
    phases: Mapping[Phase, float | None]
    remainder_s: float


def read_course(events: Sequence[LogEvent], *, fault_s: float, until_s: float) -> Course | None:
    """Return the failover that ended with a primary active between `fault_s` and `until_s`.

    Of several elections the last one counts: what the earlier ones took is in its pre-vote.

    Args:
        events: of all nodes, in any order.
        fault_s: wall clock, as in the events.
        until_s: the end of what belongs to this fault.
    """
    window = [e for e in events if fault_s - CUT_S <= e.time_s <= until_s]
    window.sort(key=lambda e: e.time_s)
    active = _last(window, EventName.PRIMARY_ACTIVE)
    if active is None or _term(active) is None:
        return None
    node, term = active.node, _term(active)
    own = [e for e in window if e.node == node and _term(e) == term and e.time_s <= active.time_s]
    stood = _last(own, EventName.CANDIDACY_STARTED)
    found: dict[Phase, LogEvent | None] = {
        Phase.DETECT: _detection(window, stood or active),
        Phase.PRE_VOTE: stood,
        Phase.VOTE: _last(own, EventName.ELECTION_WON),
        Phase.DOCUMENT: _document(window, node, term, "promoting"),
        Phase.PROMOTE: _last(own, EventName.PROMOTED),
        Phase.ACTIVATE: active,
        Phase.ROUTE: _first(
            e
            for e in window
            if e.name == EventName.ROUTE_CHANGED and e.fields.get("primary") == node
            if _term(e) == term
        ),
    }
    assert term is not None
    stand = [e for e in window if e.name == EventName.CANDIDACY_STARTED]
    return Course(
        successor=node,
        term=term,
        candidacies=len([e for e in stand if e.time_s <= active.time_s]),
        ends={phase: e.time_s - fault_s for phase, e in found.items() if e is not None},
        details=_details(window, node, term, found),
    )


def durations(course: Course, *, outage_s: float) -> Durations:
    """Return the parts of an outage that ended `outage_s` after the fault for some client."""
    ends: dict[Phase, float] = {Phase.WRITE: outage_s}
    bound = outage_s
    for phase in reversed(Phase):
        stamp = course.ends.get(phase)
        if stamp is not None and stamp <= bound + LATE_STAMP_MAX_S:
            bound = ends[phase] = max(0.0, min(stamp, bound))
    phases: dict[Phase, float | None] = {}
    before: float | None = 0.0
    for phase in Phase:
        end = ends.get(phase)
        phases[phase] = None if before is None or end is None else end - before
        before = end
    measured = sum(value for value in phases.values() if value is not None)
    return Durations(outage_s, phases, outage_s - measured)


def _detection(window: Iterable[LogEvent], until: LogEvent) -> LogEvent | None:
    def noticed(event: LogEvent) -> bool:
        if event.name == EventName.POSTGRES_CRASHED:
            return event.fields.get("role") == "primary"
        return event.name in (EventName.HOLD_EXPIRED, EventName.RELEASE_HEARD)

    return _first(e for e in window if noticed(e) and e.time_s <= until.time_s)


def _document(
    window: Iterable[LogEvent], node: str, term: int | None, phase: str
) -> LogEvent | None:
    """Return the commit of the term's first document of a phase; its line is of level DEBUG."""
    return _first(
        e
        for e in window
        if e.name == EventName.DOCUMENT_COMMITTED and e.node == node
        if str(e.fields.get("document", "")).startswith(f"{term}.")
        if e.fields.get("phase") == phase
    )


def _details(
    window: Sequence[LogEvent], node: str, term: int, found: Mapping[Phase, LogEvent | None]
) -> dict[str, float]:
    """Return what can be told of the inside of the phases; a part that is not known is left out."""
    spans: dict[str, tuple[LogEvent | None, LogEvent | None]] = {}
    stood, won = found[Phase.PRE_VOTE], found[Phase.VOTE]
    if stood is not None and won is not None:
        during = [e for e in window if stood.time_s <= e.time_s <= won.time_s]
        voters = {name.strip() for name in str(won.fields.get("votes", "")).split(",")}
        kept = [
            e
            for e in during
            if (e.name == EventName.PROMISE_KEPT and _term(e) == term and e.node in voters)
            # The candidate keeps its own promise without a word; the step is in its log.
            or (e.node == node and _step(e) == "Detach")
        ]
        spans["vote: until the last promise kept before it was won"] = stood, _latest(kept)
    promoted, active = found[Phase.PROMOTE], found[Phase.ACTIVATE]
    document = found[Phase.DOCUMENT]
    own = [e for e in window if e.node == node]
    if document is not None and promoted is not None:
        settings = [e for e in own if _step(e) == "ApplySettings"]
        before = [e for e in settings if document.time_s <= e.time_s <= promoted.time_s]
        spans["promote: until the settings are in place"] = document, _first(before)
    if promoted is not None and active is not None:
        during = [e for e in own if promoted.time_s <= e.time_s <= active.time_s]
        marker = _first(e for e in during if _step(e) == "EmitMarker")
        second = _document(during, node, term, "active")
        spans["activate: until the marker is acknowledged"] = promoted, marker
        spans["activate: second document"] = marker, second
        spans["activate: admission of clients"] = second, active
    return {
        name: max(0.0, end.time_s - begin.time_s)
        for name, (begin, end) in spans.items()
        if begin is not None and end is not None
    }


def _term(event: LogEvent) -> int | None:
    value = event.fields.get("term")
    return value if isinstance(value, int) else None


def _step(event: LogEvent) -> str:
    return str(event.fields.get("step")) if event.name == EventName.STEP_FINISHED else ""


def _first(events: Iterable[LogEvent]) -> LogEvent | None:
    return min(events, key=lambda e: e.time_s, default=None)


def _latest(events: Iterable[LogEvent]) -> LogEvent | None:
    return max(events, key=lambda e: e.time_s, default=None)


def _last(events: Iterable[LogEvent], name: EventName) -> LogEvent | None:
    return _latest(e for e in events if e.name == name)
