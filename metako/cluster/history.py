"""What a new version of the document changes, as events for the history of every node. Pure.

The document reaches every node, and so does what was decided: each node tells the differences
between the versions that it has seen committed. One that was away tells what came of several
versions at once; elections are in the document by name and are never missed.
"""

from __future__ import annotations

from collections.abc import Iterator

from metako.election.election import Election
from metako.election.explain import committed
from metako.model.document import ClusterDocument, SyncSet
from metako.model.events import Event, EventName, event
from metako.model.instant import Instant
from metako.model.lsn import format_lsn
from metako.model.timeline import TimelineEntry


class Chronicle:
    """What this node has told of so far."""

    def __init__(self, document: ClusterDocument | None) -> None:
        """Begin with the document that the node has on its disk; None if it has none."""
        self._told = document

    def news(self, election: Election, now: Instant) -> tuple[Event, ...]:
        """Return what has changed by the newest version, once it is known to be committed."""
        before, document = self._told, election.core.document
        if document is before or document is None or committed(election) < document.ref:
            return ()
        self._told = document
        if before is None:
            return ()  # it was so before this node came
        return tuple(changes(before, document, now.wall_ms))


def changes(before: ClusterDocument, after: ClusterDocument, when_ms: int) -> Iterator[Event]:
    """Give one event for each thing that differs; what went before comes first.

    Args:
        before: a version.
        after: a later one.
        when_ms: now, by the wall clock, in milliseconds since 1970, UTC.
    """
    known = {entry.tli for entry in before.timelines if entry.confirmed}
    elections = [e for e in after.timelines if e.confirmed and e.tli not in known]
    for entry in elections:
        yield election_event(entry, str(after.ref))
    for kind, text in _differences(before, after, elected=bool(elections)):
        yield _event(kind, text, after, when_ms)


def election_event(entry: TimelineEntry, document: str = "") -> Event:
    """Return the event of an election that was followed by a promotion."""
    took = entry.took
    after = f" after {took.total / 1000:.1f} s" if took is not None else ""
    node, why = entry.node or "a node", entry.reason or "not known"
    first = not entry.parent_tli
    return event(
        EventName.HISTORY,
        f"{node} holds the {why}" if first else f"{node} became the primary{after}: {why}",
        kind="election",
        when_ms=entry.when_ms or None,
        document=document or None,
        term=entry.term,
        timeline=entry.tli,
        lsn=format_lsn(entry.begin_lsn),
        primary=entry.node,
        reason=entry.reason or None,
        total_ms=took.total if took is not None else None,
        **({f"{part}_ms": ms for part, ms in took._asdict().items()} if took is not None else {}),
    )


def _event(kind: str, text: str, document: ClusterDocument, when_ms: int) -> Event:
    return event(
        EventName.HISTORY,
        text,
        kind=kind,
        when_ms=when_ms or None,
        document=str(document.ref),
        term=document.term,
        primary=document.primary,
    )


def _differences(
    before: ClusterDocument, after: ClusterDocument, *, elected: bool
) -> Iterator[tuple[str, str]]:
    same = after.primary == before.primary and after.reserved == before.reserved
    if after.term > before.term and same and not elected:
        yield "term", f"{after.primary} leads on, by an election of term {after.term}"
    yield from _members(before, after)
    if before.sync != after.sync:
        yield "sync_set", f"commits wait for {_sync(after.sync)} (before: {_sync(before.sync)})"
    if before.durability is not after.durability:
        yield "durability", f"durability is {after.durability} (before: {before.durability})"
    if before.pair is not after.pair:
        mode = f"pair_mode is {after.pair}" if after.pair else "no pair_mode: a majority decides"
        yield "pair_mode", mode
    if before.paused is not after.paused:
        text = "paused: nobody takes over" if after.paused else "resumed"
        yield "pause", f"the cluster is {text}"
    yield from _orders(before, after, elected=elected)


def _members(before: ClusterDocument, after: ClusterDocument) -> Iterator[tuple[str, str]]:
    old, new = set(before.members()), set(after.members())
    for node in sorted(new - old):
        yield "member", f"{node} was taken in"
    for node in sorted(old - new):
        yield "member", f"{node} was removed"
    for node in sorted(old & new):
        if before.record_of(node).record_id not in ("", after.record_of(node).record_id):
            yield "member", f"{node} was taken in again, with another durable record"
        if (node in before.voters) != (node in after.voters):
            vote = "a vote" if node in after.voters else "no vote any more"
            yield "member", f"{node} has {vote}"


def _orders(
    before: ClusterDocument, after: ClusterDocument, *, elected: bool
) -> Iterator[tuple[str, str]]:
    if after.switchover is not None and after.switchover != before.switchover:
        yield "switchover", f"a switchover to {after.switchover.target} was asked for"
    led_on = not elected and after.term == before.term
    if before.switchover is not None and after.switchover is None and led_on:
        yield "switchover", f"the switchover to {before.switchover.target} was given up"
    if after.scheduled is not None and after.scheduled != before.scheduled:
        to = after.scheduled.target or "whoever is fit then"
        yield "switchover", f"a switchover to {to} was asked for by the clock"
    elif before.scheduled is not None and after.scheduled is None and after.switchover is None:
        yield "switchover", "the scheduled switchover was given up"
    if after.restarts and not before.restarts:
        names = ", ".join(restart.node for restart in after.restarts)
        yield "restart", f"a restart of {names} was asked for"
    if before.restarts and not after.restarts and len(before.restarts) > 1:
        names = ", ".join(restart.node for restart in before.restarts)
        yield "restart", f"the restart has ended, {names} were left"
    elif len(before.restarts) > len(after.restarts):
        left = {restart.node for restart in after.restarts}
        done = ", ".join(r.node for r in before.restarts if r.node not in left)
        yield "restart", f"the turn of {done} to be restarted is over"


def _sync(sync: SyncSet) -> str:
    if not sync.members:
        return "nobody"
    return f"{sync.k} of {', '.join(member.node for member in sync.members)}"
