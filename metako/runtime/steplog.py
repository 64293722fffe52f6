"""How the supervisor's steps are told in the log."""

from __future__ import annotations

from metako.model.events import Event, EventName, Severity, event
from metako.postgres.steps import StepFailed, StepFinished

FENCE = "Fence"
"""Under this name the supervisor reports that the guard has ended the server."""


def step_event(report: StepFinished | StepFailed) -> Event:
    """Return the event of one finished or failed step."""
    if isinstance(report, StepFinished):
        return event(
            EventName.STEP_FINISHED,
            f"{report.step} took {report.duration_ms} ms",
            step=report.step,
            duration_ms=report.duration_ms,
        )
    if report.step == FENCE:
        return event(
            EventName.FENCED,
            f"the guard ended PostgreSQL: {report.error}",
            severity=Severity.ERROR,
            reason=report.error,
        )
    return event(
        EventName.STEP_FAILED,
        f"{report.step} failed: {report.error}",
        severity=Severity.ERROR,
        step=report.step,
        duration_ms=report.duration_ms,
        error=report.error,
    )
