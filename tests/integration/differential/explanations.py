"""Differences between PostgreSQL and the model that are known and accepted.

Each says why the model need not, or cannot, foretell what PostgreSQL does, and applies to as little
as possible. Where both go different ways from then on, the sequence ends there. What the model
could foretell and does not is no explanation: there the model is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from differential.tracker import Tracker
from differential.vocabulary import (
    Attach,
    Command,
    Commit,
    Detach,
    ResumeReplay,
    Seen,
    ServerView,
)


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
    hidden: Mapping[str, frozenset[str]]  # commits that had waited when a server was started

    @property
    def server(self) -> str:
        """Return whose observable it is."""
        return self.name.partition(".")[0]

    def view(self, name: str) -> ServerView:
        """Return how a server was before the command."""
        return dict(self.before.servers)[name]

    def could_not_attach(self, name: str) -> bool:
        """Return whether before the command a standby had an upstream and did not stream."""
        view = self.view(name)
        return view.state == "standby" and bool(self.upstreams[name]) and not view.streams_from


@dataclass(frozen=True, slots=True)
class Explanation:
    """A difference that is known and accepted."""

    name: str
    reason: str
    applies: Callable[[Moment], bool]
    final: bool  # the sides go different ways from here on: the sequence ends


def _reload_meets_the_cycle(m: Moment) -> bool:
    return isinstance(m.command, Attach | Detach) and m.could_not_attach(m.command.server)


def _last_reply_races(m: Moment) -> bool:
    if not isinstance(m.command, ResumeReplay):
        return False
    streamed = m.view(m.command.server).streams_from
    if streamed == m.tracker.servers[m.command.server].upstream:
        return False
    waits = any(outcome == "waiting" for _, outcome in m.before.commits)
    return waits and (m.name.startswith("commit ") or m.name == f"{streamed}.rows")


def _believed_from_beyond(m: Moment) -> bool:
    """Return whether it is about a commit that a standby beyond the fork may acknowledge."""
    if not isinstance(m.command, Commit):
        return False
    servers = m.tracker.servers
    beyond = [
        name
        for name in servers[m.command.server].sync
        if servers[name].running
        and servers[name].upstream == m.command.server
        and m.could_not_attach(name)
    ]
    affected = ("outcome", f"commit {m.command.value}", f"{m.command.server}.rows")
    return bool(beyond) and m.name in affected


def _acknowledged_from_beyond(m: Moment) -> bool:
    level = m.command.level if isinstance(m.command, Commit) else ""
    return level != "remote_write" and _believed_from_beyond(m)


def _in_the_snapshot_of_a_checkpoint(m: Moment) -> bool:
    if not m.name.endswith(".rows") or m.tracker.servers[m.server].primary:
        return False
    real, model = _values(m.real), _values(m.model)
    return real < model and model - real <= m.hidden.get(m.server, frozenset())


def _values(rows: object) -> set[str]:
    return {value for _, values in rows for value in values} if isinstance(rows, tuple) else set()


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
    Explanation(
        "in the snapshot of a checkpoint",
        "A checkpoint records the newest transaction that has ended, and one whose commit waits "
        "has not. A standby that starts from there does not show its rows, although it has "
        "replayed the commit, until it replays a later one; the model knows no snapshots.",
        _in_the_snapshot_of_a_checkpoint,
        final=False,
    ),
)


def explain(moment: Moment) -> Explanation | None:
    return next((each for each in EXPLANATIONS if each.applies(moment)), None)
