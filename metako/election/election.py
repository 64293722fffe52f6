"""One node's part in agreement: composes voter, candidate, leader and bootstrap.

Inputs: authenticated messages, observations of the local server, gossip's roster (advisory), time.
Outputs, taken once per step: a record to persist before anything leaves, messages, targets, events.

Invariants, each with a test that fails when it is broken:
* a node votes once per term, and never while its hold on another's lease is running;
* nothing of a term below the promise has any effect;
* PostgreSQL is made primary only under a committed document and a lease;
* a lease is released only after the server is verified gone, and never used again.
It does not know how messages travel, who is "dead", or how PostgreSQL is run. Source: DESIGN §4.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import assert_never

from metako.election.awaiting import head_start_ms
from metako.election.bootstrap import Bootstrap
from metako.election.candidate import TERM_MAX, Candidate, Stage
from metako.election.core import Core
from metako.election.dispatch import dispatch
from metako.election.ends import STOP, End
from metako.election.errand import NO_ERRAND
from metako.election.leader import Leader
from metako.election.lossy import by_order, ordered
from metako.election.office import Mandate, tell_won
from metako.election.orderdesk import OrderDesk
from metako.election.output import ROLES, ElectionOutput, Role
from metako.election.pausing import nobody_resumes, resume_alone
from metako.election.proof import Prover
from metako.election.releasing import Releasing
from metako.election.resuming import resumed
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.standing import advance
from metako.election.voter import Voter
from metako.election.wants import FenceWish, GuardDeadline, follower_target
from metako.model.durable import HardState
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId
from metako.model.instant import Instant, milliseconds
from metako.model.member import Member
from metako.model.orders import Order, OrderKind
from metako.model.postgres import PostgresObserved, PostgresTarget, ProcessState, Stopped
from metako.wire.messages import (
    AgreementMessage,
    Candidacy,
    DocumentCopy,
    DocumentOffer,
    DocumentWanted,
    Heartbeat,
    PreVoteRequest,
    TermRejected,
    VoteRequest,
)


class Election:
    """See the module's docstring. Not reusable after `stopped`."""

    def __init__(
        self,
        *,
        settings: ElectionSettings,
        cluster: ClusterSettings,
        hard: HardState,
        rng: random.Random,
        now: Instant,
        armed: GuardDeadline | None = None,
    ) -> None:
        self.core = Core(settings, cluster, hard.node_id, hard, rng)
        self.voter = Voter(self.core, now)
        self.candidate = Candidate(self.core)
        self.bootstrap = Bootstrap(self.core)
        self.leader: Leader | None = resumed(self.core, now, armed)
        self.stopping = False
        self.stopped = False
        self._stop_at_ns = 0  # a fast shutdown becomes an immediate one then
        self._late = False  # it has
        self._releasing = Releasing(self.core)
        self.prover = Prover(self.core)
        self.orders = OrderDesk(self.core)
        self._fence = FenceWish(self.core, armed)
        self._was_holding = self.voter.hold.active(now)

    # ------------------------------------------------------------ inputs

    def receive(self, now: Instant, sender: NodeId, message: AgreementMessage) -> None:
        """Take one authenticated message from a member."""
        if self.stopped or sender == self.core.node:
            return
        self._end_if_over(now)
        dispatch(self, now, sender, message)
        self._advance(now)

    def observe(self, now: Instant, observed: PostgresObserved) -> None:
        """Take a new picture of the local server."""
        self.core.observed = observed
        if observed.process is ProcessState.RUNNING:
            self.core.heir.end()
        self._end_if_over(now)
        self.voter.server_changed()
        if self.leader is not None:
            self.leader.server_changed(now)
        self._advance(now)

    def moved(self, observed: PostgresObserved) -> None:
        """Take a picture with more WAL and no other news, while not leading: it decides nothing."""
        self.core.observed = observed

    def roster(self, members: Mapping[NodeId, Member], standing: object) -> None:
        """Take gossip's view of the members. It only ever changes speed, never a verdict."""
        self.core.members, self.core.standing = members, standing

    def tick(self, now: Instant) -> None:
        """Do everything that time has made due."""
        self._advance(now)

    def order(self, now: Instant, order: Order) -> None:
        """Take an order of an operator of this node; it is answered in one of the outputs."""
        if order.kind is OrderKind.FAILOVER:
            self.orders.settle(ordered(self, now, order))
        elif order.kind is OrderKind.RESUME and nobody_resumes(self, now):
            self.orders.settle(resume_alone(self, now, order))
        else:
            self.orders.give(now, order)
        self._advance(now)

    def stop(self, now: Instant) -> None:
        """Begin to stop: PostgreSQL first, then the lease, then `stopped`."""
        if not self.stopping:
            self.stopping = True
            self._stop_at_ns = now.mono_ns + milliseconds(self.core.settings.stop_timeout_ms)
            self.candidate.stop()
            if self.leader is not None:
                self.leader.stop(now)
        self._advance(now)

    def wakeup(self) -> int:
        """Return the CLOCK_MONOTONIC time of the next deadline, in nanoseconds."""
        due = self.voter.hold.until_ns if self._was_holding else 2**63 - 1
        if self.leader is not None:
            due = min(due, self.leader.wakeup())
        for part in (self.candidate, self._releasing, self.bootstrap, self.orders, self.core.heir):
            at = part.wakeup()
            if at is not None and at < due:
                due = at
        if self.stopping and not self.stopped and not self._late:
            due = min(due, self._stop_at_ns)
        return due

    def output(self, now: Instant) -> ElectionOutput:
        """Return what the inputs since the last call produced."""
        target = self._target(now)
        guard = self._fence.change(self.leader, target)
        hard, outbound, events = self.core.take()
        return ElectionOutput(hard, outbound, target, guard, events, self.orders.take())

    # ------------------------------------------------------------ views

    @property
    def role(self) -> Role:
        if self.stopped:
            return Role.STOPPED
        if self.stopping:
            return Role.STOPPING
        if self.leader is not None:
            return Role.LEADER
        return ROLES.get(self.candidate.stage, Role.FOLLOWER)

    # ------------------------------------------------------------ messages in detail

    def _leading(self, now: Instant) -> bool:
        """Return whether we may not vote for others: a lease runs, or our server may write."""
        if self.leader is not None and self.leader.lease.valid(now):
            return True
        return self.core.observed.in_recovery is False

    def heard_heartbeat(self, now: Instant, sender: NodeId, beat: Heartbeat) -> None:
        if self.leader is not None and beat.term <= self.leader.term:
            return
        if not self.voter.heard_heartbeat(now, sender, beat):
            return
        if self.leader is not None:
            self._step_down(now, f"{sender} leads term {beat.term}")
        self.candidate.stop()
        self.candidate.errand = NO_ERRAND
        self._was_holding = True
        self.prover.heard_heartbeat(now, sender, beat, self.candidate)

    def heard_pre_vote(self, now: Instant, sender: NodeId, request: PreVoteRequest) -> None:
        better = self.voter.heard_pre_vote(now, sender, request, leading=self._leading(now))
        if better and not self.stopping:
            # We refused because we have more WAL, so it is our turn, at once.
            self.candidate.schedule(now, 0)

    def heard_vote_request(self, now: Instant, sender: NodeId, request: VoteRequest) -> None:
        if request.term >= TERM_MAX:
            return
        leading = self._leading(now)
        if self.voter.heard_vote_request(now, sender, request, leading=leading):
            if self.leader is not None:
                self._step_down(now, f"voted for {sender} in term {request.term}")
            self.candidate.stop()
            # If that candidacy comes to nothing, somebody has to try again.
            timeout = self.core.settings.candidacy_timeout_ms
            self.candidate.schedule(now, timeout + self.candidate.delay_ms(primary_crashed=False))
        elif self.leader is not None and request.term > self.leader.term:
            self.leader.heard_rejected(request.term)

    def heard_rejected(self, message: TermRejected) -> None:
        if message.promised >= TERM_MAX:
            return
        if message.promised > self.core.hard.promised_term:
            self.core.sole.withdraw()
        if self.leader is not None and message.rejected == self.leader.term:
            self.leader.heard_rejected(message.promised)
        self.candidate.heard_rejected(message.rejected, message.promised)

    def heard_candidacy(self, now: Instant, message: Candidacy) -> None:
        """Stand at once, without a pre-vote: a candidate with both quorums sent us."""
        if self.leader is not None or self.stopping or self.voter.hold.active(now):
            return
        if self.candidate.barred:
            return  # whoever sent us stands before us, or an operator decides
        if message.term >= self.core.hard.promised_term:
            self.candidate.stand_at_once(now)

    def heard_wanted(self, sender: NodeId, message: DocumentWanted) -> None:
        """Send all of the document to a member that could not make it whole."""
        core, document = self.core, self.core.document
        if document is None or document.ref < message.document_ref:
            return
        if self.leader is not None and document.term == self.leader.term:
            core.send(sender, DocumentOffer(self.leader.term, document))
        else:
            core.send(sender, DocumentCopy(document))

    # ------------------------------------------------------------ the state machine

    def _advance(self, now: Instant) -> None:
        if self.stopped:
            return
        candidate = self.candidate
        self._late = self.stopping and now.mono_ns >= self._stop_at_ns
        self._end_if_over(now)
        if self.leader is not None:
            self._advance_leader(now, self.leader)
        if self._was_holding and not self.voter.hold.active(now):
            self._hold_ended(now)
        if (self.leader is None or candidate.incumbent) and not self.stopping:
            if candidate.stage is not Stage.IDLE and advance(candidate, now, self.voter.hold):
                self._take_office(now)
            elif candidate.stage is Stage.IDLE and self._election_due(now):
                candidate.schedule(now, candidate.delay_ms(primary_crashed=False))
        if self.leader is None and not self.stopping and self.bootstrap.tick(now):
            self.leader = self.bootstrap.create(now, self.candidate.next_term())
        self._releasing.tick(now)
        self.core.heir.tick(now)
        self.orders.advance(now, self.leader, self.voter.hold)
        if self.stopping and self.leader is None:
            gone = self.core.server_gone() or self.core.observed.process is ProcessState.UNKNOWN
            self.stopped = gone and self._releasing.told

    def _end_if_over(self, now: Instant) -> None:
        """Notice that leadership has ended before anything is done in its name."""
        leader = self.leader
        if leader is None:
            return
        end = leader.over(now)
        match end:
            case None:
                pass
            case End.SERVER:
                why = leader.ending or "PostgreSQL ended"
                heir = leader.successor()
                self._releasing.begin(now, leader.term, leader.lease.round, why, heir)
                self.voter.released_own(now)
                self._was_holding = False
                if heir is not None:
                    self.core.heir.begin(now, self.core.settings, heir)
                self._step_down(now, "lease released")
            case End.LEASE:
                self.core.emit(
                    EventName.LEASE_LOST,
                    f"the lease of term {leader.term} ended: no majority answers",
                    Severity.ERROR,
                    term=leader.term,
                )
                self._step_down(now, "lease lost")
            case End.DEPOSED:
                self._step_down(now, "a newer document names another primary")
            case _:
                assert_never(end)

    def _advance_leader(self, now: Instant, leader: Leader) -> None:
        leader.tick(now)
        if not leader.must_stand_again():
            return
        # A failed candidacy elsewhere has left voters with a higher promise: their standbys are
        # stranded until somebody leads that term. We do, without stopping the server.
        if self.stopping:
            leader.end_server(STOP)  # who stops does not stand
        elif self.candidate.stage is Stage.IDLE:
            self.candidate.stand_again(now, leader.higher_promise)

    def _election_due(self, now: Instant) -> bool:
        return (
            self.leader is None
            and self.core.document is not None
            and self.core.voting
            and not self.voter.hold.active(now)
        )

    def _take_office(self, now: Instant) -> None:
        """Lead: the candidate has both quorums and a server that can be promoted."""
        core, candidate, document = self.core, self.candidate, self.core.document
        assert document is not None
        incumbent = self.leader if candidate.incumbent else None
        planned = document.switchover is not None and document.switchover.target == core.node
        errand, forced = candidate.errand, candidate.errand.forced
        by = by_order(errand.lost) if forced else core.course.cause or "election"
        reason = "switchover" if planned else by
        why = Mandate(reason, errand.lost, errand.resumes, now.wall_ms)
        core.course.won(now)
        promises = candidate.promises()
        was = candidate.incumbent
        tell_won(core, document, candidate.term, promises, incumbent=was, forced=forced)
        candidate.errand = NO_ERRAND
        leader = self.leader = Leader(core, now, candidate.term, incumbent=incumbent)
        candidate.stop()
        self._was_holding = False
        leader.take_office(now, document, promises, why)
        leader.server_changed(now)

    def _hold_ended(self, now: Instant) -> None:
        self._was_holding = False
        if self.leader is not None or self.core.document is None:
            return
        who, heard = self.voter.leader or "a leader", self.voter.heartbeat_at or now
        self.core.course.nobody_leads(now, f"{who} fell silent", now.mono_ns - heard.mono_ns)
        self.core.emit(
            EventName.HOLD_EXPIRED,
            f"heard nothing of {who} for a whole hold",
            Severity.WARNING,
            leader=self.voter.leader,
        )
        if not self.stopping:
            self.candidate.stop()
            self.candidate.schedule(now, self.candidate.delay_ms(primary_crashed=False))

    def lease_released(self, now: Instant, successor: NodeId | None) -> None:
        """Stand, at once if the old leader names us; else after whoever it has named."""
        self._was_holding = False
        candidate = self.candidate
        document = self.core.document
        if self.leader is not None or document is None or self.stopping:
            return
        self.core.course.nobody_leads(now, f"{document.primary} gave its lease up")
        if successor == self.core.node and candidate.stand_at_once(now):
            return
        candidate.stop()
        candidate.lease_was_released()
        ahead_ms = head_start_ms(self.core.settings, successor)
        candidate.schedule(now, ahead_ms + candidate.delay_ms(primary_crashed=True))

    # ------------------------------------------------------------ giving up leadership

    def _step_down(self, now: Instant, why: str) -> None:
        leader = self.leader
        assert leader is not None
        self.leader = None
        self.core.course.nobody_leads(now, f"{self.core.node}: {why}")
        self.candidate.stop()
        self.core.emit(
            EventName.STEPPED_DOWN,
            f"no longer leads term {leader.term}: {why}",
            Severity.WARNING,
            term=leader.term,
            reason=why,
        )
        if self._election_due(now) and not self.stopping:
            stagger_ms = self.core.settings.stagger_ms
            self.candidate.schedule(now, stagger_ms + self.candidate.delay_ms(primary_crashed=True))

    # ------------------------------------------------------------ wants

    def _target(self, now: Instant) -> PostgresTarget:
        if self.leader is not None:
            return Stopped(fast=False) if self._late else self.leader.target()
        if self.stopping:
            return Stopped(fast=not self._late)
        return follower_target(self.core, self.voter, self.candidate, now)
