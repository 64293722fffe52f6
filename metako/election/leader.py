"""Leading: rounds and the lease, replicating the document, promoting, changing the sync set.

A leader makes each version of the document durable on a majority before it acts on it, has one
version under way at a time, and never abandons or replaces one that it has sent. What it wants of
its PostgreSQL server follows from the *committed* document and from the lease, and is asked for by
`target()`; what has happened is read from the observation. So a step that is repeated, or whose
answer is lost, does no harm.

Deliberately unaware of how elections are won and of what happens after leadership ends: it says
that it is over (`ended`) and why, and `Election` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from metako.election.core import Core
from metako.election.decisions import Decisions
from metako.election.ends import HANDOVER, PLANNED, STOP, End
from metako.election.handover import SHUTDOWN_MS, Handover
from metako.election.lease import Lease
from metako.election.office import (
    Mandate,
    activated_document,
    first_document,
    founders_document,
    may_invite,
    tell_active,
    tell_promoted,
    to_be_promoted,
)
from metako.election.pair import electorate
from metako.election.patience import Patience
from metako.election.quorum import Promise
from metako.election.syncchange import SyncSetKeeper
from metako.model.document import NO_DOCUMENT, ClusterDocument, DocumentRef, Phase
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.model.orders import Order, OrderAnswer
from metako.model.postgres import (
    Initialize,
    Leading,
    PostgresTarget,
    ProcessState,
    Stopped,
    Untouched,
)
from metako.wire.messages import DocumentAck, Heartbeat, HeartbeatAck


class Leader:
    """One leadership of this node, in one term."""

    def __init__(
        self,
        core: Core,
        now: Instant,
        term: Term,
        *,
        incumbent: Leader | None = None,
    ) -> None:
        self._core = core
        self.term = term
        self.lease = Lease(core.settings, core.node, term)
        self.committed: ClusterDocument | None = None  # newest one durable on a majority
        self.proposal: ClusterDocument | None = None  # sent, not yet on a majority
        self.attachable = False  # our server is the primary of the term's timeline
        self._invites = False  # standbys may connect already, so that they are there when it is
        self.active = False  # applications are admitted
        self.higher_promise = Term(0)  # highest term that a voter said it had promised
        self.ending: str = ""  # why the server is being stopped; "" while it is not
        self.sync = SyncSetKeeper(core)
        self.handover = Handover(core)
        self.decisions = Decisions(core, self.handover)
        self.refs: dict[NodeId, DocumentRef] = {}  # newest document known at each member
        self._beat_at_ns = 0
        self._retry_at_ns = 0
        self._began_ns = now.mono_ns
        self._end_by_ns: int | None = None  # a shutdown for a switchover is not waited for longer
        self._server_ran = False  # our server ran under this leadership
        self._patience = Patience(core.settings, now)
        self._resumed = False  # an earlier agent led; nothing is known of the server yet
        self._hold_ms = core.settings.hold_ms
        if incumbent is not None:
            # The old lease was granted by the same voters for the same node: it goes on counting.
            self.lease.until_boot_ns = incumbent.lease.until_boot_ns
            self.attachable, self.active = incumbent.attachable, incumbent.active
            self._server_ran = incumbent._server_ran
            self._patience.adopt(incumbent._patience)
            self.committed = incumbent.committed
            self.sync.adopt(incumbent.sync)
            self.handover.adopt(incumbent.handover)
            self.decisions.adopt(incumbent.decisions)

    # ------------------------------------------------------------ taking office

    def resume(self, now: Instant, document: ClusterDocument, until_boot_ns: int) -> None:
        """Go on with a leadership that an earlier agent of this node held.

        Its lease runs until `until_boot_ns` and is renewed only by a new majority round. Its
        newest document may have been sent and not committed: it is offered again.
        """
        self.lease.until_boot_ns = until_boot_ns
        self._resumed = True
        self._patience.resumed()
        self._server_ran = True  # under the agent before: found gone, it ends this like any other
        self.proposal = document
        self._offer(now)
        self.beat(now)
        self._check_committed(now)  # a node that is its own majority has nobody to wait for

    def take_office(
        self, now: Instant, base: ClusterDocument, promises: Mapping[NodeId, Promise], why: Mandate
    ) -> None:
        """Write the first document of the term, as `office` makes it, and begin to lead."""
        core = self._core
        core.remember_hold(self._hold_ms)  # we are one of the voters that hold for us
        won, hold_ms, serving = promises.values(), self._hold_ms, self.attachable
        first = first_document(core, base, self.term, won, why, hold_ms, serving=serving)
        if first.phase is not Phase.INITIALIZING and not serving:
            self.decisions.succeeded(base)
        self.propose(now, first)
        self.beat(now)

    # ------------------------------------------------------------ messages

    def heard_ack(self, now: Instant, sender: NodeId, ack: HeartbeatAck | DocumentAck) -> None:
        """Count a member's answer to a round or a document of this term."""
        if ack.term != self.term:
            return
        if isinstance(ack, HeartbeatAck):
            if ack.boot_epoch != self._core.hard.boot_epoch:
                return
            if self.electorate.counts(sender, ack.document_ref):
                self.lease.answer(sender, ack.round)
            self._renew(now)
        self.refs[sender] = max(ack.document_ref, self.refs.get(sender, ack.document_ref))
        self._check_committed(now)

    def heard_rejected(self, promised: Term) -> None:
        self.higher_promise = max(self.higher_promise, promised)

    def must_stand_again(self) -> bool:
        """Return whether somebody has promised a higher term while our server is the primary."""
        return self.higher_promise > self.term and self.attachable and not self.ending

    # ------------------------------------------------------------ time and the server

    def tick(self, now: Instant) -> None:
        if now.mono_ns >= self._beat_at_ns:
            self.beat(now)
        if self.proposal is not None and now.mono_ns >= self._retry_at_ns:
            self._offer(now)
        self._go_on(now)
        told = self.committed is not None and self.committed.phase is Phase.PROMOTING
        why = self._patience.lost(now, promoting=told and not self.attachable)
        if self._end_by_ns is not None and now.mono_ns >= self._end_by_ns:
            why = why or "its shutdown takes too long"
        if why and self.ending in ("", *PLANNED):  # it hears of no shutdown either
            self.ending, self.active = why, False

    def wakeup(self) -> int:
        due = [self._beat_at_ns]
        if self.ending in ("", *PLANNED):
            due.append(self._patience.wakeup())
        if self.proposal is not None:
            due.append(self._retry_at_ns)
        sync = self.sync.wakeup() if self._settled() else None
        document = self._handing_over()
        handover = self.handover.wakeup(document)
        restarts = self.decisions.restarts.wakeup(document if self._in_office() else None)
        ends = self._end_by_ns if self.ending == HANDOVER else None
        due.extend(at for at in (sync, handover, restarts, ends) if at is not None)
        return min(due)

    def server_changed(self, now: Instant) -> None:
        """Advance by what the server now is: created, promoted, acknowledged, admitting."""
        observed = self._core.observed
        self._patience.looked(now, observed)
        self.handover.heirs.looked(observed)
        if observed.process is ProcessState.RUNNING:
            self._server_ran = True
        elif observed.process is ProcessState.STOPPED and self._must_run():
            self.end_server("the server is gone")  # first of all it has to stay gone
        document = self.committed
        if document is None or self.proposal is not None or self.ending:
            return
        if document.phase is Phase.INITIALIZING:
            founded = founders_document(self._core, document, self.term, now)
            if founded is not None:
                self.propose(now, founded)
            return
        reserved = document.reserved
        assert reserved is not None
        primary = observed.in_recovery is False and observed.timeline == reserved.tli
        if primary and not self.attachable:
            self.attachable = True
            self._core.course.promoted(now)
            tell_promoted(self._core, self.term, reserved.tli)
            self.sync.begin(now)
            self.beat(now)
        if document.phase is Phase.PROMOTING and primary and observed.marker_term >= self.term:
            self.propose(now, activated_document(self._core, document, now))
        elif document.phase is Phase.ACTIVE and observed.admitting and not self.active:
            self.active = True
            tell_active(self._core, self.term, reserved.tli)
            self.handover.completed(self.term, reserved.tli)
            self.beat(now)
        self._go_on(now)

    def target(self) -> PostgresTarget:
        if self.ending:
            planned = self.ending in PLANNED
            return Stopped(fast=planned, successor=self.successor() if planned else None)
        document = self.committed
        if document is None:
            return Untouched() if self._resumed else to_be_promoted(self.term, self.proposal)
        if document.phase is Phase.INITIALIZING:
            return Initialize()
        older = document.term != self.term and not self.attachable
        if older or self.lease.until_boot_ns == 0:
            return to_be_promoted(self.term, document)
        reserved = document.reserved
        assert reserved is not None
        return Leading(
            term=self.term,
            tli=reserved.tli,
            sync=self.sync.setting(document),
            admit=document.phase is Phase.ACTIVE and (document.term == self.term or self.active),
            checkpoint=self.handover.checkpoint(document) if self.active else "",
        )

    def end_server(self, why: str) -> None:
        """Stop the server for good; the lease is released once it is verified gone."""
        if not self.ending:
            self.ending = why
            self.active = False

    def answer(self, now: Instant, order: Order) -> OrderAnswer | None:
        """Take an operator's order or refuse it; None while it has to wait."""
        return self.decisions.answer(now, order, self)

    def stop(self, now: Instant) -> None:
        """Have the server stopped because the node is to stop, handing over if there is an heir."""
        self.handover.stop(now, self)
        if self.ending == STOP:
            self.beat(now)  # whoever holds for us sends applications to us no longer

    def successor(self) -> NodeId | None:
        """Return who should stand once the server is gone; None if nobody is known to be fit."""
        return self.handover.successor(self)

    def _handing_over(self) -> ClusterDocument | None:
        """Return the document by which a switchover may go on; None while nothing may be done."""
        may = self._settled() and self.active and not self.must_stand_again()
        return self.committed if may else None

    def _hand_over(self, now: Instant) -> None:
        if (document := self._handing_over()) is None:
            return
        self.handover.advance(now, self, document)
        if self.ending == HANDOVER:
            limit_ms = min(SHUTDOWN_MS, self._core.settings.stop_timeout_ms)
            self._end_by_ns = now.mono_ns + milliseconds(limit_ms)
        if self.ending:
            self.beat(now)

    def _settled(self) -> bool:
        """Return whether another change may begin: there is none under way, and no end."""
        return self.attachable and not self.ending and self.proposal is None

    def over(self, now: Instant) -> End | None:
        """Return why this leadership has ended, or None while it goes on."""
        core = self._core
        document = core.document
        if document is not None and document.primary != core.node and document.term >= self.term:
            return End.DEPOSED
        if core.server_gone() and (self.ending or self._must_run()):
            return End.SERVER
        if self.lease.until_boot_ns == 0:
            limit = self._began_ns + milliseconds(core.settings.candidacy_timeout_ms)
            return End.LEASE if now.mono_ns > limit else None
        return None if self.lease.valid(now) else End.LEASE

    @property
    def electorate(self) -> ClusterDocument:
        """Return the document whose voters grant the lease: the newest one that is agreed on."""
        return electorate(self.committed, self._core.document, resumed=self._resumed)

    def _in_office(self) -> bool:
        return self.committed is not None and self.committed.term == self.term

    def _must_run(self) -> bool:
        made = self.committed is not None and self.committed.phase is not Phase.INITIALIZING
        return self._server_ran and made

    # ------------------------------------------------------------ rounds and documents

    def beat(self, now: Instant) -> int:
        """Begin a round and return its number; it also carries what is news of this leader."""
        core = self._core
        self._beat_at_ns = now.mono_ns + milliseconds(core.settings.heartbeat_ms)
        committed = self.committed.ref if self.committed else NO_DOCUMENT
        in_order = self.ending in ("", *PLANNED)
        beat = Heartbeat(
            term=self.term,
            boot_epoch=core.hard.boot_epoch,
            round=(round_ := self.lease.begin_round(now)),
            hold_ms=self._hold_ms,
            committed=committed,
            # By a document of a minority nobody may follow. In a planned end all have to get all.
            attachable=(self.attachable or self._invites) and in_order and self._in_office(),
            active=self.active and not self.ending,
            heir=self.handover.blocked.heir,
        )
        core.broadcast(core.others(), beat)
        if self.proposal is None and self.committed is not None:
            behind = [n for n in core.others() if self.refs.get(n, committed) < committed]
            core.offer(behind, self.committed, self.term)
            self.decisions.members.tell_strangers(self.committed, self.refs)
        self._renew(now)
        return round_

    def _renew(self, now: Instant) -> None:
        first = self.lease.until_boot_ns == 0
        if self.lease.renew(self.electorate, self._hold_ms, self.proposal) and first:
            self._core.emit(
                EventName.LEASE_GAINED,
                f"holds the lease of term {self.term}",
                term=self.term,
                remaining_ms=self.lease.remaining_ms(now),
            )

    def propose(self, now: Instant, document: ClusterDocument) -> None:
        """Make the next version durable here and offer it; no other may be under way."""
        assert self.proposal is None, "one version at a time"
        core = self._core
        adopted = core.adopt(document)
        assert adopted, (document.ref, core.document_ref)
        self.proposal = document
        self._offer(now)
        self._check_committed(now)

    def _offer(self, now: Instant) -> None:
        core = self._core
        assert self.proposal is not None
        self._retry_at_ns = now.mono_ns + milliseconds(core.settings.retry_ms)
        ref = self.proposal.ref
        waiting = [n for n in core.others() if self.refs.get(n, NO_DOCUMENT) < ref]
        core.offer(waiting, self.proposal, self.term)

    def _check_committed(self, now: Instant) -> None:
        core, proposal = self._core, self.proposal
        if proposal is None:
            return
        wanted = proposal.ref
        holders = {n for n, ref in self.refs.items() if ref >= wanted} | {core.node}
        if not proposal.grants(holders) or not self.electorate.grants(holders):
            return
        entered = self.attachable and not self._in_office()
        decides = self.electorate.decider != proposal.decider  # it may only once it hears so
        self.lease.agreed(self.committed, proposal)
        self.proposal, self.committed = None, proposal
        core.sole.committed(proposal)
        core.course.committed(now)
        core.emit(
            EventName.DOCUMENT_COMMITTED,
            f"document {proposal.ref} is on a majority",
            Severity.DEBUG,
            document=str(proposal.ref),
            phase=str(proposal.phase),
        )
        self.sync.committed(proposal)
        invites = may_invite(core, proposal, self.term)
        self._invites |= invites
        if entered or decides or invites:
            self.beat(now)  # the standbys wait for it: they left for the promise of this term
        self.server_changed(now)

    def _go_on(self, now: Instant) -> None:
        """Begin whatever change is due, one at a time."""
        self._change_sync_set(now)
        self._hand_over(now)
        document = self._handing_over()
        if document is not None and self._in_office():
            self.decisions.advance(now, self, document)
            if self.ending:
                self.beat(now)

    def _change_sync_set(self, now: Instant) -> None:
        if self.committed is None or not self._settled():
            return
        if not self.sync.due(now, self.committed):
            return
        sync = self.sync.next_document(now, self.committed)
        if sync is not None:
            document = replace(self.committed, version=self.committed.version + 1, sync=sync)
            self.propose(now, document)
