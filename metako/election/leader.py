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
from metako.election.ends import STOP, End
from metako.election.lease import Lease
from metako.election.patience import Patience
from metako.election.quorum import Promise, successor_sync_set
from metako.election.reserve import confirm, first_entry, reserve
from metako.election.syncchange import SyncSetKeeper
from metako.model.document import NO_DOCUMENT, ClusterDocument, DocumentRef, Phase
from metako.model.events import EventName, Severity
from metako.model.ids import NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.model.lsn import format_lsn
from metako.model.postgres import (
    Detached,
    Initialize,
    Leading,
    PostgresTarget,
    ProcessState,
    Stopped,
    Untouched,
)
from metako.model.timeline import TimelineEntry
from metako.wire.messages import DocumentAck, DocumentOffer, Heartbeat, HeartbeatAck


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
        self.active = False  # applications are admitted
        self.higher_promise = Term(0)  # highest term that a voter said it had promised
        self.ending: str = ""  # why the server is being stopped; "" while it is not
        self.sync = SyncSetKeeper(core)
        self.refs: dict[NodeId, DocumentRef] = {}  # newest document known at each member
        self._beat_at_ns = 0
        self._retry_at_ns = 0
        self._began_ns = now.mono_ns
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
        self._beat(now)
        self._check_committed(now)  # a node that is its own majority has nobody to wait for

    def take_office(
        self, now: Instant, base: ClusterDocument, promises: Mapping[NodeId, Promise], reason: str
    ) -> None:
        """Write the first document of the term: the newest one found, with this primary.

        It keeps the data quorum and reserves a timeline number that no reply, document or
        history file has ever named.
        """
        core = self._core
        if self._hold_ms > core.hard.max_hold_ms:
            # We are one of the voters that hold for us, also after a restart.
            core.record(replace(core.hard, max_hold_ms=self._hold_ms))
        document = replace(base, term=self.term, version=base.version + 1, hold_ms=self._hold_ms)
        if base.phase is not Phase.INITIALIZING and not self.attachable:
            observed = core.observed
            assert observed.position is not None
            highest = max(
                *(promise.max_tli for promise in promises.values()),
                observed.max_tli,
                observed.timeline,
            )
            document = replace(
                document,
                primary=core.node,
                primary_data_id=observed.data_id,
                phase=Phase.PROMOTING,
                sync=successor_sync_set(base, core.node, primary_data_id=base.primary_data_id),
                timelines=self._reserve(base, highest, reason),
            )
        self._propose(now, document)
        self._beat(now)

    def _reserve(
        self, base: ClusterDocument, highest: int, reason: str
    ) -> tuple[TimelineEntry, ...]:
        core = self._core
        entries = reserve(
            base.timelines,
            highest=highest,
            term=self.term,
            node=core.node,
            observed=core.observed,
            reason=reason,
        )
        entry = entries[-1]
        core.emit(
            EventName.TIMELINE_RESERVED,
            f"reserved timeline {entry.tli} at {format_lsn(entry.begin_lsn)}",
            timeline=entry.tli,
            parent=entry.parent_tli,
            lsn=format_lsn(entry.begin_lsn),
            term=self.term,
        )
        return entries

    # ------------------------------------------------------------ messages

    def heard_ack(self, now: Instant, sender: NodeId, ack: HeartbeatAck | DocumentAck) -> None:
        """Count a member's answer to a round or a document of this term."""
        if ack.term != self.term:
            return
        if isinstance(ack, HeartbeatAck):
            if ack.boot_epoch != self._core.hard.boot_epoch:
                return
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
            self._beat(now)
        if self.proposal is not None and now.mono_ns >= self._retry_at_ns:
            self._offer(now)
        self._change_sync_set(now)
        told = self.committed is not None and self.committed.phase is Phase.PROMOTING
        why = self._patience.lost(now, promoting=told and not self.attachable)
        if why and self.ending in ("", STOP):  # it hears of no shutdown either
            self.ending, self.active = why, False

    def wakeup(self) -> int:
        due = [self._beat_at_ns]
        if self.ending in ("", STOP):
            due.append(self._patience.wakeup())
        if self.proposal is not None:
            due.append(self._retry_at_ns)
        sync = self.sync.wakeup()
        if sync is not None:
            due.append(sync)
        return min(due)

    def server_changed(self, now: Instant) -> None:
        """Advance by what the server now is: created, promoted, acknowledged, admitting."""
        observed = self._core.observed
        self._patience.looked(now, observed)
        if observed.process is ProcessState.RUNNING:
            self._server_ran = True
        elif observed.process is ProcessState.STOPPED and self._must_run():
            self.end_server("the server is gone")  # first of all it has to stay gone
        document = self.committed
        if document is None or self.proposal is not None or self.ending:
            return
        if document.phase is Phase.INITIALIZING:
            self._initialized(now, document)
            return
        reserved = document.reserved
        assert reserved is not None
        primary = observed.in_recovery is False and observed.timeline == reserved.tli
        if primary and not self.attachable:
            self.attachable = True
            self._core.emit(
                EventName.PROMOTED,
                f"PostgreSQL was promoted to timeline {reserved.tli}",
                term=self.term,
                timeline=reserved.tli,
            )
            self.sync.begin(now)
            self._beat(now)
        if document.phase is Phase.PROMOTING and primary and observed.marker_term >= self.term:
            activated = replace(
                document,
                version=document.version + 1,
                phase=Phase.ACTIVE,
                timelines=confirm(document.timelines, observed.history),
            )
            self._propose(now, activated)
        elif document.phase is Phase.ACTIVE and observed.admitting and not self.active:
            self.active = True
            self._core.emit(
                EventName.PRIMARY_ACTIVE,
                f"{self._core.node} is the primary of term {self.term}",
                term=self.term,
                timeline=reserved.tli,
            )
            self._beat(now)
        self._change_sync_set(now)

    def _initialized(self, now: Instant, document: ClusterDocument) -> None:
        """The first database exists: reserve the timeline that it will be promoted to."""
        observed = self._core.observed
        if observed.position is None or not observed.system_id or not observed.data_id:
            return
        first = first_entry(observed, term=self.term, node=self._core.node)
        base = replace(
            document,
            system_id=observed.system_id,
            primary_data_id=observed.data_id,
            timelines=(first,),
        )
        highest = max(observed.max_tli, observed.timeline, first.tli)
        self._propose(
            now,
            replace(
                base,
                version=document.version + 1,
                phase=Phase.PROMOTING,
                timelines=self._reserve(base, highest, "bootstrap"),
            ),
        )

    # ------------------------------------------------------------ wants

    def target(self) -> PostgresTarget:
        if self.ending:
            return Stopped(fast=self.ending == STOP)
        document = self.committed
        if document is None:
            return Untouched() if self._resumed else Detached(self.term)
        if document.phase is Phase.INITIALIZING:
            return Initialize()
        older = document.term != self.term and not self.attachable
        if older or self.lease.until_boot_ns == 0:
            return Detached(self.term)
        reserved = document.reserved
        assert reserved is not None
        return Leading(
            term=self.term,
            tli=reserved.tli,
            sync=self.sync.setting(document),
            admit=document.phase is Phase.ACTIVE and (document.term == self.term or self.active),
        )

    def end_server(self, why: str) -> None:
        """Stop the server for good; the lease is released once it is verified gone."""
        if not self.ending:
            self.ending = why
            self.active = False

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

    def _in_office(self) -> bool:
        return self.committed is not None and self.committed.term == self.term

    def _must_run(self) -> bool:
        made = self.committed is not None and self.committed.phase is not Phase.INITIALIZING
        return self._server_ran and made

    # ------------------------------------------------------------ rounds and documents

    def _beat(self, now: Instant) -> None:
        core = self._core
        self._beat_at_ns = now.mono_ns + milliseconds(core.settings.heartbeat_ms)
        round_ = self.lease.begin_round(now)
        committed = self.committed.ref if self.committed else NO_DOCUMENT
        beat = Heartbeat(
            term=self.term,
            boot_epoch=core.hard.boot_epoch,
            round=round_,
            hold_ms=self._hold_ms,
            committed=committed,
            # By a document that stays on a minority nobody may follow: others elect by another.
            attachable=self.attachable and not self.ending and self._in_office(),
            active=self.active and not self.ending,
        )
        core.broadcast(core.others(), beat)
        if self.proposal is None and self.committed is not None:
            behind = [n for n in core.others() if self.refs.get(n, committed) < committed]
            core.broadcast(behind, DocumentOffer(self.term, self.committed))
        self._renew(now)

    def _renew(self, now: Instant) -> None:
        document = self._core.document
        assert document is not None
        first = self.lease.until_boot_ns == 0
        if self.lease.renew(document, self._hold_ms) and first:
            self._core.emit(
                EventName.LEASE_GAINED,
                f"holds the lease of term {self.term}",
                term=self.term,
                remaining_ms=self.lease.remaining_ms(now),
            )

    def _propose(self, now: Instant, document: ClusterDocument) -> None:
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
        core.broadcast(waiting, DocumentOffer(self.term, self.proposal))

    def _check_committed(self, now: Instant) -> None:
        core, proposal = self._core, self.proposal
        if proposal is None:
            return
        wanted = proposal.ref
        holders = {n for n, ref in self.refs.items() if ref >= wanted} | {core.node}
        if not proposal.has_majority(holders):
            return
        entered = self.attachable and not self._in_office()
        self.proposal, self.committed = None, proposal
        core.emit(
            EventName.DOCUMENT_COMMITTED,
            f"document {proposal.ref} is on a majority",
            Severity.DEBUG,
            document=str(proposal.ref),
            phase=str(proposal.phase),
        )
        self.sync.committed(proposal)
        if entered:
            self._beat(now)  # the standbys wait for it: they left for the promise of this term
        self.server_changed(now)

    def _change_sync_set(self, now: Instant) -> None:
        if not self.attachable or self.ending or self.proposal or self.committed is None:
            return
        if not self.sync.due(now, self.committed):
            return
        sync = self.sync.next_document(now, self.committed)
        if sync is not None:
            document = replace(self.committed, version=self.committed.version + 1, sync=sync)
            self._propose(now, document)
