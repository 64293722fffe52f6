"""What happened to the local server, told from two pictures of it. Pure.

Nothing is decided here: an operator who reads the log after a failover wants to see when the
server ended, when it came back, and when it streamed again.
"""

from __future__ import annotations

from collections.abc import Iterator

from metako.model.events import Event, EventName, Severity, event
from metako.model.postgres import (
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    Stopped,
)
from metako.model.watchdog import WatchdogSeen, WatchdogState

_ENDED = (ProcessState.STOPPED, ProcessState.DYING)
_UP = (ProcessState.RUNNING, ProcessState.STARTING, ProcessState.STOPPING)


def server_events(
    before: PostgresObserved, after: PostgresObserved, target: PostgresTarget | None
) -> tuple[Event, ...]:
    """Return what changed between two observations, in words for the log.

    Args:
        before: the earlier picture.
        after: the later one.
        target: what was wanted of the server meanwhile.
    """
    told: list[Event] = []
    if before.process in _UP and after.process in _ENDED:
        told.append(_ended(before, after, target))
    if before.process is not ProcessState.RUNNING and after.process is ProcessState.RUNNING:
        role = "a standby" if after.in_recovery else "the primary"
        told.append(
            event(
                EventName.POSTGRES_STARTED,
                f"PostgreSQL runs as {role}",
                timeline=after.timeline,
                in_recovery=after.in_recovery,
            )
        )
    streams = after.receiver is ReceiverState.STREAMING
    same = before.receiver is ReceiverState.STREAMING and before.upstream == after.upstream
    if streams and not same:
        told.append(
            event(
                EventName.REJOIN,
                f"streams from {after.upstream}",
                upstream=after.upstream,
                timeline=after.timeline,
            )
        )
    # A server that is stopped, or was, answers no commit, and that is no news.
    serves = after.in_recovery is False and not isinstance(target, Stopped)
    if serves and after.commit_blocked != before.commit_blocked:
        told.append(_blocked(after))
    if after.watchdog is not before.watchdog and after.watchdog != before.watchdog:
        told.extend(_watchdog(before.watchdog, after.watchdog))
    return tuple(told)


def _watchdog(before: WatchdogSeen, after: WatchdogSeen) -> Iterator[Event]:
    match after.state:
        case WatchdogState.FAILED if (before.state, before.why) != (after.state, after.why):
            yield event(
                EventName.WATCHDOG,
                f"guard.watchdog: not armed: {after.why}",
                severity=Severity.ERROR,
                state=after.state.value,
            )
        case WatchdogState.ARMED if before.state is not WatchdogState.ARMED:
            yield event(
                EventName.WATCHDOG,
                "guard.watchdog: armed: the machine is reset if the lease ends and PostgreSQL "
                "does not",
                state=after.state.value,
                timeout_s=after.timeout_s,
                identity=after.identity,
            )
        case WatchdogState.IDLE if before.state is WatchdogState.ARMED:
            yield event(EventName.WATCHDOG, "guard.watchdog: disarmed", state=after.state.value)
        case _:
            pass


def _ended(
    before: PostgresObserved, after: PostgresObserved, target: PostgresTarget | None
) -> Event:
    role = "primary" if before.in_recovery is False else "standby"
    # Under other targets too a server is stopped, to be started another way: restarted, rewound.
    if after.stop_asked or isinstance(target, Stopped):
        return event(EventName.POSTGRES_STOPPED, f"PostgreSQL stopped ({role})", role=role)
    return event(
        EventName.POSTGRES_CRASHED,
        f"PostgreSQL ended ({role})",
        severity=Severity.ERROR if role == "primary" else Severity.WARNING,
        role=role,
        timeline=before.timeline,
    )


def _blocked(after: PostgresObserved) -> Event:
    if after.commit_blocked:
        return event(
            EventName.COMMITS_BLOCKED,
            "commits do not return: too few standbys acknowledge",
            severity=Severity.ERROR,
            blocked=True,
        )
    return event(EventName.COMMITS_BLOCKED, "commits return again", blocked=False)
