"""Differences between PostgreSQL and the model that are known and accepted.

Each says why the model need not, or cannot, foretell what PostgreSQL does, and applies to as little
as possible. Where both go different ways from then on, the sequence ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from differential.tracker import Tracker
from differential.vocabulary import Attach, Command, Commit, Detach, ResumeReplay, Seen


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known when an observable differs."""

    name: str  # of the observable: "a.rows", "commit v3", "outcome"
    real: object
    model: object
    command: Command | None  # None: at the beginning
    tracker: Tracker  # after the command
    before: Seen  # on the real servers, before the command
    upstreams: Mapping[str, str]  # in the settings of each server, before the command


@dataclass(frozen=True, slots=True)
class Explanation:
    """A difference that is known and accepted."""

    name: str
    reason: str
    applies: Callable[[Moment], bool]
    final: bool  # the sides go different ways from here on: the sequence ends


def _could_not_attach(moment: Moment, name: str) -> bool:
    """Return whether before the command a standby had an upstream and did not stream."""
    view = dict(moment.before.servers)[name]
    return view.state == "standby" and bool(moment.upstreams[name]) and not view.streams_from


def _reload_meets_the_cycle(moment: Moment) -> bool:
    command = moment.command
    return isinstance(command, Attach | Detach) and _could_not_attach(moment, command.server)


def _last_reply_races(moment: Moment) -> bool:
    command = moment.command
    if not isinstance(command, ResumeReplay):
        return False
    streamed = dict(moment.before.servers)[command.server].streams_from
    if streamed == moment.tracker.servers[command.server].upstream:
        return False
    waits = any(outcome == "waiting" for _, outcome in moment.before.commits)
    return waits and (moment.name.startswith("commit ") or moment.name == f"{streamed}.rows")


def _acknowledged_from_beyond(moment: Moment) -> bool:
    command = moment.command
    if not isinstance(command, Commit) or command.level == "remote_write":
        return False
    servers = moment.tracker.servers
    beyond = (
        name
        for name in servers[command.server].sync
        if servers[name].running
        and servers[name].upstream == command.server
        and _could_not_attach(moment, name)
    )
    affected = ("outcome", f"commit {command.value}", f"{command.server}.rows")
    return any(beyond) and moment.name in affected


EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "reload meets the cycle",
        "A standby beyond its upstream's fork asks the same receiver again and again. Whether a "
        "reload of primary_conninfo takes effect depends on the millisecond: nearly always it is "
        "forgotten, unless the receiver streams just then.",
        _reload_meets_the_cycle,
        final=True,
    ),
    Explanation(
        "last reply races",
        "When replay is resumed after a reload, the receiver is told to report what was applied "
        "and, some microseconds later, to end. Which comes first is the scheduler's choice.",
        _last_reply_races,
        final=True,
    ),
    Explanation(
        "acknowledged from beyond",
        "A standby beyond the fork acknowledges what it does not have, up to its own position. "
        "Whether a commit lies below that depends on the bytes of the records.",
        _acknowledged_from_beyond,
        final=True,
    ),
)


def explain(moment: Moment) -> Explanation | None:
    return next((each for each in EXPLANATIONS if each.applies(moment)), None)
