"""Differences between PostgreSQL and the model that are known and accepted.

Each says why the model need not, or cannot, foretell what PostgreSQL does, and applies to as little
as possible. Where both go different ways from then on, the sequence ends there. What the model
could foretell and does not is no explanation: there the model is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from differential import vocabulary as do
from differential.tracker import Tracker
from differential.vocabulary import Command, Seen, ServerView, SlotView


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
    beyond: frozenset[str]  # servers that were seen beyond the fork, with its history at hand

    @property
    def server(self) -> str:
        """Return whose observable it is."""
        return self.name.partition(".")[0]

    def view(self, name: str) -> ServerView:
        """Return how a server was before the command."""
        return dict(self.before.servers)[name]

    def could_not_attach(self, name: str) -> bool:
        """Return whether before the command a standby of a primary did not stream from it."""
        view, upstream = self.view(name), self.upstreams[name]
        follows = view.state == "standby" and bool(upstream) and not view.streams_from
        return follows and self.view(upstream).state == "primary"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A difference that is known and accepted."""

    name: str
    reason: str
    applies: Callable[[Moment], bool]
    final: bool  # the sides go different ways from here on: the sequence ends


def _reload_meets_the_cycle(m: Moment) -> bool:
    if not isinstance(m.command, do.Attach | do.Detach) or not m.could_not_attach(m.command.server):
        return False
    name = m.command.server
    upstreams = {m.upstreams[name], m.tracker.servers[name].upstream}
    return _is_about_following(m, name) or _is_about_waiters(m, upstreams)


def _is_about_following(m: Moment, name: str) -> bool:
    """Return whether it is about what a standby gets, with which slot, or whether it does."""
    if m.name.endswith(".sync"):
        return {standby for standby, _ in _pairs(m.real) ^ _pairs(m.model)} == {name}
    if m.name.endswith(".slots"):
        return {slot[0] for slot in _slots(m.real) ^ _slots(m.model)} == {
            m.tracker.servers[name].slot
        }
    return m.name in {f"{name}.{each}" for each in ("timeline", "streams_from", "received", "rows")}


def _is_about_waiters(m: Moment, servers: Collection[str]) -> bool:
    """Return whether it is about commits that waited on one of the servers before the command."""
    waited = {value for value, outcome in m.before.commits if outcome == "waiting"}
    on = {m.tracker.commits[value] for value in waited} & set(servers)
    here = {f"commit {value}" for value in waited if m.tracker.commits[value] in servers}
    return m.name in here or m.name in {f"{server}.rows" for server in on}


def _records_begin_elsewhere(m: Moment) -> bool:
    if not isinstance(m.command, do.Start) or m.command.server not in m.beyond:
        return False
    name = m.command.server
    if m.name == f"{name}.rows":
        return _values(m.real) < _values(m.model)
    if m.name.endswith(".sync"):
        return _is_about_following(m, name) and name not in dict(_pairs(m.real))
    return _is_about_following(m, name) and m.real in ("", 0, "segment")


def _last_reply_races(m: Moment) -> bool:
    if not isinstance(m.command, do.ResumeReplay):
        return False
    streamed = m.view(m.command.server).streams_from
    if streamed == m.tracker.servers[m.command.server].upstream:
        return False
    return _is_about_waiters(m, {streamed})


def _acknowledged_from_beyond(m: Moment) -> bool:
    if not isinstance(m.command, do.Commit) or m.command.level not in ("on", "remote_apply"):
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


def _in_the_snapshot_of_a_checkpoint(m: Moment) -> bool:
    if not m.name.endswith(".rows") or m.tracker.servers[m.server].primary:
        return False
    real, model = _values(m.real), _values(m.model)
    return real < model and model - real <= m.hidden.get(m.server, frozenset())


def _pairs(sync: object) -> set[tuple[str, str]]:
    return set(sync) if isinstance(sync, tuple) else set()


def _slots(slots: object) -> set[SlotView]:
    return set(slots) if isinstance(slots, tuple) else set()


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
        "records begin elsewhere",
        "A standby that was killed beyond the fork replays its own WAL to the end and asks for the "
        "new timeline's from there. In the model all records are of one size, so that it finds one "
        "there; in PostgreSQL it finds the middle of one, and never follows.",
        _records_begin_elsewhere,
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
