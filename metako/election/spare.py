"""Answers from which nothing follows: to a round that a majority has answered already.

They are nearly half of all answers to heartbeats, and in a large cluster most messages of its
leader. All that is done with one is to note who answered: neither the lease nor the knowledge of
who has which document can change, hence nothing that is decided.
"""

from __future__ import annotations

from metako.election.leader import Leader
from metako.model.ids import NodeId
from metako.model.instant import Instant
from metako.wire.messages import HeartbeatAck


def take_spare(
    leader: Leader | None, boot_epoch: int, now: Instant, sender: NodeId, ack: HeartbeatAck
) -> bool:
    """Take such an answer; return False for any other, of which nothing is taken.

    Args:
        leader: this node's leadership, if there is one.
        boot_epoch: of this node.
        now: the time of this step.
        sender: who answers.
        ack: its answer.
    """
    if leader is None or (ack.term, ack.boot_epoch) != (leader.term, boot_epoch):
        return False
    known = leader.refs.get(sender)
    spare = known is not None and ack.document_ref <= known and leader.lease.is_counted(ack.round)
    if not spare or leader.over(now) is not None:
        return False
    leader.lease.answer(sender, ack.round)
    return True
