"""A voter's side of agreement: holds, pre-votes, votes with the replication promise, documents.

A vote is more than a name. The voter (a) refuses while its hold is unexpired, a full hold after
its own restart included; (b) makes the vote and the promise durable; (c) from then on rejects
everything of a lower term; (d) if it holds data, has its server detached from the old primary and
only then says that the promise is kept, with the end of the WAL on its disk. From that moment the
old primary can collect at most k − 1 acknowledgements: alive, paused, partitioned or with a broken
clock, it can acknowledge nothing more.

Source: DESIGN §4.3.
"""

from __future__ import annotations

from dataclasses import replace

from metako.election.core import Core
from metako.election.lease import Hold
from metako.election.pausing import barred
from metako.model.document import NO_DOCUMENT, DocumentRef
from metako.model.events import EventName
from metako.model.ids import DataId, NodeId, Term
from metako.model.instant import Instant, milliseconds
from metako.wire.messages import (
    DocumentAck,
    DocumentCopy,
    DocumentOffer,
    DocumentWanted,
    Heartbeat,
    HeartbeatAck,
    Inquiry,
    InquiryReply,
    PreVoteReply,
    PreVoteRequest,
    Refusal,
    Release,
    ShortDocument,
    TermRejected,
    VoteReply,
    VoteRequest,
)
from metako.wire.short import rebuild


