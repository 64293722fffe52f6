"""Bugs in votes, promises, documents and quorums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metako.election import catchup, leader, office, quorum, wants
from metako.election.candidate import Candidate
from metako.election.core import Core, Standing
from metako.election.election import Election
from metako.election.leader import Leader
from metako.election.quorum import Promise
from metako.election.reserve import reserve
from metako.election.voter import Voter
from metako.model import document as documents
from metako.model.document import ClusterDocument, SyncSet
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import RankedPosition, WalPosition
from metako.model.postgres import DataState, ProcessState
from metako.model.timeline import TimelineEntry, rank
from metako.wire.messages import Refusal
from sim.mutations.base import Mutation, Patch


def _half_is_a_majority(patch: Patch) -> None:
    patch.set(documents, "majority_of", lambda count: max(1, count // 2))


def _vote_given_twice(patch: Patch) -> None:
    honest = Voter._refusal

    def forgetful(self: Voter, *args: Any, **options: Any) -> Refusal | None:
        core, request = self._core, args[2]
        if request.term == core.hard.term == core.hard.promised_term:
            core.hard = replace(core.hard, voted_for=None)
        return honest(self, *args, **options)

    patch.set(Voter, "_refusal", forgetful)


def _lower_term_accepted(patch: Patch) -> None:
    patch.set(Voter, "_acceptable", lambda *_: True)


def _vote_forgotten(patch: Patch) -> None:
    """Leave the vote out of the record: it is remembered only as long as the agent lives."""
    honest = Core.promise

    def forgetful(self: Core, term: Term, voted_for: NodeId | None = None) -> None:
        honest(self, term, None)

    patch.set(Core, "promise", forgetful)


def _data_quorum_ignored(patch: Patch) -> None:
    patch.set(quorum, "data_quorum", lambda *_: True)


def _positions_ignored(patch: Patch) -> None:
    def counted(doc: ClusterDocument, _: object, promises: Mapping[NodeId, Promise]) -> bool:
        members = [p for p in promises.values() if p.node in doc.sync.nodes() and p.detached]
        return doc.primary in promises or (
            bool(doc.sync.members) and len(members) >= doc.sync.read_quorum
        )

    patch.set(quorum, "data_quorum", counted)
    patch.set(quorum, "_better", lambda *_: None)


def _one_short_of_the_data_quorum(patch: Patch) -> None:
    """Take |S| − k promises for a data quorum instead of |S| − k + 1."""
    patch.set(SyncSet, "read_quorum", property(lambda self: max(1, len(self.members) - self.k)))


def _any_data_counts(patch: Patch) -> None:
    """Count the promise of a listed node whatever data it now has."""
    honest = quorum.data_quorum

    def blind(doc: ClusterDocument, position: Any, promises: Mapping[NodeId, Promise]) -> bool:
        same = {
            node: replace(p, data_id=doc.sync.data_id_of(node) or p.data_id)
            for node, p in promises.items()
        }
        return honest(doc, position, same)

    patch.set(quorum, "data_quorum", blind)


def _promise_before_detached(patch: Patch) -> None:
    honest = Core.own_promise

    def hasty(self: Core, term: Term) -> Promise:
        promise = honest(self, term)
        if promise.detached:
            return promise
        return replace(promise, detached=True, position=self.advisory_position())

    patch.set(Core, "own_promise", hasty)


def _running_primary_promises(patch: Patch) -> None:
    """Take a server that is not in recovery for one that can acknowledge nothing any more."""
    honest = Core.own_promise

    def hasty(self: Core, term: Term) -> Promise:
        promise = honest(self, term)
        running = self.observed.in_recovery is False
        if promise.detached or not (running or self.observed.process is ProcessState.DYING):
            return promise
        return replace(promise, detached=True, position=self.advisory_position())

    patch.set(Core, "own_promise", hasty)
    patch.set(
        Election,
        "_leading",
        lambda self, now: self.leader is not None and self.leader.lease.valid(now),
    )


def _stale_document_used(patch: Patch) -> None:
    """Judge the candidacy by one's own document, whatever the repliers hold."""
    honest = Candidate.heard_vote_reply

    def deaf(self: Candidate, now: Any, sender: NodeId, reply: Any) -> None:
        honest(self, now, sender, reply)
        self._documents.pop(sender, None)

    patch.set(Candidate, "heard_vote_reply", deaf)
    patch.set(Voter, "_copy_document", lambda *_: None)


