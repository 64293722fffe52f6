"""Messages from which next to nothing follows, and which are most of those of agreement.

*A spare answer* is one to a round that a majority has answered already, or has not answered with it
either: all but one answer to each heartbeat, and in a large cluster most messages of its leader.
All that is done with one is to note who answered: neither the lease nor the knowledge of who has
which document can change, hence nothing that is decided.

*A repeated heartbeat* differs from the one before it in its round alone. All that is done with one
is to hold for longer, and to answer.
"""

from __future__ import annotations

from metako.election.candidate import Stage
from metako.election.election import Election
from metako.election.leader import Leader
from metako.model.durable import HardState
from metako.model.ids import NodeId
from metako.model.instant import Instant
from metako.wire.messages import Heartbeat, HeartbeatAck


def take_spare(
    leader: Leader | None, hard: HardState, now: Instant, sender: NodeId, ack: HeartbeatAck
) -> bool:
    """Take such an answer; return False for any other, of which nothing is taken.

    Args:
        leader: this node's leadership, if there is one.
        hard: this node's durable record.
        now: the time of this step.
        sender: who answers.
        ack: its answer.
    """
    if leader is None or ack.proven:
        return False
    if (ack.term, ack.boot_epoch) != (leader.term, hard.boot_epoch):
        return False
    known, lease = leader.refs.get(sender), leader.lease
    if known is None or ack.document_ref > known or leader.over(now) is not None:
        return False
    electorate = leader.electorate
    if lease.would_count(sender, ack.round, electorate) or leader.handover.waits_for(sender):
        return False
    if not electorate.counts(sender, ack.document_ref):
        return False
    lease.answer(sender, ack.round)
    return True


def take_repeated(election: Election, now: Instant, sender: NodeId, beat: Heartbeat) -> bool:
    """Take such a heartbeat; return False for any other, of which nothing is taken.

    It is one only for a node that does nothing but hold for its sender: then it holds for longer,
    answers, and wants of its server what it wanted.

    Args:
        election: of this node.
        now: the time of this step.
        sender: who leads.
        beat: the heartbeat.
    """
    voter = election.voter
    before = voter.heartbeat
    if before is None or voter.leader != sender or not _repeats(beat, before):
        return False
    if election.leader is not None or election.candidate.stage is not Stage.IDLE:
        return False
    if election.stopping or beat.term != election.core.hard.promised_term:
        return False
    return voter.hold.active(now) and voter.heard_heartbeat(now, sender, beat)


def _repeats(beat: Heartbeat, before: Heartbeat) -> bool:
    """Return whether a heartbeat says nothing new but its round."""
    return (
        beat.term == before.term
        and beat.boot_epoch == before.boot_epoch
        and beat.hold_ms == before.hold_ms
        and beat.active is before.active
        and beat.attachable is before.attachable
        and beat.committed == before.committed
        and beat.heir is None
        and before.heir is None
    )
