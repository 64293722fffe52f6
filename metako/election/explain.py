"""What an operator wants to know of agreement: what is agreed on, what is missing, and why."""

from __future__ import annotations

from metako.election.core import Core
from metako.election.election import Election
from metako.model.document import NO_DOCUMENT, DocumentRef
from metako.model.ids import NodeId
from metako.model.instant import NS_PER_MS, Instant


def blocked(election: Election, now: Instant) -> str:
    """Return why there is no primary as far as this node knows, or why commits do not return.

    "" if there is no such reason.
    """
    core = election.core
    if core.removed:
        return (
            f"this node is no member of the cluster: `metako members add {core.node}` on one of "
            "its members takes it in"
        )
    if not core.voting:
        return (
            "this node lost its durable record, so it neither votes nor streams; the others go on "
            f"without it until `metako members add {core.node}`, on one of them, takes it in again"
        )
    if core.foreign():
        return "the data directory belongs to another database system; move it away"
    if election.bootstrap.wanted():
        return election.bootstrap.why_not()
    if core.document is None:
        return (
            "no cluster document yet: waiting for the bootstrap node, or, to join a cluster that "
            f"runs, for `metako members add {core.node}` on one of its members"
        )
    if election.leader is not None:
        return election.leader.handover.blocked.why
    if election.voter.hold.active(now):
        return ""
    if core.unwatched:
        return f"no primary: {core.unwatched}"
    if election.candidate.barred:
        return (
            f"no primary: the cluster is paused, and nobody takes over from {core.document.primary}"
            " but by `metako resume` on the node that is to lead"
        )
    verdict = election.candidate.verdict
    if verdict is not None and verdict.missing:
        return f"no primary: missing {verdict.missing}"
    silent = [
        node for node in core.document.voters if node != core.node and not core.is_alive(node)
    ]
    if core.document.decider is not None and silent:
        return _one_of_two(core, silent[0])
    return "no primary: an election is due"


def _one_of_two(core: Core, silent: NodeId) -> str:
    """Return what the rest of a pair waits for."""
    assert core.document is not None
    if core.sole.held(core.document):
        if core.document.primary == core.node:
            return f"no primary: this node leads again by itself; {silent} cannot be reached"
        return f"no primary: this node takes over once {silent} has been silent for long enough"
    return (
        f"no primary: {silent} cannot be reached, and this node may not know what was committed "
        f"there: it waits for {silent}, or, if the host of {silent} is off, for `metako failover "
        f"--lost {silent}` here"
    )


def primary_silent_ms(election: Election, now: Instant) -> int | None:
    """Return how long ago the newest heartbeat of the document's primary came here.

    None if that is this node, or if none has come since its agent started.
    """
    voter, document = election.voter, election.core.document
    if election.leader is not None or document is None or voter.heartbeat_at is None:
        return None
    if voter.leader != document.primary:
        return None
    return (now.mono_ns - voter.heartbeat_at.mono_ns) // NS_PER_MS


def committed(election: Election) -> DocumentRef:
    """Return the newest document that is known here to be on a majority."""
    leader, beat = election.leader, election.voter.heartbeat
    if leader is not None:
        return leader.committed.ref if leader.committed is not None else NO_DOCUMENT
    return beat.committed if beat is not None else NO_DOCUMENT


def waiting(election: Election) -> tuple[tuple[NodeId, str], ...]:
    """Return what changes of the members wait for, as far as this node decides about them."""
    leader = election.leader
    if leader is None or leader.committed is None:
        return ()
    return leader.decisions.members.waiting(leader, leader.committed)
