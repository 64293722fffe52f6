"""Forged rounds for the tests of the failover benchmark."""

from collections.abc import Mapping, Sequence

from benchmarks.phases import Course, Phase
from benchmarks.results import ClientKind, Group, Round, Rows, Seen, Series
from metako.demo.logs import LogEvent

FAULT_S = 1000.0


def event(node: str, at_s: float, name: str, **fields: object) -> LogEvent:
    """Return a line of a node's log, `at_s` after the fault."""
    return LogEvent(node, FAULT_S + at_s, name, "INFO", "", fields)


def crash_events() -> list[LogEvent]:
    """Return the failover from n1 to n3 after a crash of PostgreSQL on n1."""
    return [
        event("n3", -60.0, "primary_active", term=1),  # of an earlier fault
        event("n1", 0.010, "postgres_crashed", role="primary", timeline=2),
        event("n1", 0.015, "lease_released", term=1),
        event("n3", 0.017, "release_heard", leader="n1", term=1),
        event("n2", 0.030, "pre_vote_started", term=2),
        event("n3", 0.050, "candidacy_started", term=2),
        event("n1", 0.090, "promise_kept", term=2),
        event("n3", 0.110, "step_finished", step="Detach", duration_ms=50),
        event("n3", 0.150, "election_won", term=2, votes="n1, n3"),
        event("n3", 0.155, "document_committed", document="1.6", phase="promoting"),
        event("n3", 0.160, "document_committed", document="2.6", phase="promoting"),
        event("n2", 0.165, "promise_kept", term=2),  # too late to be needed
        event("n3", 0.190, "step_finished", step="ApplySettings", duration_ms=20),
        event("n3", 0.240, "promoted", term=2, timeline=3),
        event("n3", 0.270, "step_finished", step="EmitMarker", duration_ms=30),
        event("n3", 0.290, "document_committed", document="2.7", phase="active"),
        event("n3", 0.300, "primary_active", term=2, timeline=3),
        event("n3", 0.301, "route_changed", primary="n3", term=2),
        event("n2", 0.305, "route_changed", primary="n3", term=2),
    ]


def course(outage_s: float, **longer_s: float) -> Course:
    """Return a failover whose phases are equal parts, but for those named, up to the write."""
    named = {Phase(name.replace("_", "-")): value for name, value in longer_s.items()}
    parts = [phase for phase in Phase if phase not in named]
    each = (outage_s - sum(named.values())) / len(parts)
    ends, end = {}, 0.0
    for phase in Phase:
        end += named.get(phase, each)
        ends[phase] = end
    del ends[Phase.WRITE]
    return Course("n2", 2, 1, ends)


def round_of(
    outage_s: float, *, timing: str = "default", fault: str = "kill-primary", **longer_s: float
) -> Round:
    seen = Seen(outage_s, outage_s + 0.01, errors=1, unknown=2)
    return Round(
        timing=timing,
        fault=fault,
        number=1,
        victim="n1",
        injection_s=0.001,
        clients=dict.fromkeys(ClientKind, seen),
        course=course(outage_s, **longer_s),
    )


def group_of(rounds: Sequence[Round]) -> Group:
    return Group(rounds[0].timing, rounds[0].fault, rounds)


def series_of(rounds: Sequence[Round], *, lost: int = 0, error: str = "") -> Series:
    rows: Mapping[ClientKind, Rows] = {kind: Rows(500, 2, 1, lost, 0, 0) for kind in ClientKind}
    return Series(rounds[0].timing, list(rounds), dict(rows), postgres="16.4", error=error)