def _acts_before_commit(patch: Patch) -> None:
    """Take a version of the document as agreed as soon as it is sent."""

    def hasty(self: Leader, now: Any) -> None:
        proposal = self.proposal
        if proposal is not None:
            self.proposal, self.committed = None, proposal
            self.sync.committed(proposal)
            self.server_changed(now)

    patch.set(Leader, "_check_committed", hasty)


def _old_primary_left_out(patch: Patch) -> None:
    honest = quorum.successor_sync_set

    def forgetful(doc: ClusterDocument, winner: NodeId, **options: Any) -> SyncSet:
        new = honest(doc, winner, **options)
        kept = tuple(m for m in new.members if m.node != doc.primary)
        return SyncSet(kept, min(new.k, len(kept)))

    patch.set(office, "successor_sync_set", forgetful)


def _sync_set_emptied_by_election(patch: Patch) -> None:
    patch.set(office, "successor_sync_set", lambda *_, **__: SyncSet())


def _timeline_reused(patch: Patch) -> None:
    def reusing(entries: tuple[TimelineEntry, ...], **options: Any) -> tuple[TimelineEntry, ...]:
        entry = reserve(entries, **options)[-1]
        confirmed = tuple(e for e in entries if e.confirmed)
        number = TimelineId(max(e.tli for e in confirmed) + 1)
        return (*confirmed, replace(entry, tli=number))

    patch.set(office, "reserve", reusing)


def _promise_not_kept_by_follower(patch: Patch) -> None:
    """Follow the document's primary again although a higher term was promised."""
    honest = wants.follower_target

    def forgetful(core: Core, *args: Any) -> object:
        kept = core.hard
        core.hard = replace(kept, promised_term=min(kept.promised_term, kept.document_ref.term))
        try:
            return honest(core, *args)
        finally:
            core.hard = kept

    from metako.election import election

    patch.set(election, "follower_target", forgetful)


def _lost_record_votes(patch: Patch) -> None:
    """Let a voter that has lost its durable record vote as if it had never voted."""
    honest = Core.standing_in

    def careless(self: Core, document: ClusterDocument | None) -> Standing:
        standing = honest(self, document)
        return Standing.COUNTS if standing is Standing.LOST else standing

    patch.set(Core, "standing_in", careless)
    patch.set(Core, "may_vote", property(lambda self: self.voting))


def _diverged_counts(patch: Patch) -> None:
    """Take any server for one on the document's history, its WAL for that of the newest timeline.

    To leave the test out alone breaks nothing: WAL off the history then ranks by the term of its
    own timeline, which is lower than that of whatever was acknowledged since.
    """
    honest = Core.diverged

    def ranked(self: Core, position: WalPosition | None) -> RankedPosition | None:
        document = self.document
        if position is None or document is None or self.foreign():
            return None
        if self.observed.data is not DataState.PRESENT:
            return None
        if honest(self, position):
            return RankedPosition(
                max(e.term for e in document.timelines if e.confirmed), position.lsn
            )
        return rank(document.timelines, position)

    patch.set(Core, "ranked", ranked)
    patch.set(Core, "diverged", lambda *_: False)


def _better_ignored(patch: Patch) -> None:
    patch.set(quorum, "_better", lambda *_: None)


def _never_catches_up(patch: Patch) -> None:
    patch.set(quorum, "source_ahead", lambda *_: None)


