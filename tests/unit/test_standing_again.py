"""A leader that stands at a higher term without a stop: what it goes on with, and what has to wait.

`a` leads five voters with S = {b, c}, k = 1, and is at raising k when a voter has promised more.
"""

from __future__ import annotations

import random
from dataclasses import replace

from handover_kit import member, serving
from resuming_kit import OF_FIVE, VOTERS, A, B, C, D, E

from metako.election.election import Election
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.wants import GuardDeadline
from metako.model.document import (
    DocumentRef,
)
from metako.model.durable import HardState
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.instant import Instant, seconds
from metako.model.postgres import (
    Leading,
    SyncSetting,
)
from metako.wire.messages import (
    DocumentAck,
    DocumentOffer,
    Heartbeat,
    HeartbeatAck,
    TermRejected,
    VoteReply,
    VoteRequest,
)

STEP_S = 0.2


class Cluster:
    """`a` itself, and the others as far as they answer."""

    def __init__(self) -> None:
        hard = HardState(A, 7, Term(4), A, Term(4), Term(0), 2000, OF_FIVE)
        self.at_s = 100.0
        self.target: Leading | None = None
        self.election = Election(
            settings=ElectionSettings(),
            cluster=ClusterSettings("t", A, VOTERS, acks=2),
            hard=hard,
            rng=random.Random(1),
            now=self.now,
            armed=GuardDeadline(Term(4), seconds(101.5)),
        )
        members = {node: member(node) for node in VOTERS}
        self.election.roster(members, object())

    @property
    def now(self) -> Instant:
        return Instant(seconds(self.at_s), seconds(self.at_s))

    def output(self) -> list[tuple[NodeId, object]]:
        output = self.election.output(self.now)
        self.target = output.target if isinstance(output.target, Leading) else None
        return list(output.outbound)

    def see(self, applied: SyncSetting, barrier: SyncSetting | None) -> list[tuple[NodeId, object]]:
        picture = replace(serving(sync=applied), sync_barrier=barrier, under=self.target)
        self.election.observe(self.now, picture)
        return self.output()

    def answer(self, sent: list[tuple[NodeId, object]]) -> None:
        for to, message in sent:
            if isinstance(message, Heartbeat) and to in (B, C):
                ack = HeartbeatAck(message.term, message.boot_epoch, message.round, OF_FIVE.ref)
                self.election.receive(self.now, to, ack)


def setting(k: int) -> SyncSetting:
    return SyncSetting((B, C), k)


def stood_again() -> tuple[Cluster, list[tuple[NodeId, object]]]:
    """Return a cluster whose leader has just won a higher term, with k = 2 proposed before."""
    cluster = Cluster()
    cluster.output()
    for node in (B, C):
        cluster.election.receive(cluster.now, node, DocumentAck(Term(4), OF_FIVE.ref))
    cluster.see(setting(1), setting(1))
    for _ in range(4):
        cluster.at_s += STEP_S
        cluster.election.tick(cluster.now)
        cluster.answer(cluster.output())
        cluster.see(setting(1), setting(1))
    assert cluster.target is not None
    assert cluster.target.sync == setting(2)  # PostgreSQL first
    cluster.see(setting(2), setting(2))
    leader = cluster.election.leader
    assert leader is not None
    assert leader.proposal is not None
    assert leader.proposal.sync.k == 2
    cluster.election.receive(cluster.now, D, TermRejected(Term(4), Term(6)))
    sent = cluster.output()
    term = next(m.term for _, m in sent if isinstance(m, VoteRequest))
    for node in (D, E):
        vote = VoteReply(
            term, True, None, term, OF_FIVE.ref, False, DataId(""), None, False, 100, TimelineId(2)
        )
        cluster.election.receive(cluster.now, node, vote)
    sent = cluster.output()
    assert cluster.election.leader is not None
    assert cluster.election.leader.term == term
    return cluster, sent


def test_commits_wait_for_as_many_as_the_document_says_that_was_not_committed() -> None:
    cluster, sent = stood_again()
    offered = [message.document for _, message in sent if isinstance(message, DocumentOffer)]
    assert offered
    assert {document.sync.k for document in offered} == {2}
    assert cluster.target is not None
    assert cluster.target.sync == setting(2)


def test_nobody_is_to_follow_before_the_first_document_of_the_term_is_committed() -> None:
    cluster, sent = stood_again()
    beats = [message for _, message in sent if isinstance(message, Heartbeat)]
    assert beats
    assert not any(beat.attachable for beat in beats)
    leader = cluster.election.leader
    assert leader is not None
    assert leader.proposal is not None
    for node in (D, E):
        ack = DocumentAck(leader.term, leader.proposal.ref)
        cluster.election.receive(cluster.now, node, ack)
    beats = [message for _, message in cluster.output() if isinstance(message, Heartbeat)]
    assert beats  # at once, and not with the next round
    assert all(beat.attachable for beat in beats)


def test_a_change_that_was_committed_after_all_is_over() -> None:
    cluster, _ = stood_again()
    leader = cluster.election.leader
    assert leader is not None
    assert leader.proposal is not None
    ref = leader.proposal.ref
    for node in (D, E):
        cluster.election.receive(cluster.now, node, DocumentAck(leader.term, ref))
    cluster.see(setting(2), setting(2))
    assert leader.committed is not None
    assert leader.committed.sync.k == 2
    assert cluster.target is not None
    assert cluster.target.sync == setting(2)
    assert leader.committed.ref == DocumentRef(leader.term, ref.version)