class Voter:
    """Answers candidates and leaders. `leading` says whether this node leads at the moment."""

    def __init__(self, core: Core, now: Instant) -> None:
        self._core = core
        self.hold = Hold()
        self.heartbeat: Heartbeat | None = None  # newest one accepted in this boot
        self.heartbeat_at: Instant | None = None
        self.leader: NodeId | None = None  # sender of `heartbeat`
        self._voted: tuple[NodeId, Term] | None = None  # newest vote given in this boot
        self._answered: tuple[NodeId, Term] | None = None  # vote whose kept promise is to be told
        if core.hard.max_hold_ms:
            # Whatever was acknowledged before the restart may still be running, and the clock of
            # the acknowledgement is lost: hold in full.
            self.hold.until_ns = now.mono_ns + milliseconds(core.hard.max_hold_ms)

    def held_leader(self, now: Instant) -> NodeId | None:
        """Return for whom this node holds; None for nobody, or for whoever led before a restart."""
        return self.hold.leader if self.hold.active(now) else None

    def released_own(self, now: Instant) -> None:
        """Hold for nobody any more: this node has released the lease that it led by.

        After a restart it holds in full for whatever it may have acknowledged before. That was its
        own lease: it was elected by its own vote, and votes only when every hold has ended.
        """
        self.hold.until_ns = min(self.hold.until_ns, now.mono_ns)

    # ------------------------------------------------------------ leader's messages

    def heard_heartbeat(self, now: Instant, sender: NodeId, beat: Heartbeat) -> bool:
        """Accept or reject a round; return whether it was accepted."""
        core = self._core
        if not self._acceptable(sender, beat.term):
            return False
        if not core.may_vote:
            return False
        core.promise(beat.term)
        if beat.attachable:
            core.heir.invited(now)
        else:
            core.heir.stands(now)
        core.remember_hold(beat.hold_ms)
        self.hold.extend(now, beat.hold_ms, sender, beat.term, beat.boot_epoch, beat.round)
        before = self.heartbeat
        self.heartbeat, self.heartbeat_at, self.leader = beat, now, sender
        if core.document is not None and beat.committed == core.document_ref:
            core.sole.committed(core.document)
        core.send(sender, HeartbeatAck(beat.term, beat.boot_epoch, beat.round, core.document_ref))
        if before is None or before.term != beat.term:
            core.emit(
                EventName.LEASE_GAINED,
                f"follows {sender} in term {beat.term}",
                leader=sender,
                term=beat.term,
            )
        return True

    def heard_offer(self, now: Instant, sender: NodeId, offer: DocumentOffer) -> bool:
        """Make a leader's document durable; return whether it is now the one held."""
        core = self._core
        if not self._acceptable(sender, offer.term) or offer.document.term != offer.term:
            return False
        known = core.document
        if known is not None and known.cluster_id != offer.document.cluster_id:
            return False
        core.promise(offer.term)
        if core.adopt(offer.document):
            core.emit(
                EventName.DOCUMENT_ADOPTED,
                f"adopted document {offer.document.ref} of {sender}",
                document=str(offer.document.ref),
                leader=sender,
            )
        if core.document_ref >= offer.document.ref and core.may_vote:
            core.send(sender, DocumentAck(offer.term, offer.document.ref))
        return True

    def heard_short(self, now: Instant, sender: NodeId, short: ShortDocument) -> None:
        """Take a leader's document or a copy that comes without what is here already.

        Of one that cannot be made whole nothing is taken: the whole is asked for.
        """
        core, term = self._core, short.term
        if term is not None and not self._acceptable(sender, term):
            return
        whole = rebuild(short, core.document)
        if whole is None:
            if short.document.ref > core.document_ref:
                core.send(sender, DocumentWanted(short.document.ref))
        elif term is None:
            self.heard_copy(sender, DocumentCopy(whole))
        else:
            self.heard_offer(now, sender, DocumentOffer(term, whole))

    def heard_copy(self, sender: NodeId, copy: DocumentCopy) -> bool:
        """Adopt a newer document from anybody. It is no leader's word: nothing is promised.

        A vote that was given is told once more: our WAL is now judged by the newer document. So are
        we, and where that says that our record counts no more, neither does the vote that it gave.
        """
        core = self._core
        if not core.adopt(copy.document):
            return False
        core.emit(
            EventName.DOCUMENT_ADOPTED,
            f"adopted document {copy.document.ref} from {sender}",
            document=str(copy.document.ref),
            source=sender,
        )
        voted = self._voted is not None and core.may_vote
        if voted and (core.hard.voted_for, core.hard.term) == self._voted:
            candidate, term = self._voted
            if term == core.hard.promised_term:
                self._reply(candidate, term, None)
        return True

    def heard_release(self, now: Instant, sender: NodeId, release: Release) -> bool:
        """End the hold that the leader gave up; return whether it was ended."""
        if not self.hold.active(now):
            return False
        if not self.hold.released_by(sender, release.term, release.boot_epoch, release.last_round):
            return False
        self.hold.until_ns = now.mono_ns
        self._core.emit(
            EventName.RELEASE_HEARD,
            f"{sender} released the lease of term {release.term}",
            leader=sender,
            term=release.term,
        )
        return True

    def heard_inquiry(self, sender: NodeId, inquiry: Inquiry) -> None:
        core = self._core
        if core.document is None:
            core.record(replace(core.hard, asked=True))
        hard = core.hard
        reply = InquiryReply(inquiry.nonce, core.has_data(), core.document_ref, hard.record_id)
        core.send(sender, reply)
        self._copy_document(sender, NO_DOCUMENT)

    # ------------------------------------------------------------ candidates' messages

    def heard_pre_vote(
        self, now: Instant, sender: NodeId, request: PreVoteRequest, *, leading: bool
    ) -> bool:
        """Answer a pre-vote, changing nothing; return whether we are the better candidate."""
        core = self._core
        refusal: Refusal | None = None
        better = False
        own = core.advisory_position()
        if not core.may_vote:
            refusal = Refusal.NOT_VOTING
        elif request.term <= core.hard.promised_term:
            refusal = Refusal.TERM
        elif leading or (
            self._holding_for_another(now, sender) and not self._named(request, sender)
        ):
            refusal = Refusal.HOLD
        elif request.document_ref < core.document_ref:
            refusal = Refusal.DOCUMENT
        elif (
            own is not None
            and core.observed.in_recovery is True
            and core.cluster.priority > 0
            and not core.unwatched
            and not core.is_witness
            and not barred(core.document, core.node)
            and (request.position is None or own > request.position)
        ):
            refusal = Refusal.WAL
            better = not request.sounding
        if request.document_ref < core.document_ref:
            self._copy_document(sender, request.document_ref)  # whatever else speaks against it
        core.send(
            sender,
            PreVoteReply(
                request.term,
                request.nonce,
                refusal is None,
                refusal,
                core.hard.promised_term,
                core.document_ref,
                self.hold.remaining_ms(now),
                core.observed.data_id if request.sounding else DataId(""),
                own if request.sounding else None,
            ),
        )
        return better

    def heard_vote_request(
        self, now: Instant, sender: NodeId, request: VoteRequest, *, leading: bool
    ) -> bool:
        """Vote, or refuse; return whether a vote was newly given.

        A leader that asks again for a term that we already gave it gets the same answer, with
        the newest state of the promise.
        """
        core = self._core
        refusal = self._refusal(now, sender, request, leading=leading)
        if refusal is not None:
            if refusal is Refusal.TERM and request.term < core.hard.promised_term:
                core.send(sender, TermRejected(request.term, core.hard.promised_term))
            self._reply(sender, request.term, refusal)
            return False
        fresh = not (core.hard.term == request.term and core.hard.voted_for == sender)
        if fresh:
            core.promise(request.term, voted_for=sender)
            core.emit(
                EventName.VOTE_GRANTED,
                f"voted for {sender} in term {request.term}",
                candidate=sender,
                term=request.term,
            )
        if request.document_ref < core.document_ref:
            self._copy_document(sender, request.document_ref)
        self._voted = sender, request.term
        core.heir.stands(now)
        self._answered = None if core.detached(request.term) else self._voted
        self._reply(sender, request.term, None)
        return fresh

    def server_changed(self) -> None:
        """Tell the candidate that we voted for as soon as the promise is kept."""
        if self._answered is None or not self._core.may_vote:
            return
        candidate, term = self._answered
        if term < self._core.hard.promised_term or not self._core.detached(term):
            return
        self._answered = None
        self._core.emit(
            EventName.PROMISE_KEPT,
            f"detached for term {term}",
            term=term,
            position=str(self._core.observed.position),
        )
        self._reply(candidate, term, None)

    # ------------------------------------------------------------ helpers

    def _refusal(
        self, now: Instant, sender: NodeId, request: VoteRequest, *, leading: bool
    ) -> Refusal | None:
        core = self._core
        if not core.may_vote:
            return Refusal.NOT_VOTING
        if request.term < core.hard.promised_term:
            return Refusal.TERM
        if request.term == core.hard.term and core.hard.voted_for not in (None, sender):
            return Refusal.TERM
        if request.term == core.hard.promised_term and core.hard.term < request.term:
            # We follow a leader of this term without having voted in it: the vote is spent.
            return Refusal.TERM
        if leading or self._holding_for_another(now, sender):
            return Refusal.HOLD
        return None

    def _holding_for_another(self, now: Instant, candidate: NodeId) -> bool:
        # The holder of the lease may stand again at a higher term without waiting for itself.
        return self.hold.active(now) and self.hold.leader != candidate

    def _named(self, request: PreVoteRequest, sender: NodeId) -> bool:
        """Return whether the leader itself, for whom we hold, has the sender ask."""
        beat = self.heartbeat
        asked = request.sounding and beat is not None and beat.heir == sender
        return asked and self.hold.leader == self.leader

    def _acceptable(self, sender: NodeId, term: Term) -> bool:
        core = self._core
        if term < core.hard.promised_term:
            core.send(sender, TermRejected(term, core.hard.promised_term))
            return False
        return True

    def _copy_document(self, to: NodeId, held: DocumentRef) -> None:
        document = self._core.document
        if document is not None:
            self._core.copy(to, document, held)

    def _reply(self, to: NodeId, term: Term, refusal: Refusal | None) -> None:
        core = self._core
        own = core.own_promise(term)
        core.send(
            to,
            VoteReply(
                term=term,
                granted=refusal is None,
                refusal=refusal,
                promised=core.hard.promised_term,
                document_ref=core.document_ref,
                detached=refusal is None and own.detached,
                data_id=own.data_id,
                position=own.position,
                can_lead=own.can_lead,
                priority=own.priority,
                max_tli=own.max_tli,
            ),
        )