def _source_position_taken(patch: Patch) -> None:
    """Take what the source has for what the candidate has, and that without getting it.

    To be judged too soon alone loses nothing: there is a moment until the promotion, in which it
    comes.
    """
    honest = Candidate.promises

    def hasty(self: Candidate) -> dict[NodeId, Promise]:
        promises, catching_up = honest(self), self.catch_up
        if catching_up is not None and catching_up.term == self.term:
            own, source = promises[self.core.node], promises[catching_up.source]
            promises[own.node] = replace(own, detached=True, position=source.position)
        return promises

    patch.set(Candidate, "promises", hasty)
    for module in (catchup, wants):
        patch.set(module, "under_way", lambda _: None)


def _invited_amid_a_record(patch: Patch) -> None:
    honest = office.may_invite

    def hasty(core: Core, document: ClusterDocument, term: Term) -> bool:
        core.observed = replace(core.observed, whole=True)
        return honest(core, document, term)

    patch.set(leader, "may_invite", hasty)


ELECTIONS = (
    Mutation("half_is_a_majority", "§4.2", "half of the voters count as a majority",
             _half_is_a_majority),
    Mutation("vote_given_twice", "§4.3.3", "a voter gives its vote twice in a term",
             _vote_given_twice),
    Mutation("vote_forgotten", "§4.1", "the vote is not part of the durable record",
             _vote_forgotten),
    Mutation("lower_term_accepted", "§4.3.3c", "heartbeats and documents of lower terms are "
             "accepted after a promise", _lower_term_accepted),
    Mutation("data_quorum_ignored", "§4.2", "a majority of votes is enough to lead",
             _data_quorum_ignored),
    Mutation("positions_ignored", "§4.2", "a data quorum counts whatever WAL its members have",
             _positions_ignored),
    Mutation("one_short_of_the_data_quorum", "§4.2", "|S| − k promises are taken for a data quorum",
             _one_short_of_the_data_quorum),
    Mutation("any_data_counts", "§4.1", "a listed node counts although its data were replaced",
             _any_data_counts),
    Mutation("promise_before_detached", "§4.3.3d", "the vote is answered before the WAL receiver "
             "is gone", _promise_before_detached, measured=True),
    Mutation("running_primary_promises", "§4.3.3", "a primary promises before its processes are "
             "verified gone", _running_primary_promises, measured=True),
    Mutation("stale_document_used", "§4.2", "a candidate ignores newer documents of its voters",
             _stale_document_used),
    Mutation("acts_before_commit", "§4.1", "the leader acts on a document that no majority has",
             _acts_before_commit),
    Mutation("old_primary_left_out", "§4.3.4", "the next sync set leaves the old primary out",
             _old_primary_left_out, measured=True),
    Mutation("sync_set_emptied_by_election", "§4.3.4", "an election empties the sync set",
             _sync_set_emptied_by_election, measured=True),
    Mutation("timeline_reused", "§4.3.4", "a timeline number that was reserved in vain is used "
             "again", _timeline_reused, measured=True),
    Mutation("promise_not_kept_by_follower", "§4.3.3c", "a standby attaches again to the primary "
             "that it has promised to leave", _promise_not_kept_by_follower),
    Mutation("lost_record_votes", "§4.1", "a voter without its record votes as if it were new",
             _lost_record_votes),
    Mutation("diverged_counts", "§4.3.5", "a server off the document's history stands and counts "
             "as if it were on it", _diverged_counts),
    Mutation("better_ignored", "§4.2", "a candidate does not give way to one with more WAL",
             _better_ignored),
    Mutation("never_catches_up", "§4.2", "a candidate behind one that cannot lead waits for others",
             _never_catches_up),
    Mutation("invited_amid_a_record", "§4.5", "standbys connect before the promotion although part "
             "of a record was received in whose place it will write", _invited_amid_a_record),
    Mutation("source_position_taken", "§4.2", "a candidate that is to catch up is judged by what "
             "the other one has, and not by what is on its own disk", _source_position_taken),
)  # fmt: skip
