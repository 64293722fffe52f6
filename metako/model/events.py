"""Facts about what happened, for the log, the metrics, the history and the simulator's checkers.

Events are past facts and never steer anything: the engine emits them and forgets them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class EventName(enum.StrEnum):
    """Every kind of event; the value is what the log line's `event` field says."""

    MEMBER_JOINED = "member_joined"
    MEMBER_ALIVE = "member_alive"
    MEMBER_SUSPECT = "member_suspect"
    MEMBER_DEAD = "member_dead"
    MEMBER_LEFT = "member_left"
    MEMBER_CONFLICT = "member_conflict"
    BOOTSTRAP_STARTED = "bootstrap_started"
    HOLD_EXPIRED = "hold_expired"
    PRE_VOTE_STARTED = "pre_vote_started"
    PRE_VOTE_REFUSED = "pre_vote_refused"
    CANDIDACY_STARTED = "candidacy_started"
    CANDIDACY_LOST = "candidacy_lost"
    CANDIDACY_HANDED_OVER = "candidacy_handed_over"
    CATCH_UP_STARTED = "catch_up_started"  # of a candidate, from who is ahead and cannot lead
    CAUGHT_UP = "caught_up"  # it has received what it lacked
    VOTE_GRANTED = "vote_granted"
    VOTE_REFUSED = "vote_refused"
    PROMISE_KEPT = "promise_kept"  # WAL receiver verified gone, position found
    ELECTION_WON = "election_won"
    DOCUMENT_COMMITTED = "document_committed"
    DOCUMENT_ADOPTED = "document_adopted"
    TIMELINE_RESERVED = "timeline_reserved"
    PROMOTED = "promoted"
    PRIMARY_ACTIVE = "primary_active"
    LEASE_GAINED = "lease_gained"
    LEASE_LOST = "lease_lost"
    LEASE_RELEASED = "lease_released"
    RELEASE_HEARD = "release_heard"
    STEPPED_DOWN = "stepped_down"
    COMMITS_MAY_BE_LOST = "commits_may_be_lost"  # somebody leads without a data quorum
    NOT_A_MEMBER = "not_a_member"  # of this node: the cluster has removed it
    MEMBERS_CHANGING = "members_changing"  # an operator's order was taken
    MEMBERS_CHANGED = "members_changed"  # the document that says so is on its way
    PAUSED = "paused"  # an operator's order was taken, as with the next
    RESUMED = "resumed"
    RESTART_ACCEPTED = "restart_accepted"
    RESTARTED = "restarted"  # one server of those
    RESTART_FAILED = "restart_failed"  # given up; some servers were not restarted
    SWITCHOVER_SCHEDULED = "switchover_scheduled"
    SWITCHOVER_ACCEPTED = "switchover_accepted"
    SWITCHOVER_BEGUN = "switchover_begun"  # the old primary is being stopped for it
    SWITCHOVER_COMPLETED = "switchover_completed"
    SWITCHOVER_FAILED = "switchover_failed"  # given up, or somebody else is the primary now
    SYNC_SET_CHANGING = "sync_set_changing"
    SYNC_SET_CHANGED = "sync_set_changed"
    COMMITS_BLOCKED = "commits_blocked"
    POSTGRES_STARTED = "postgres_started"
    POSTGRES_STOPPED = "postgres_stopped"
    POSTGRES_CRASHED = "postgres_crashed"
    STEP_FINISHED = "step_finished"
    STEP_FAILED = "step_failed"
    FENCED = "fenced"
    GUARD_NOTE = "guard_note"  # what the guard did before this agent came
    WATCHDOG = "watchdog"  # armed, disarmed, or not to be had when it should be
    ROUTE_CHANGED = "route_changed"
    REJOIN = "rejoin"
    HISTORY = "history"  # a committed change of the document; `kind` says of what
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. `fields` are plain values (str, int, float, bool, None), ready to be logged."""

    name: EventName
    message: str  # one sentence for people, without the fields
    severity: Severity = Severity.INFO
    fields: tuple[tuple[str, object], ...] = ()


def event(
    name: EventName, message: str, *, severity: Severity = Severity.INFO, **fields: object
) -> Event:
    """Return an event with its fields in the given order."""
    return Event(name, message, severity, tuple(fields.items()))
